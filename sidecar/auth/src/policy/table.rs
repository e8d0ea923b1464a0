//! The rules of one effect, in the order of their policies: which is the first that matches?

use std::ops::ControlFlow;
use std::sync::Arc;

use super::facts::{Effect, Facts};
use super::index::{Builder, Demands, Index, Shares};
use super::rule::{Fit, From, Operation, Ports, RequestOperation, Rule};
use super::standing::{Led, Live};

/// Rules with one effect.
#[derive(Debug)]
pub(super) struct Table {
    effect: Effect,
    /// True if the first rule that matches decides; false if every one is told.
    decides: bool,
    /// Names of the policies, `namespace/name`.
    policies: Vec<Arc<str>>,
    rules: Vec<Rule>,
    /// What can match on its own, in the order of the rules.
    units: Vec<Unit>,
    /// The ports of each unit.
    ports: Vec<Option<Box<Ports>>>,
    /// Units that no connection rules out, in order.
    free: Vec<u32>,
    /// The first unit that matches whatever connection and request say.
    settled: u32,
    /// Leads connections to the units that are not free.
    connections: Index,
    /// Leads requests to the units that are looked for by what a request has.
    requests: Index,
}

/// One operation of a rule, or a rule without operations. One cache line, which most looks at it need no other than.
#[derive(Debug)]
#[repr(align(64))]
struct Unit {
    rule: u32,
    /// What every connection makes of it; `None`: that depends.
    free: Option<From>,
    /// True if the index of requests leads to it.
    led: bool,
    /// True if nothing but the operation is left for the request where `from` is settled.
    bare: bool,
    /// What the operation asks of the request.
    request: Option<RequestOperation>,
}

const _: () = assert!(size_of::<Unit>() == 64);

/// Up to how many units looking at each costs less than an index.
const FEW: usize = 4;
/// Up to how many units that share what they demand of a connection are looked at for each of its requests: finding them by
/// what requests have would cost every request on every connection a look.
const OWN: usize = 2;
/// How much more it costs to look at a unit than to find it dead.
const DEAD: usize = 8;

/// What a table says of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// The first rule that matches.
    Rule(Matched<'a>),
    /// None; the scope that would have made one match.
    Nothing(Option<&'a str>),
}

/// The rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    pub(super) policy: &'a str,
    /// Index of the policy in the table.
    pub(super) index: u32,
    pub(super) rule: u32,
}

impl Table {
    pub(super) fn new(effect: Effect) -> Self {
        Self {
            effect,
            decides: true,
            policies: Vec::new(),
            rules: Vec::new(),
            units: Vec::new(),
            ports: Vec::new(),
            free: Vec::new(),
            settled: NONE,
            connections: Index::default(),
            requests: Index::default(),
        }
    }

