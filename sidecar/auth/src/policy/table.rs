//! The rules of one effect, in the order of their policies: which is the first that matches?

use std::sync::Arc;

use super::facts::{Effect, Facts};
use super::index::{Demands, Index};
use super::rule::{From, Operation, Rule};
use super::standing::{Live, NONE};

/// Rules with one effect.
#[derive(Debug)]
pub(super) struct Table {
    effect: Effect,
    /// Names of the policies, `namespace/name`.
    policies: Vec<Arc<str>>,
    rules: Vec<Rule>,
    /// What can match on its own, in the order of the rules.
    units: Vec<Unit>,
    index: Index,
    /// Rules that look at scopes.
    scoped: Vec<u32>,
}

/// One operation of a rule, or a rule without operations.
#[derive(Debug, Clone, Copy)]
struct Unit {
    rule: u32,
    /// [`NONE`] for a rule without operations.
    operation: u32,
}

/// The rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    pub(super) policy: &'a str,
    pub(super) rule: u32,
}

impl Table {
    pub(super) fn new(effect: Effect) -> Self {
        Self {
            effect,
            policies: Vec::new(),
            rules: Vec::new(),
            units: Vec::new(),
            index: Index::default(),
            scoped: Vec::new(),
        }
    }

    /// True without policies; one without rules counts.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The index that the next policy gets.
    pub(super) fn next_policy(&self) -> u32 {
        index(self.policies.len())
    }

    /// Adds a policy whose rules were compiled with [`Self::next_policy`].
    pub(super) fn push(&mut self, name: Arc<str>, rules: Vec<Rule>) {
        self.policies.push(name);
        for rule in rules {
            let at = index(self.rules.len());
            match index(rule.to.len()) {
                0 => self.units.push(Unit {
                    rule: at,
                    operation: NONE,
                }),
                count => self.units.extend((0..count).map(|operation| Unit {
                    rule: at,
                    operation,
                })),
            }
            if !rule.rest.capabilities.is_empty() {
                self.scoped.push(at);
            }
            self.rules.push(rule);
        }
    }

    /// Builds the index; before, [`Self::first`] finds nothing.
    pub(super) fn finish(&mut self) {
        let demands: Vec<Demands> = self
            .units
            .iter()
            .map(|unit| {
                let (rule, operation) = self.parts(*unit);
                rule.demands(operation, self.effect)
            })
            .collect();
        self.index = Index::build(self.effect, &demands);
    }

    fn parts(&self, unit: Unit) -> (&Rule, Option<&Operation>) {
        let rule = &self.rules[unit.rule as usize];
        (rule, rule.to.get(unit.operation as usize))
    }

    /// What the connection makes of the units.
    pub(super) fn live(&self, facts: &Facts<'_>) -> Live {
        let mut settled = NONE;
        let mut live = Vec::new();
        let mut last = (NONE, None);
        for (at, unit) in (0..).zip(&self.units) {
            let (rule, operation) = self.parts(*unit);
            if last.0 != unit.rule {
                last = (unit.rule, rule.on_connection(facts));
            }
            let Some(from) = last.1 else { continue };
            if !operation.is_none_or(|o| o.on_connection(facts)) {
                continue;
            }
            let needs_request = operation.is_some_and(|o| o.request.is_some());
            if from == From::Settled && !needs_request && rule.is_rest_empty() {
                settled = at;
                break;
            }
            live.push((at, from));
        }
        Live::new(self.units.len(), settled, live)
    }

    /// The first rule that matches the request, on a connection that stands as `live` says.
    pub(super) fn first(&self, live: &Live, facts: &Facts<'_>) -> Option<Matched<'_>> {
        let mut best = live.settled;
        let matches = |at: u32, from: From| {
            let (rule, operation) = self.parts(self.units[at as usize]);
            operation.is_none_or(|o| o.on_request(facts, self.effect))
                && rule.on_request(facts, from, self.effect)
        };
        if let Some(units) = live.few() {
            if let Some((at, _)) = units.iter().find(|(at, from)| matches(*at, *from)) {
                best = *at;
            }
        } else {
            self.index.look_up(facts, |units| {
                // Each list is in order: behind the best there is nothing better.
                for at in units.iter().take_while(|at| **at < best) {
                    if live.from(*at).is_some_and(|from| matches(*at, from)) {
                        best = *at;
                        return;
                    }
                }
            });
        }
        let unit = self.units.get(best as usize)?;
        Some(self.matched(self.parts(*unit).0))
    }

    /// The first rule that matches, looking at one after the other.
    pub(super) fn scan(&self, facts: &Facts<'_>) -> Option<Matched<'_>> {
        self.rules
            .iter()
            .find(|rule| self.matches(rule, facts))
            .map(|rule| self.matched(rule))
    }

    /// Every policy that matches.
    pub(super) fn every<'a>(&'a self, facts: &'a Facts<'a>) -> impl Iterator<Item = Matched<'a>> {
        let mut last = None;
        self.rules
            .iter()
            .filter(move |rule| {
                if last == Some(rule.policy) || !self.matches(rule, facts) {
                    return false;
                }
                last = Some(rule.policy);
                true
            })
            .map(|rule| self.matched(rule))
    }

    fn matches(&self, rule: &Rule, facts: &Facts<'_>) -> bool {
        (rule.to.is_empty()
            || rule
                .to
                .iter()
                .any(|o| o.on_connection(facts) && o.on_request(facts, self.effect)))
            && rule
                .on_connection(facts)
                .is_some_and(|from| rule.on_request(facts, from, self.effect))
    }

    /// The scope that would have made a rule match that matches but for it.
    pub(super) fn lacking_scope(&self, facts: &Facts<'_>) -> Option<&str> {
        self.scoped.iter().find_map(|at| {
            let rule = self.rules.get(*at as usize)?;
            let opens = rule
                .rest
                .capabilities
                .iter()
                .find(|c| c.has_route(facts, self.effect))?;
            let from = rule.on_connection(facts)?;
            let operation = rule.to.is_empty()
                || rule
                    .to
                    .iter()
                    .any(|o| o.on_connection(facts) && o.on_request(facts, self.effect));
            (operation && rule.but_for_scopes(facts, from, self.effect)).then_some(&*opens.scope)
        })
    }

    fn matched(&self, rule: &Rule) -> Matched<'_> {
        Matched {
            policy: self
                .policies
                .get(rule.policy as usize)
                .map_or("", |name| &**name),
            rule: rule.position,
        }
    }
}

/// Positions are 32 bits: a set of policies that has more does not fit into a message.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
