//! What is known when a rule is looked at, and what to make of what is not.
//!
//! Three-valued logic, settled at once: an attribute that should be there and cannot be told (an HTTP attribute of opaque
//! bytes, a header value that is not ASCII, an original client behind fewer proxies than promised) is *unknown*, and what is
//! unknown counts against the request: it matches in a DENY rule, and does not in an ALLOW or AUDIT rule. Istio defines
//! HTTP fields on TCP ports that way. An attribute that is simply absent is known: it matches no pattern.

use std::cell::{Cell, OnceCell};
use std::net::IpAddr;

use http::{HeaderName, header::HeaderValue};

use super::request::{Connection, Request};
use super::template::Paths;
use super::text::{List, Texts};
use crate::claims::Value;
use crate::path;
use crate::token::VerifiedToken;

/// What a match does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Opens: ALLOW, and AUDIT, which must not claim more than it knows.
    Permit,
    /// Closes: DENY.
    Restrict,
}

impl Effect {
    /// Whether a part of a rule that cannot be told matches.
    pub(super) fn of_unknown(self) -> bool {
        self == Self::Restrict
    }
}

/// Names whose string value is a list of words, as Istio reads them.
const SPACE_DELIMITED: [&str; 3] = ["scope", "scp", "permission"];

/// A request, or a connection that carries opaque bytes.
pub(super) struct Facts<'a> {
    pub(super) connection: &'a Connection<'a>,
    pub(super) request: Option<&'a Request<'a>>,
    trusted_proxies: usize,
    remote: Cell<Option<Option<IpAddr>>>,
    decoded: OnceCell<Option<String>>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(
        connection: &'a Connection<'a>,
        request: Option<&'a Request<'a>>,
        trusted_proxies: usize,
    ) -> Self {
        Self {
            connection,
            request,
            trusted_proxies,
            remote: Cell::new(None),
            decoded: OnceCell::new(),
        }
    }

    pub(super) fn token(&self) -> Option<&'a VerifiedToken> {
        self.request?.token
    }

    /// The path with the escapes decoded that normalization leaves; `None` when there are none.
    pub(super) fn decoded_path(&self) -> Option<&str> {
        let decode = || path::decoded(self.request?.path);
        self.decoded.get_or_init(decode).as_deref()
    }

    /// The original client: the trusted entry of `x-forwarded-for`. `None`: not to be told.
    pub(super) fn remote_ip(&self) -> Option<IpAddr> {
        if let Some(known) = self.remote.get() {
            return known;
        }
        let known = match (self.trusted_proxies, self.request) {
            (0, _) => Some(self.connection.source_ip.to_canonical()),
            (_, None) => None,
            (position, Some(request)) => forwarded_for(request, position),
        };
        self.remote.set(Some(known));
        known
    }
}

/// The entry at `position` from the right, over all lines of the header.
fn forwarded_for(request: &Request<'_>, position: usize) -> Option<IpAddr> {
    let mut lines = request.headers.get_all("x-forwarded-for").iter();
    let mut left = position;
    while let Some(line) = lines.next_back() {
        for entry in line.to_str().ok()?.rsplit(',') {
            left -= 1;
            if left == 0 {
                return address(entry.trim());
            }
        }
    }
    None
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| text.parse().ok().map(|a: std::net::SocketAddr| a.ip()))
        .map(|ip: IpAddr| ip.to_canonical())
}

/// Whether a header's values satisfy a list.
///
/// A header may be there several times. For a DENY rule any value counts, and all of them joined; a permission needs
/// every one to match.
pub(super) fn header_holds(
    list: &List,
    request: &Request<'_>,
    name: &HeaderName,
    effect: Effect,
) -> bool {
    let values = request.headers.get_all(name);
    let mut iter = values.iter();
    let (first, second) = (iter.next(), iter.next());
    if values.iter().any(|v| visible(v).is_none()) {
        return effect.of_unknown();
    }
    let Some(first) = first.and_then(visible) else {
        return list.hold(None);
    };
    if second.is_none() {
        return list.hold(Some(first));
    }
    let texts: Vec<_> = values.iter().filter_map(visible).collect();
    let joined = texts.join(",");
    let any = |t: &Texts| t.matches(&joined) || texts.iter().any(|v| t.matches(v));
    let all = |t: &Texts| texts.iter().all(|v| t.matches(v));
    let (wanted, unwanted) = (list.wanted.as_ref(), list.unwanted.as_ref());
    match effect {
        Effect::Restrict => wanted.is_none_or(any) && !unwanted.is_some_and(all),
        Effect::Permit => wanted.is_none_or(all) && !unwanted.is_some_and(any),
    }
}