    /// One of which every policy that matches is told.
    pub(super) fn telling() -> Self {
        Self {
            decides: false,
            ..Self::new(Effect::Permit)
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
    pub(super) fn push(&mut self, name: Arc<str>, rules: Vec<(Rule, Vec<Operation>)>) {
        self.policies.push(name);
        for (rule, mut operations) in rules {
            if operations.is_empty() {
                operations.push(Operation::default());
            }
            for Operation { ports, request } in operations {
                self.units.push(Unit {
                    rule: index(self.rules.len()),
                    free: None,
                    led: false,
                    bare: rule.rest.is_none(),
                    request,
                });
                self.ports.push(ports);
            }
            self.rules.push(rule);
        }
    }

    /// Builds the indexes; before, [`Self::first`] finds nothing.
    ///
    /// What is free hangs in the index of requests. What is not hangs in that of connections; and in that of requests too,
    /// unless too many share what it demands of a request.
    pub(super) fn finish(&mut self) {
        let demands: Vec<(Demands, Demands)> = self
            .units
            .iter()
            .zip(&self.ports)
            .map(|(unit, ports)| {
                let rule = &self.rules[unit.rule as usize];
                let of_connection = rule.demands_of_connection(ports.as_deref());
                let of_request = rule.demands_of_request(unit.request.as_ref(), self.effect);
                (of_connection, of_request)
            })
            .collect();
        let of_connections = Shares::of(demands.iter().map(|(demands, _)| demands));
        let of_requests = Shares::of(demands.iter().map(|(_, demands)| demands));
        let (mut connections, mut requests) = (Builder::default(), Builder::default());
        for (at, (of_connection, of_request)) in (0..).zip(&demands) {
            let unit = &self.units[at as usize];
            let ports = self.ports[at as usize].as_deref();
            let free = self.rules[unit.rule as usize].on_every_connection(ports);
            let request = of_requests.best(of_request);
            let mut led = request.is_some() || free.is_some();
            if let Some(from) = free {
                requests.hang(at, request.map(|(_, keys)| keys));
                let settled = self.decides && unit.is_settled(from);
                self.free.push(at);
                if settled && self.settled == NONE {
                    self.settled = at;
                }
            } else {
                let connection = of_connections.best(of_connection);
                connections.hang(at, connection.map(|(_, keys)| keys));
                let fewest = connection.map_or(usize::MAX, |(count, _)| count);
                if let Some((count, keys)) = request {
                    led = fewest > OWN && count / DEAD <= fewest;
                    if led {
                        requests.hang(at, Some(keys));
                    }
                }
            }
            let unit = &mut self.units[at as usize];
            (unit.free, unit.led) = (free, led);
        }
        self.connections = connections.finish();
        self.requests = requests.finish();
    }

    /// What the connection makes of the units.
    pub(super) fn live(&self, facts: &Facts<'_>) -> Live {
        let mut candidates = Vec::new();
        self.connections.look_up(facts, self.effect, |units| {
            candidates.extend_from_slice(units);
        });
        candidates.sort_unstable();
        candidates.dedup();
        let mut settled = self.settled;
        let (mut own, mut led) = (Vec::new(), Vec::new());
        let mut last = (NONE, None);
        for at in candidates {
            if at >= settled {
                break;
            }
            let unit = &self.units[at as usize];
            if last.0 != unit.rule {
                let rule = &self.rules[unit.rule as usize];
                last = (unit.rule, rule.on_connection(facts));
            }
            let Some(from) = last.1 else { continue };
            if !self.has_port(at as usize, facts) {
                continue;
            }
            if self.decides && unit.is_settled(from) {
                settled = at;
                break;
            }
            let list = if unit.led { &mut led } else { &mut own };
            list.push((at, from));
        }
        if self.free.len() + own.len() + led.len() <= FEW {
            let free = self.free.iter();
            own.extend(free.filter_map(|at| Some((*at, self.units[*at as usize].free?))));
            own.append(&mut led);
            own.sort_unstable_by_key(|(at, _)| *at);
            return Live {
                settled,
                own: own.into(),
                led: None,
            };
        }
        Live {
            settled,
            own: own.into(),
            led: Some(Led::new(self.units.len(), led)),
        }
    }

    /// The first rule that matches the request, on a connection that stands as `live` says.
    pub(super) fn first(&self, live: &Live, facts: &Facts<'_>) -> Found<'_> {
        let (mut best, mut lacking) = (live.settled, (NONE, None));
        self.each(live, facts, |at, from| {
            if at >= best {
                return ControlFlow::Break(());
            }
            match self.fit(&self.units[at as usize], from, facts) {
                Fit::No => return ControlFlow::Continue(()),
                Fit::Lacks(scope) => {
                    if at < lacking.0 {
                        lacking = (at, Some(scope));
                    }
                    return ControlFlow::Continue(());
                }
                Fit::Matches => best = at,
            }
            // Each list is in order: behind the best there is nothing better.
            ControlFlow::Break(())
        });
        match self.units.get(best as usize) {
            Some(unit) => Found::Rule(self.matched(&self.rules[unit.rule as usize])),
            None => Found::Nothing(lacking.1),
        }
    }

    /// Every policy that matches the request, on a connection that stands as `live` says.
    pub(super) fn all(&self, live: &Live, facts: &Facts<'_>) -> Vec<Matched<'_>> {
        let mut matching = Vec::new();
        self.each(live, facts, |at, from| {
            if self.fit(&self.units[at as usize], from, facts) == Fit::Matches {
                matching.push(at);
            }
            ControlFlow::Continue(())
        });
        matching.sort_unstable();
        let rules = matching
            .iter()
            .map(|at| &self.rules[self.units[*at as usize].rule as usize]);
        let mut rules: Vec<_> = rules.collect();
        rules.dedup_by_key(|rule| rule.policy);
        rules.into_iter().map(|rule| self.matched(rule)).collect()
    }

    /// Calls `look` with the live units, list by list, each in order; what it breaks off is the list.
    fn each(
        &self,
        live: &Live,
        facts: &Facts<'_>,
        mut look: impl FnMut(u32, From) -> ControlFlow<()>,
    ) {
        let _ = live.own.iter().try_for_each(|(at, from)| look(*at, *from));
        let Some(led) = &live.led else { return };
        self.requests.look_up(facts, self.effect, |units| {
            let _ = units.iter().try_for_each(|at| {
                let free = self.units[*at as usize].free;
                match free.or_else(|| led.from(*at)) {
                    Some(from) => look(*at, from),
                    None => ControlFlow::Continue(()),
                }
            });
        });
    }

    /// The first rule that matches, looking at one after the other.
    pub(super) fn scan(&self, facts: &Facts<'_>) -> Found<'_> {
        let mut lacking = None;
        for (rule, fit) in self.fits(facts) {
            match fit {
                Fit::Matches => return Found::Rule(self.matched(rule)),
                Fit::Lacks(scope) => lacking = lacking.or(Some(scope)),
                Fit::No => {}
            }
        }
        Found::Nothing(lacking)
    }

    /// Every policy that matches, looking at one rule after the other.
    pub(super) fn every<'a>(&'a self, facts: &'a Facts<'a>) -> impl Iterator<Item = Matched<'a>> {
        let mut last = None;
        self.fits(facts)
            .filter(move |(rule, fit)| {
                if last == Some(rule.policy) || *fit != Fit::Matches {
                    return false;
                }
                last = Some(rule.policy);
                true
            })
            .map(|(rule, _)| self.matched(rule))
    }

    /// How each unit fits, with its rule; without an index.
    fn fits<'s, 'f>(
        &'s self,
        facts: &'f Facts<'f>,
    ) -> impl Iterator<Item = (&'s Rule, Fit<'s>)> + use<'s, 'f> {
        let mut last = (NONE, None);
        self.units.iter().enumerate().map(move |(at, unit)| {
            let rule = &self.rules[unit.rule as usize];
            if last.0 != unit.rule {
                last = (unit.rule, rule.on_connection(facts));
            }
            let fit = match last.1 {
                Some(from) if self.has_port(at, facts) => self.fit(unit, from, facts),
                _ => Fit::No,
            };
            (rule, fit)
        })
    }

    fn fit<'a>(&'a self, unit: &'a Unit, from: From, facts: &Facts<'_>) -> Fit<'a> {
        let request = unit.request.as_ref();
        if !request.is_none_or(|r| r.matches(facts, self.effect)) {
            Fit::No
        } else if unit.bare && from == From::Settled {
            Fit::Matches
        } else {
            self.rules[unit.rule as usize].on_request(facts, from, self.effect)
        }
    }

    fn has_port(&self, at: usize, facts: &Facts<'_>) -> bool {
        let ports = self.ports.get(at).and_then(Option::as_ref);
        ports.is_none_or(|ports| ports.hold(facts.connection.destination_port))
    }

    fn matched(&self, rule: &Rule) -> Matched<'_> {
        self.named(rule.policy, rule.position)
    }

