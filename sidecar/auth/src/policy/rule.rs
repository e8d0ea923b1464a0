//! Compiled rules, in two parts: what the connection alone decides, and what is left for each request.

use std::collections::{HashMap, HashSet};

use super::attribute::Attribute;
use super::block::Blocks;
use super::facts::{Effect, Facts, claim, claim_holds, header_holds, host_holds, path_holds};
use super::field::{Field, Key};
use super::index::Demands;
use super::template::Paths;
use super::text::{List, Methods};
use crate::SpiffeId;

/// One rule, operations apart.
#[derive(Debug)]
pub(super) struct Rule {
    /// Index of the policy it belongs to.
    pub(super) policy: u32,
    /// Position in the policy.
    pub(super) position: u32,
    pub(super) from: Box<[Source]>,
    /// Conditions on the connection.
    pub(super) when: Box<[Condition]>,
    /// What is left for the request; `None` for nothing.
    pub(super) rest: Option<Box<Rest>>,
}

/// The part of a rule, operations apart, that needs the request.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) when: Vec<Condition>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) bound: bool,
}

/// One entry of `from`.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) principals: Option<List>,
    pub(super) namespaces: Option<List>,
    pub(super) accounts: Option<AccountList>,
    pub(super) blocks: Option<Blocks>,
    pub(super) request: Option<Box<RequestSource>>,
}

/// The part of a source that needs the request.
#[derive(Debug)]
pub(super) struct RequestSource {
    pub(super) principals: Option<List>,
    pub(super) remote: Option<Blocks>,
}

/// One entry of `to`.
#[derive(Debug, Default)]
pub(super) struct Operation {
    /// The part that the connection alone decides.
    pub(super) ports: Option<Box<Ports>>,
    pub(super) request: Option<RequestOperation>,
}

/// Ports that a connection must have one of, and those it must not have. Sorted.
#[derive(Debug)]
pub(super) struct Ports {
    /// Empty: any.
    pub(super) wanted: Vec<u16>,
    pub(super) unwanted: Vec<u16>,
}

/// The part of an operation that needs the request. Small: it is what most looks at a unit end with, and fits with the
/// unit into one cache line.
#[derive(Debug)]
pub(super) struct RequestOperation {
    pub(super) methods: Methods,
    pub(super) paths: Option<Paths>,
    pub(super) hosts: Option<Box<List>>,
    pub(super) not_paths: Option<Box<Paths>>,
}

/// One condition.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) attribute: Attribute,
    pub(super) test: Test,
}

/// How a condition looks at its attribute.
#[derive(Debug)]
pub(super) enum Test {
    Texts(List),
    Blocks(Blocks),
    Accounts(AccountList),
    Ports {
        wanted: Vec<u16>,
        unwanted: Vec<u16>,
    },
}

/// What one scope opens.
#[derive(Debug)]
pub(super) struct Capability {
    pub(super) scope: Box<str>,
    pub(super) routes: Vec<RequestOperation>,
}

/// Service accounts by namespace.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Box<str>, HashSet<Box<str>>>);

/// Service accounts that a peer must have one of, and those it must not have.
#[derive(Debug)]
pub(super) struct AccountList {
    pub(super) wanted: Option<Accounts>,
    pub(super) unwanted: Option<Accounts>,
}

/// How far the connection satisfies `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Whatever the request says.
    Settled,
    /// If the request says the right things.
    Open,
}

/// How a request fits a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit<'a> {
    No,
    /// But for this scope it would match.
    Lacks(&'a str),
    Matches,
}

impl Rule {
    /// True if it depends on a header, or on the original client that headers name.
    pub(super) fn looks_at_headers(&self) -> bool {
        let of_sources = self
            .from
            .iter()
            .filter_map(|source| source.request.as_ref());
        let of_rest = self.rest.iter().flat_map(|rest| &rest.when);
        of_sources.into_iter().any(|source| source.remote.is_some())
            || self.when.iter().chain(of_rest).any(|condition| {
                matches!(
                    condition.attribute,
                    Attribute::Header(_) | Attribute::RemoteIp
                )
            })
    }

