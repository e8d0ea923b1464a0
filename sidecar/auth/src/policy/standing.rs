//! What the connection alone decides: computed once per connection and port, kept for as long as the policies are in force.

use super::memo::Memo;
use super::rule::From;

/// How a connection stands with the policies of a set. Means nothing to another set.
#[derive(Debug)]
pub struct Standing {
    pub(super) deny: Live,
    pub(super) allow: Live,
    pub(super) audit: Live,
    pub(super) dry_deny: Live,
    pub(super) dry_allow: Live,
    /// What was decided of its requests, where it pays to remember.
    pub(super) memo: Option<Memo>,
}

/// The units of one table that a request on the connection can still match.
#[derive(Debug)]
pub(super) struct Live {
    /// The first unit that matches whatever the request says. Units behind it do not matter.
    pub(super) settled: u32,
    /// Those that are looked at for each request, in order.
    pub(super) own: Box<[(u32, From)]>,
    /// Those that the index of requests leads to; `None`: it leads to nothing that is not in `own`.
    pub(super) led: Option<Led>,
}

/// What the connection makes of units that depend on it.
#[derive(Debug)]
pub(super) enum Led {
    Few(Box<[(u32, From)]>),
    /// Two bits for each unit of the table: live, and `from` settled.
    Many {
        live: Box<[u64]>,
        settled: Box<[u64]>,
    },
}

/// Up to how many units finding one among them costs no more than a cache line that is not there.
const FEW: usize = 16;

impl Led {
    /// From the live units, in order, of a table with `count` units.
    pub(super) fn new(count: usize, units: Vec<(u32, From)>) -> Self {
        if units.len() <= FEW {
            return Self::Few(units.into());
        }
        let words = count.div_ceil(64);
        let (mut live, mut settled) = (vec![0; words], vec![0; words]);
        for (unit, from) in units {
            let (word, bit) = place(unit);
            live[word] |= bit;
            if from == From::Settled {
                settled[word] |= bit;
            }
        }
        Self::Many {
            live: live.into(),
            settled: settled.into(),
        }
    }

    /// How far the connection satisfies `from` of a unit; `None` when the unit cannot match.
    pub(super) fn from(&self, unit: u32) -> Option<From> {
        match self {
            Self::Few(units) => units
                .iter()
                .find(|(held, _)| *held == unit)
                .map(|(_, from)| *from),
            Self::Many { live, settled } => {
                let (word, bit) = place(unit);
                (live.get(word)? & bit != 0).then(|| match settled.get(word) {
                    Some(settled) if settled & bit != 0 => From::Settled,
                    _ => From::Open,
                })
            }
        }
    }
}

fn place(unit: u32) -> (usize, u64) {
    (unit as usize / 64, 1 << (unit % 64))
}