    /// The rule at `rule` of the policy with this index.
    pub(super) fn named(&self, index: u32, rule: u32) -> Matched<'_> {
        let policy = self.policies.get(index as usize);
        Matched {
            policy: policy.map_or("", |name| &**name),
            index,
            rule,
        }
    }

    /// True if a verdict may depend on a header, or on the original client that headers name.
    pub(super) fn looks_at_headers(&self) -> bool {
        self.rules.iter().any(Rule::looks_at_headers)
    }
}

impl Unit {
    /// True if it matches whatever the request says on a connection that satisfies `from` of its rule as told.
    fn is_settled(&self, from: From) -> bool {
        from == From::Settled && self.bare && self.request.is_none()
    }
}

/// No unit.
const NONE: u32 = u32::MAX;

/// Positions are 32 bits: a set of policies that has more does not fit into a message.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::super::request::{Connection, Request};
    use super::super::trust::Trust;
    use super::*;
    use mesh_proto::mesh;

    #[test]
    fn a_request_looks_at_few_of_a_thousand_units() {
        let source = |source: mesh::PolicySource| mesh::PolicyRule {
            from: vec![source],
            ..Default::default()
        };
        let client = |i: u32| format!("10.{}.{}.0/24", i / 256, i % 256);
        type Of<'a> = &'a dyn Fn(u32) -> mesh::PolicyRule;
        let cases: [(&str, Of<'_>, usize); 4] = [
            (
                "a block of original clients",
                &|i| {
                    source(mesh::PolicySource {
                        remote_ip_blocks: vec![client(i)],
                        ..Default::default()
                    })
                },
                1,
            ),
            (
                "a block of sources",
                &|i| {
                    source(mesh::PolicySource {
                        ip_blocks: vec![client(i)],
                        ..Default::default()
                    })
                },
                1,
            ),
            (
                "a condition on the original client",
                &|i| mesh::PolicyRule {
                    when: vec![mesh::PolicyCondition {
                        key: "remote.ip".into(),
                        values: vec![client(i)],
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                1,
            ),
            (
                "a principal of its own, with a suffix of the path",
                &|i| mesh::PolicyRule {
                    to: vec![mesh::PolicyOperation {
                        paths: vec![format!("*{i}")],
                        ..Default::default()
                    }],
                    ..source(mesh::PolicySource {
                        principals: vec![format!("td/ns/n/sa/{i}")],
                        ..Default::default()
                    })
                },
                0,
            ),
        ];
        for (name, rule, expected) in cases {
            for effect in [Effect::Permit, Effect::Restrict] {
                let action = match effect {
                    Effect::Permit => mesh::PolicyAction::Allow,
                    Effect::Restrict => mesh::PolicyAction::Deny,
                };
                let policy = mesh::AuthorizationPolicy {
                    name: "p".into(),
                    namespace: "n".into(),
                    action: action.into(),
                    rules: (0..1_000).map(rule).collect(),
                    ..Default::default()
                };
                let mut table = Table::new(effect);
                let rules = compile::compile(&policy, 0, &Trust::default()).unwrap();
                table.push("n/p".into(), rules);
                table.finish();
                let connection = Connection {
                    peer: None,
                    source_ip: "10.1.7.9".parse().unwrap(),
                    destination_ip: "10.9.9.9".parse().unwrap(),
                    destination_port: 80,
                    sni: None,
                };
                let request = Request {
                    connection,
                    method: &http::Method::GET,
                    host: "h",
                    path: "/123",
                    headers: &http::HeaderMap::new(),
                    token: None,
                };
                let facts = Facts::new(&connection, None, 0);
                let mut looks = table.live(&facts).own.len();
                let mut count = |units: &[u32]| looks += units.len();
                table.connections.look_up(&facts, effect, &mut count);
                let facts = Facts::new(&connection, Some(&request), 0);
                table.requests.look_up(&facts, effect, &mut count);
                assert_eq!(looks, expected, "{name}, {effect:?}");
            }
        }
    }
}