    /// What the connection makes of conditions and sources; `None`: the rule cannot match on this connection.
    pub(super) fn on_connection(&self, facts: &Facts<'_>) -> Option<From> {
        if !self.when.iter().all(|c| c.holds(facts, Effect::Permit)) {
            return None;
        }
        if self.from.is_empty() {
            return Some(From::Settled);
        }
        let mut open = None;
        for source in &self.from {
            if source.on_connection(facts) {
                match source.request {
                    None => return Some(From::Settled),
                    Some(_) => open = Some(From::Open),
                }
            }
        }
        open
    }

    /// What every connection makes of the rule with an operation of these ports; `None`: that depends on the connection.
    pub(super) fn on_every_connection(&self, ports: Option<&Ports>) -> Option<From> {
        if ports.is_some()
            || !self.when.is_empty()
            || self.from.iter().any(Source::needs_connection)
        {
            return None;
        }
        Some(if self.from.is_empty() {
            From::Settled
        } else {
            From::Open
        })
    }

    /// What a connection must have for the rule with an operation of these ports to match; see [`super::index`].
    pub(super) fn demands_of_connection(&self, ports: Option<&Ports>) -> Demands {
        let mut demands = Demands::new();
        let sources: Option<Vec<_>> = self.from.iter().map(Source::keys_of_connection).collect();
        demands.extend(sources.filter(|s| !s.is_empty()).map(|s| s.concat()));
        demands.extend(self.when.iter().filter_map(Condition::keys));
        let ports = ports.map_or(&[][..], |ports| &ports.wanted);
        if !ports.is_empty() {
            let key = |port: &u16| Key::exact(Field::Port, port.to_string());
            demands.push(ports.iter().map(key).collect());
        }
        demands
    }

    /// What a request must have for the rule with this operation to match, scopes apart; see [`super::index`].
    pub(super) fn demands_of_request(
        &self,
        operation: Option<&RequestOperation>,
        effect: Effect,
    ) -> Demands {
        let mut demands = Demands::new();
        if let Some(request) = operation {
            demands.extend(request.paths.as_ref().and_then(Paths::keys));
            let hosts = request.hosts.as_ref().and_then(|list| list.wanted.as_ref());
            demands.extend(hosts.and_then(|texts| texts.keys(&Field::Host)));
            demands.extend(request.methods.keys());
        }
        let sources = self.from.iter().map(|source| {
            let RequestSource { principals, remote } = &**source.request.as_ref()?;
            let texts = principals.as_ref().and_then(|list| list.wanted.as_ref());
            texts
                .and_then(|texts| texts.keys(&Field::TokenPrincipal))
                .or_else(|| remote.as_ref()?.keys(&Field::RemoteIp))
        });
        let sources: Option<Vec<_>> = sources.collect();
        demands.extend(sources.filter(|s| !s.is_empty()).map(|s| s.concat()));
        let Some(rest) = &self.rest else {
            return demands;
        };
        let routes = rest.capabilities.iter().flat_map(|c| &c.routes);
        let routes = routes.map(|route| route.paths.as_ref().and_then(Paths::keys));
        let routes: Option<Vec<_>> = routes.collect();
        demands.extend(routes.filter(|r| !r.is_empty()).map(|r| r.concat()));
        // Who denies also acts on what is not said in so many words: a header that is not ASCII, a number for a text. An
        // address that cannot be told has a key.
        let when = rest.when.iter().filter(|condition| {
            effect == Effect::Permit || matches!(condition.test, Test::Blocks(_))
        });
        demands.extend(when.filter_map(Condition::keys));
        demands
    }

    /// What is left when [`Self::on_connection`] said `from` and an operation matches.
    pub(super) fn on_request(&self, facts: &Facts<'_>, from: From, effect: Effect) -> Fit<'_> {
        let Some(rest) = &self.rest else {
            return match self.is_from(facts, from, effect) {
                true => Fit::Matches,
                false => Fit::No,
            };
        };
        let opens = rest
            .capabilities
            .iter()
            .find(|c| c.has_route(facts, effect));
        if opens.is_none() && !rest.capabilities.is_empty()
            || !rest.but_for_scopes(facts, effect)
            || !self.is_from(facts, from, effect)
        {
            return Fit::No;
        }
        match opens {
            Some(opens) if !rest.is_opened(facts, effect) => Fit::Lacks(&opens.scope),
            _ => Fit::Matches,
        }
    }

    fn is_from(&self, facts: &Facts<'_>, from: From, effect: Effect) -> bool {
        let mut sources = self.from.iter();
        from == From::Settled
            || sources.any(|s| s.on_connection(facts) && s.on_request(facts, effect))
    }
}

impl Rest {
    /// What is left, or `None` for nothing.
    pub(super) fn of(self) -> Option<Box<Self>> {
        let nothing = self.when.is_empty() && self.capabilities.is_empty() && !self.bound;
        (!nothing).then(|| Box::new(self))
    }

