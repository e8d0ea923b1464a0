//! The rules of one effect, in the order of their policies: which is the first that matches?

use std::sync::Arc;

use super::facts::{Effect, Facts};
use super::rule::Rule;

/// Rules with one effect.
#[derive(Debug)]
pub(super) struct Table {
    effect: Effect,
    /// Names of the policies, `namespace/name`.
    policies: Vec<Arc<str>>,
    rules: Vec<Rule>,
    /// Rules that look at scopes.
    scoped: Vec<u32>,
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
            if !rule.rest.capabilities.is_empty() {
                self.scoped.push(at);
            }
            self.rules.push(rule);
        }
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
