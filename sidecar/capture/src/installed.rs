//! What the kernel holds, compared with what it should hold. Pure: the kernel's answers are read elsewhere.

use std::fmt;

use crate::expr::Expr;
use crate::ruleset::{Chain, Rule, Ruleset};
use crate::wire::Writer;

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
            rules: chain.rules.iter().map(Rule::expressions).collect(),
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
        let mut writer = Writer::default();
        for chain in chains {
            writer.nested(1, |w| chain.write(w));
            for rule in &chain.rules {
                writer.nested(2, |w| rule.iter().for_each(|expr| expr.write(w)));
            }
        }
        writer
            .into_bytes()
            .into_iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

impl ChainShape {
    /// Everything about the chain except its rules.
    fn write(&self, writer: &mut Writer) {
        writer.text(1, &self.name);
        writer.text(2, &self.base.kind);
        if let Some((hook, priority)) = self.base.hook {
            writer.number(3, hook);
            writer.number(4, priority.cast_unsigned());
        }
        if let Some(policy) = self.base.policy {
            writer.number(5, policy);
        }
    }
}

impl Base {
    fn of(chain: &Chain) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CaptureConfig;

    fn ruleset() -> Ruleset {
        Ruleset::new(&CaptureConfig::default()).unwrap()
    }

    /// A change of the kernel's table and what each comparison says about it.
    type Case = (fn(&mut Shape), &'static str, &'static str);

    #[test]
    fn every_change_is_found_with_and_without_the_configuration() {
        let differs = "the rules differ from those that were programmed";
        let cases: [Case; 9] = [
            (|shape| shape.dormant = true, "switched off", "switched off"),
            (
                |shape| shape.chains.retain(|chain| chain.name != "output"),
                "chain `output`",
                "chain `output`",
            ),
            (
                |shape| shape.chains[0].rules.truncate(1),
                "rule `meta l4proto tcp counter redirect to :15001` of chain `output`",
                "chain `output` has 1 rules; 3 were programmed",
            ),
            (
                |shape| shape.chains[0].rules.insert(0, vec![Expr::Return]),
                "chain `output` has a rule of somebody else (number 1)",
                "chain `output` has 4 rules; 3 were programmed",
            ),
            (
                |shape| shape.chains[1].rules[0] = vec![Expr::Return],
                "rule `iifname \"lo\" return` of chain `prerouting`",
                differs,
            ),
            (
                |shape| shape.chains[0].rules.swap(0, 2),
                "the rules of chain `output` are in another order",
                differs,
            ),
            (
                |shape| shape.chains[0].base.hook = None,
                "chain `output` is attached as nothing (no hook)",
                differs,
            ),
            (
                |shape| shape.chains[0].base.policy = Some(0),
                "policy drop instead of type nat, hook 3, priority -100, policy accept",
                differs,
            ),
            (
                |shape| {
                    shape.chains.push(ChainShape {
                        name: "extra".to_owned(),
                        ..ChainShape::default()
                    });
                },
                "chain `extra` was added by somebody else",
                differs,
            ),
        ];
        let comment = Shape::of(&ruleset()).table_comment();
        for (change, with, without) in cases {
            let mut shape = Shape::of(&ruleset());
            change(&mut shape);
            let counters = Counters::default();
            let checked = Installed::against_ruleset(&shape, counters, &ruleset());
            let described = Installed::against_comment(&shape, counters, &comment);
            for (installed, says) in [(checked, with), (described, without)] {
                assert!(!installed.matches);
                let all = installed.missing.join("; ");
                assert!(all.contains(says), "expected {says:?} in {all:?}");
            }
        }
    }

    #[test]
    fn an_unchanged_table_matches_in_any_order_of_its_chains() {
        let comment = Shape::of(&ruleset()).table_comment();
        let mut shape = Shape::of(&ruleset());
        shape.chains.reverse();
        let counters = Counters {
            outbound: 3,
            inbound: 4,
        };
        let checked = Installed::against_ruleset(&shape, counters, &ruleset());
        assert_eq!(
            checked,
            Installed::against_comment(&shape, counters, &comment)
        );
        assert!(checked.matches);
        assert_eq!(checked.outbound_connections, 3);
        assert_eq!(checked.inbound_connections, 4);
    }

    #[test]
    fn other_rules_than_the_expected_ones_do_not_match() {
        let other = CaptureConfig {
            outbound_port: 4140,
            ..CaptureConfig::default()
        };
        let shape = Shape::of(&Ruleset::new(&other).unwrap());
        let checked = Installed::against_ruleset(&shape, Counters::default(), &ruleset());
        assert!(!checked.matches);
        assert!(
            checked.missing[0].contains("redirect to :15001"),
            "{checked:?}"
        );
    }

    #[test]
    fn a_table_without_our_description_does_not_match() {
        let shape = Shape::of(&ruleset());
        for comment in [
            "",
            "postern capture",
            "postern capture output=x digest=1",
            "other",
        ] {
            let described = Installed::against_comment(&shape, Counters::default(), comment);
            assert!(!described.matches, "{comment:?}");
            assert!(described.missing[0].contains("not programmed by Postern"));
        }
    }
}