/// The value as text: visible ASCII, spaces and tabs.
fn visible(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// Whether a path is wanted and not unwanted. A pattern that keeps somebody out also looks at the path with every escape
/// decoded, as the application may read it.
pub(super) fn path_holds(
    wanted: Option<&Paths>,
    unwanted: Option<&Paths>,
    facts: &Facts<'_>,
    path: &str,
    effect: Effect,
) -> bool {
    let literal = |p: &Paths| p.matches(path);
    let either = |p: &Paths| p.matches(path) || facts.decoded_path().is_some_and(|d| p.matches(d));
    match effect {
        Effect::Restrict => wanted.is_none_or(either) && !unwanted.is_some_and(literal),
        Effect::Permit => wanted.is_none_or(literal) && !unwanted.is_some_and(either),
    }
}

/// Whether a host satisfies a list. A pattern that keeps somebody out looks at the host with and without port and final
/// dot; one that lets somebody in wants it as it was written, as Istio does.
pub(super) fn host_holds(list: &List, host: &str, effect: Effect) -> bool {
    let lower;
    let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
        lower = host.to_ascii_lowercase();
        &lower
    } else {
        host
    };
    let bare = bare_host(host);
    let literal = |t: &Texts| t.matches(host);
    let either = |t: &Texts| t.matches(host) || (bare != host && t.matches(bare));
    let (wanted, unwanted) = (list.wanted.as_ref(), list.unwanted.as_ref());
    match effect {
        Effect::Restrict => wanted.is_none_or(either) && !unwanted.is_some_and(literal),
        Effect::Permit => wanted.is_none_or(literal) && !unwanted.is_some_and(either),
    }
}

/// The host without port and final dot.
pub(super) fn bare_host(host: &str) -> &str {
    let name = host.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = match name.strip_suffix(':') {
        Some(name) if name.ends_with(']') || !name.contains(':') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a claim satisfies a list: a string, or any string of an array. Numbers and booleans are no values that a
/// permission can name (Istio's rule); a DENY rule sees them as JSON writes them.
pub(super) fn claim_holds(
    list: &List,
    token: &VerifiedToken,
    names: &[Box<str>],
    effect: Effect,
) -> bool {
    let Some(value) = claim(token, names) else {
        return list.hold(None);
    };
    match value {
        Value::String(text) if is_space_delimited(names) => {
            list.hold_any(text.split(' ').filter(|word| !word.is_empty()))
        }
        Value::String(text) => list.hold(Some(text)),
        Value::Array(values) if effect == Effect::Permit => {
            list.hold_any(values.iter().filter_map(Value::as_str))
        }
        Value::Array(values) => {
            let texts: Vec<_> = values.iter().filter_map(scalar).collect();
            list.hold_any(texts.iter().map(AsRef::as_ref))
        }
        _ if effect == Effect::Permit => list.hold(None),
        other => list.hold(scalar(other).as_deref()),
    }
}

/// True for a claim whose string is a list of words.
pub(super) fn is_space_delimited(names: &[Box<str>]) -> bool {
    matches!(names, [name] if SPACE_DELIMITED.contains(&&**name))
}

/// The claim at a path of names.
pub(super) fn claim<'t>(token: &'t VerifiedToken, names: &[Box<str>]) -> Option<&'t Value> {
    let (first, rest) = names.split_first()?;
    rest.iter()
        .try_fold(token.claims().get(first)?, |value, name| match value {
            Value::Object(object) => object.get(name),
            _ => None,
        })
}

fn scalar(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::String(text) => Some((&**text).into()),
        Value::Bool(true) => Some("true".into()),
        Value::Bool(false) => Some("false".into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