    fn but_for_scopes(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        self.when.iter().all(|c| c.holds(facts, effect)) && (!self.bound || is_bound(facts))
    }

    fn is_opened(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        let Some(token) = facts.token() else {
            return false;
        };
        self.capabilities.iter().any(|capability| {
            token.scopes().contains(&capability.scope) && capability.has_route(facts, effect)
        })
    }
}

impl Capability {
    fn has_route(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        self.routes.iter().any(|route| route.matches(facts, effect))
    }
}

/// True if the token is bound to a certificate. That it is the peer's was checked when it was verified.
fn is_bound(facts: &Facts<'_>) -> bool {
    facts.connection.peer.is_some()
        && facts.token().is_some_and(|token| {
            claim(token, &["cnf".into(), "x5t#S256".into()])
                .is_some_and(|value| value.as_str().is_some())
        })
}

impl Source {
    fn needs_connection(&self) -> bool {
        self.principals.is_some()
            || self.namespaces.is_some()
            || self.accounts.is_some()
            || self.blocks.is_some()
    }

    /// The values of which a connection must have one; the most telling field that has any.
    fn keys_of_connection(&self) -> Option<Vec<Key>> {
        let texts = |list: &Option<List>, field| list.as_ref()?.wanted.as_ref()?.keys(field);
        let accounts = self.accounts.as_ref().and_then(AccountList::keys);
        texts(&self.principals, &Field::Peer)
            .or(accounts)
            .or_else(|| texts(&self.namespaces, &Field::Namespace))
            .or_else(|| self.blocks.as_ref()?.keys(&Field::SourceIp))
    }

    pub(super) fn on_connection(&self, facts: &Facts<'_>) -> bool {
        let peer = facts.connection.peer;
        let principals = self.principals.as_ref();
        let namespaces = self.namespaces.as_ref();
        principals.is_none_or(|list| list.hold(peer.map(SpiffeId::without_scheme)))
            && namespaces.is_none_or(|list| list.hold(peer.and_then(SpiffeId::namespace)))
            && self.accounts.as_ref().is_none_or(|a| a.hold(peer))
            && self
                .blocks
                .as_ref()
                .is_none_or(|b| b.hold(facts.connection.source_ip))
    }

