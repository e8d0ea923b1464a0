//! What an index looks up: the fields of connections and requests, and the values they have.

use http::HeaderName;

use super::block::as_text;
use super::facts::{Effect, Facts, bare_host, claim, is_space_delimited};
use crate::SpiffeId;
use crate::claims::Value;
use crate::token::VerifiedToken;

/// Something of which a connection or a request has values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Field {
    /// The peer, without scheme.
    Peer,
    Namespace,
    /// `namespace/service-account`.
    Account,
    Sni,
    Port,
    /// Addresses as [`as_text`] writes them.
    SourceIp,
    DestinationIp,
    /// Empty: not to be told.
    RemoteIp,
    Path,
    /// The segment of the path at a position, from 0.
    Segment(u8),
    Host,
    Method,
    TokenPrincipal,
    Presenter,
    Audience,
    Claim(Box<[Box<str>]>),
    Header(HeaderName),
}

/// How a value is compared with the text of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Exact,
    Prefix,
    Suffix,
}

impl Shape {
    /// True if a value has the text in its place.
    pub(super) fn matches(self, text: &str, value: &str) -> bool {
        match self {
            Self::Exact => *value == *text,
            Self::Prefix => value.starts_with(text),
            Self::Suffix => value.ends_with(text),
        }
    }
}

/// One value that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) field: Field,
    pub(super) shape: Shape,
    pub(super) text: Box<str>,
}

impl Key {
    pub(super) fn exact(field: Field, text: impl Into<Box<str>>) -> Self {
        Self {
            field,
            shape: Shape::Exact,
            text: text.into(),
        }
    }
}

impl Field {
    /// True for one of many that only have their kind in common.
    pub(super) fn is_named(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::Header(_))
    }

    /// Calls `told` with every value of the field that a unit with `effect` may compare; values that keep out also in
    /// their other spellings.
    pub(super) fn values(&self, facts: &Facts<'_>, effect: Effect, mut told: impl FnMut(&str)) {
        let (connection, peer) = (facts.connection, facts.connection.peer);
        let token = || facts.token();
        match self {
            Self::Peer => peer
                .map(SpiffeId::without_scheme)
                .into_iter()
                .for_each(told),
            Self::Namespace => peer
                .and_then(SpiffeId::namespace)
                .into_iter()
                .for_each(told),
            Self::Account => {
                let parts = peer.and_then(|p| Some((p.namespace()?, p.service_account()?)));
                if let Some((namespace, account)) = parts {
                    told(&format!("{namespace}/{account}"));
                }
            }
            Self::Sni => connection.sni.into_iter().for_each(told),
            Self::Port => told(&connection.destination_port.to_string()),
            Self::SourceIp => as_text(connection.source_ip, told),
            Self::DestinationIp => as_text(connection.destination_ip, told),
            Self::RemoteIp => match facts.remote_ip() {
                Some(address) => as_text(address, told),
                None => told(""),
            },
            Self::Path => paths(facts, effect, told),
            Self::Segment(at) => paths(facts, effect, |path| {
                let rest = path.strip_prefix('/');
                let segment = rest.and_then(|rest| rest.split('/').nth(usize::from(*at)));
                segment.into_iter().for_each(&mut told);
            }),
            Self::Host => hosts(facts, effect, told),
            Self::Method => facts
                .request
                .into_iter()
                .for_each(|r| told(r.method.as_str())),
            Self::TokenPrincipal => token()
                .and_then(VerifiedToken::principal)
                .into_iter()
                .for_each(told),
            Self::Presenter => token()
                .and_then(VerifiedToken::presenter)
                .into_iter()
                .for_each(told),
            Self::Audience => token()
                .into_iter()
                .flat_map(VerifiedToken::audiences)
                .for_each(told),
            Self::Claim(names) => match token().and_then(|token| claim(token, names)) {
                Some(Value::String(words)) if is_space_delimited(names) => {
                    words.split(' ').for_each(told);
                }
                Some(Value::String(text)) => told(text),
                Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).for_each(told),
                _ => {}
            },
            Self::Header(name) => {
                // A permission needs every line to match: the first will do.
                let value = facts.request.and_then(|r| r.headers.get(name));
                value
                    .and_then(|v| v.to_str().ok())
                    .into_iter()
                    .for_each(told);
            }
        }
    }
}

fn paths(facts: &Facts<'_>, effect: Effect, mut told: impl FnMut(&str)) {
    let Some(request) = facts.request else { return };
    told(request.path);
    if effect == Effect::Restrict
        && let Some(decoded) = facts.decoded_path()
    {
        told(decoded);
    }
}

fn hosts(facts: &Facts<'_>, effect: Effect, mut told: impl FnMut(&str)) {
    let Some(request) = facts.request else { return };
    let lower;
    let host = if request.host.bytes().any(|b| b.is_ascii_uppercase()) {
        lower = request.host.to_ascii_lowercase();
        &lower
    } else {
        request.host
    };
    told(host);
    let bare = bare_host(host);
    if effect == Effect::Restrict && bare != host {
        told(bare);
    }
}
