//! What the connection alone decides: computed once per connection and port, kept for as long as the policies are in force.

use super::rule::From;

/// How a connection stands with the policies of a set. Means nothing to another set.
#[derive(Debug)]
pub struct Standing {
    pub(super) deny: Live,
    pub(super) allow: Live,
    pub(super) dry_deny: Live,
    pub(super) dry_allow: Live,
}

/// The units of one table that a request on the connection can still match.
#[derive(Debug)]
pub(super) struct Live {
    /// The first unit that matches whatever the request says. Units behind it do not matter.
    pub(super) settled: u32,
    units: Units,
}

#[derive(Debug)]
enum Units {
    /// So few that looking at each costs less than the index.
    Few(Box<[(u32, From)]>),
    /// Two bits for each: live, and `from` settled.
    Many {
        live: Box<[u64]>,
        settled: Box<[u64]>,
    },
}

/// Up to how many units are looked at one by one.
const FEW: usize = 4;
/// No unit.
pub(super) const NONE: u32 = u32::MAX;

impl Live {
    /// From the live units, in order, of a table with `count` units.
    pub(super) fn new(count: usize, settled: u32, live: Vec<(u32, From)>) -> Self {
        let units = if live.len() <= FEW {
            Units::Few(live.into())
        } else {
            let words = count.div_ceil(64);
            let (mut bits, mut settled) = (vec![0; words], vec![0; words]);
            for (unit, from) in live {
                let (word, bit) = place(unit);
                bits[word] |= bit;
                if from == From::Settled {
                    settled[word] |= bit;
                }
            }
            Units::Many {
                live: bits.into(),
                settled: settled.into(),
            }
        };
        Self { settled, units }
    }

    /// The live units when they are few.
    pub(super) fn few(&self) -> Option<&[(u32, From)]> {
        match &self.units {
            Units::Few(units) => Some(units),
            Units::Many { .. } => None,
        }
    }

    /// How far the connection satisfies `from` of a unit; `None` when the unit cannot match.
    pub(super) fn from(&self, unit: u32) -> Option<From> {
        let (word, bit) = place(unit);
        match &self.units {
            Units::Few(units) => units
                .iter()
                .find(|(u, _)| *u == unit)
                .map(|(_, from)| *from),
            Units::Many { live, settled } => {
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