    pub(super) fn on_request(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        self.request.as_ref().is_none_or(|source| {
            source
                .principals
                .as_ref()
                .is_none_or(|list| match facts.request {
                    None => effect.of_unknown(),
                    Some(request) => list.hold(request.token.and_then(|t| t.principal())),
                })
                && source.remote.as_ref().is_none_or(|blocks| {
                    facts
                        .remote_ip()
                        .map_or(effect.of_unknown(), |ip| blocks.hold(ip))
                })
        })
    }
}

impl Ports {
    pub(super) fn hold(&self, port: u16) -> bool {
        (self.wanted.is_empty() || self.wanted.binary_search(&port).is_ok())
            && self.unwanted.binary_search(&port).is_err()
    }
}

impl RequestOperation {
    pub(super) fn matches(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        let Some(request) = facts.request else {
            return effect.of_unknown();
        };
        // What costs least first.
        self.methods.hold(request.method)
            && path_holds(
                self.paths.as_ref(),
                self.not_paths.as_deref(),
                facts,
                request.path,
                effect,
            )
            && self
                .hosts
                .as_ref()
                .is_none_or(|list| host_holds(list, request.host, effect))
    }
}

impl Condition {
    pub(super) fn holds(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        let peer = facts.connection.peer;
        match (&self.attribute, &self.test) {
            (Attribute::SourceIp, Test::Blocks(blocks)) => blocks.hold(facts.connection.source_ip),
            (Attribute::DestinationIp, Test::Blocks(blocks)) => {
                blocks.hold(facts.connection.destination_ip)
            }
            (Attribute::RemoteIp, Test::Blocks(blocks)) => facts
                .remote_ip()
                .map_or(effect.of_unknown(), |ip| blocks.hold(ip)),
            (_, Test::Accounts(accounts)) => accounts.hold(peer),
            (_, Test::Ports { wanted, unwanted }) => {
                let port = facts.connection.destination_port;
                (wanted.is_empty() || wanted.contains(&port)) && !unwanted.contains(&port)
            }
            (Attribute::SourceNamespace, Test::Texts(list)) => {
                list.hold(peer.and_then(SpiffeId::namespace))
            }
            (Attribute::SourcePrincipal, Test::Texts(list)) => {
                list.hold(peer.map(SpiffeId::without_scheme))
            }
            (Attribute::Sni, Test::Texts(list)) => list.hold(facts.connection.sni),
            (attribute, Test::Texts(list)) => match facts.request {
                None => effect.of_unknown(),
                Some(request) => match (attribute, request.token.as_ref()) {
                    (Attribute::Header(name), _) => header_holds(list, request, name, effect),
                    (_, None) => list.hold(None),
                    (Attribute::TokenPrincipal, Some(token)) => list.hold(token.principal()),
                    (Attribute::TokenPresenter, Some(token)) => list.hold(token.presenter()),
                    (Attribute::TokenAudiences, Some(token)) => list.hold_any(token.audiences()),
                    (Attribute::TokenClaim(names), Some(token)) => {
                        claim_holds(list, token, names, effect)
                    }
                    // The compiler pairs no other attribute with texts.
                    _ => effect.of_unknown(),
                },
            },
            // Nor any other with blocks.
            (_, Test::Blocks(_)) => effect.of_unknown(),
        }
    }
}

impl Condition {
    /// The values of which a connection or request must have one for the condition to hold.
    fn keys(&self) -> Option<Vec<Key>> {
        let texts = match &self.test {
            Test::Texts(list) => list.wanted.as_ref()?,
            Test::Accounts(accounts) => return accounts.keys(),
            Test::Ports { wanted, .. } => {
                let key = |port: &u16| Key::exact(Field::Port, port.to_string());
                return (!wanted.is_empty()).then(|| wanted.iter().map(key).collect());
            }
            Test::Blocks(blocks) => {
                return blocks.keys(match self.attribute {
                    Attribute::SourceIp => &Field::SourceIp,
                    Attribute::DestinationIp => &Field::DestinationIp,
                    Attribute::RemoteIp => &Field::RemoteIp,
                    _ => return None,
                });
            }
        };
        texts.keys(&match &self.attribute {
            Attribute::SourceNamespace => Field::Namespace,
            Attribute::SourcePrincipal => Field::Peer,
            Attribute::Sni => Field::Sni,
            Attribute::Header(name) => Field::Header(name.clone()),
            Attribute::TokenPrincipal => Field::TokenPrincipal,
            Attribute::TokenPresenter => Field::Presenter,
            Attribute::TokenAudiences => Field::Audience,
            Attribute::TokenClaim(names) => Field::Claim(names.clone()),
            // Theirs are no texts.
            Attribute::SourceIp
            | Attribute::RemoteIp
            | Attribute::DestinationIp
            | Attribute::DestinationPort
            | Attribute::SourceServiceAccount => return None,
        })
    }
}

impl Accounts {
    pub(super) fn insert(&mut self, namespace: &str, account: &str) {
        self.0
            .entry(namespace.into())
            .or_default()
            .insert(account.into());
    }

    fn contains(&self, peer: Option<&SpiffeId>) -> bool {
        let Some((namespace, account)) =
            peer.and_then(|p| Some((p.namespace()?, p.service_account()?)))
        else {
            return false;
        };
        self.0
            .get(namespace)
            .is_some_and(|accounts| accounts.contains(account))
    }
}

impl AccountList {
    /// A key for each account that is wanted.
    fn keys(&self) -> Option<Vec<Key>> {
        let accounts = self.wanted.as_ref()?.0.iter();
        let texts = accounts.flat_map(|(namespace, accounts)| {
            accounts
                .iter()
                .map(move |account| format!("{namespace}/{account}"))
        });
        Some(texts.map(|text| Key::exact(Field::Account, text)).collect())
    }

    fn hold(&self, peer: Option<&SpiffeId>) -> bool {
        self.wanted.as_ref().is_none_or(|a| a.contains(peer))
            && !self.unwanted.as_ref().is_some_and(|a| a.contains(peer))
    }
}
