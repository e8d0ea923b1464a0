//! What the kernel holds, compared with what it should hold. Pure: the kernel's answers are read elsewhere.

use std::fmt;

use crate::expr::Expr;
use crate::ruleset::Ruleset;

/// The state of the table `inet postern` in the current network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Installed {
    /// True when nothing is missing, added or changed.
    pub matches: bool,
    /// What is missing, added or changed, one phrase each; empty when `matches`.
    pub missing: Vec<String>,
    /// Outbound connections redirected since the rules were programmed.
    pub outbound_connections: u64,
    /// Inbound connections redirected since the rules were programmed.
    pub inbound_connections: u64,
}

/// A table without names for its rules: what the kernel gives back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shape {
    pub(crate) dormant: bool,
    pub(crate) chains: Vec<ChainShape>,
}

/// A chain of a [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChainShape {
    pub(crate) name: String,
    pub(crate) base: Base,
    pub(crate) rules: Vec<Vec<Expr>>,
}

/// Where and how a chain is attached. A chain that is attached nowhere has no hook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Base {
    pub(crate) kind: String,
    pub(crate) hook: Option<(u32, i32)>,
    /// `NF_ACCEPT` is 1, `NF_DROP` 0.
    pub(crate) policy: Option<u32>,
}

/// Packets counted by the redirect rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) outbound: u64,
    pub(crate) inbound: u64,
}

impl Installed {
    fn new(missing: Vec<String>, counters: Counters) -> Self {
        Self {
            matches: missing.is_empty(),
            missing,
            outbound_connections: counters.outbound,
            inbound_connections: counters.inbound,
        }
    }

    /// Compares the kernel's table with the rules that should be there.
    pub(crate) fn against_ruleset(actual: &Shape, counters: Counters, expected: &Ruleset) -> Self {
        let mut missing = dormant(actual);
        for chain in &expected.chains {
            let expected_rules: Vec<_> = chain
                .rules
                .iter()
                .map(|rule| (rule.expressions(), format!("`{rule}`")))
                .collect();
            let Some(found) = actual.chain(chain.name) else {
                missing.push(format!("chain `{}`", chain.name));
                continue;
            };
            if found.base != Base::of(chain) {
                missing.push(format!(
                    "chain `{}` is attached as {} instead of {}",
                    chain.name,
                    found.base,
                    Base::of(chain)
                ));
            }
            compare_rules(chain.name, &expected_rules, &found.rules, &mut missing);
        }
        for chain in &actual.chains {
            if !expected.chains.iter().any(|known| known.name == chain.name) {
                missing.push(format!("chain `{}` was added by somebody else", chain.name));
            }
        }
        Self::new(missing, counters)
    }

    /// Compares the kernel's table with what its comment says was programmed.
    pub(crate) fn against_comment(actual: &Shape, counters: Counters, comment: &str) -> Self {
        let mut missing = dormant(actual);
        let found = Summary::of(actual);
        match Summary::parse(comment) {
            None => missing.push(
                "the table carries no description of its rules: it was not programmed by Postern, or the kernel is older \
                 than 5.10"
                    .to_owned(),
            ),
            Some(programmed) => {
                for (name, count) in &programmed.chains {
                    match found.chains.iter().find(|(other, _)| other == name) {
                        None => missing.push(format!("chain `{name}`")),
                        Some((_, now)) if now != count => missing.push(format!(
                            "chain `{name}` has {now} rules; {count} were programmed"
                        )),
                        Some(_) => {}
                    }
                }
                if missing.is_empty() && programmed != found {
                    missing.push("the rules differ from those that were programmed".to_owned());
                }
            }
        }
        Self::new(missing, counters)
    }
}

fn dormant(actual: &Shape) -> Vec<String> {
    if actual.dormant {
        vec!["the table is switched off (flag `dormant`)".to_owned()]
    } else {
        Vec::new()
    }
}

/// Names what is missing; only if nothing is, what is too many or out of order.
fn compare_rules(
    chain: &str,
    expected: &[(Vec<Expr>, String)],
    actual: &[Vec<Expr>],
    missing: &mut Vec<String>,
) {
    let before = missing.len();
    let mut left: Vec<_> = actual.iter().enumerate().collect();
    for (rule, text) in expected {
        match left.iter().position(|(_, found)| *found == rule) {
            Some(position) => {
                left.remove(position);
            }
            None => missing.push(format!("rule {text} of chain `{chain}`")),
        }
    }
    for (position, _) in left {
        missing.push(format!(
            "chain `{chain}` has a rule of somebody else (number {})",
            position + 1
        ));
    }
    let in_order = actual.iter().eq(expected.iter().map(|(rule, _)| rule));
    if missing.len() == before && !in_order {
        missing.push(format!("the rules of chain `{chain}` are in another order"));
    }
}

impl Shape {
    /// What the kernel gives back when `ruleset` was programmed.
    pub(crate) fn of(ruleset: &Ruleset) -> Self {
        let chains = ruleset.chains.iter().map(|chain| ChainShape {
            name: chain.name.to_owned(),
            base: Base::of(chain),
            rules: chain.rules.iter().map(|rule| rule.expressions()).collect(),
        });
        Self {
            dormant: false,
            chains: chains.collect(),
        }
    }

    fn chain(&self, name: &str) -> Option<&ChainShape> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The text that the table carries.
    pub(crate) fn table_comment(&self) -> String {
        Summary::of(self).to_string()
    }

    /// FNV-1a over everything that decides about packets. It guards against accidents, not against an attacker: who can
    /// change the rules can change the comment.
    fn digest(&self) -> u64 {
        let mut chains: Vec<_> = self.chains.iter().collect();
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        format!("{chains:?}")
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

impl Base {
    fn of(chain: &crate::ruleset::Chain) -> Self {
        Self {
            kind: "nat".to_owned(),
            hook: Some((chain.hook.number(), chain.priority)),
            policy: Some(1),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((hook, priority)) = self.hook else {
            return f.write_str("nothing (no hook)");
        };
        let policy = match self.policy {
            Some(1) | None => "accept",
            Some(_) => "drop",
        };
        write!(
            f,
            "type {}, hook {hook}, priority {priority}, policy {policy}",
            self.kind
        )
    }
}

/// The short description in the table's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Summary {
    chains: Vec<(String, usize)>,
    digest: u64,
}

const COMMENT_START: &str = "postern capture";

impl Summary {
    fn of(shape: &Shape) -> Self {
        let mut chains: Vec<_> = shape
            .chains
            .iter()
            .map(|chain| (chain.name.clone(), chain.rules.len()))
            .collect();
        chains.sort();
        Self {
            chains,
            digest: shape.digest(),
        }
    }

    fn parse(comment: &str) -> Option<Self> {
        let mut chains = Vec::new();
        let mut digest = None;
        for word in comment.strip_prefix(COMMENT_START)?.split_whitespace() {
            match word.split_once('=')? {
                ("digest", value) => digest = Some(u64::from_str_radix(value, 16).ok()?),
                (chain, count) => chains.push((chain.to_owned(), count.parse().ok()?)),
            }
        }
        Some(Self {
            chains,
            digest: digest?,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(COMMENT_START)?;
        for (name, count) in &self.chains {
            write!(f, " {name}={count}")?;
        }
        write!(f, " digest={:016x}", self.digest)
    }
}
