//! Request targets and authorities (RFC 9112 §3.2): one spelling, or an error.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::uri::{Authority, Parts};
use http::{Method, Uri};
use memchr::memchr_iter;

use crate::ascii::{decimal, is_host, is_path, is_query};
use crate::error::ParseError;

/// Bytes of the longest host name (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 255;

/// A request target.
#[derive(Debug)]
pub(crate) struct Target {
    /// Path and query, `*`, or the authority of CONNECT.
    pub(crate) uri: Uri,
    /// The authority, where the target has one.
    pub(crate) authority: Option<Authority>,
    /// The port that the scheme implies.
    default_port: Option<&'static str>,
}

impl Target {
    /// Parses a target of a request with this method; `bytes` has no spaces.
    pub(crate) fn parse(bytes: Bytes, method: &Method) -> Result<Self, ParseError> {
        if method == Method::CONNECT {
            return Self::connect(bytes);
        }
        match bytes.first() {
            Some(b'/') => Ok(Self {
                uri: path_and_query(bytes)?,
                authority: None,
                default_port: None,
            }),
            Some(b'*') if bytes.len() == 1 && method == Method::OPTIONS => Ok(Self {
                uri: Uri::from_static("*"),
                authority: None,
                default_port: None,
            }),
            _ => Self::absolute(&bytes, method),
        }
    }

    fn connect(bytes: Bytes) -> Result<Self, ParseError> {
        let authority = authority(bytes)?;
        if authority.port_u16().is_none() {
            return Err(ParseError::Target);
        }
        let mut parts = Parts::default();
        parts.authority = Some(authority.clone());
        Ok(Self {
            uri: Uri::from_parts(parts).map_err(|_| ParseError::Target)?,
            authority: Some(authority),
            default_port: None,
        })
    }

    fn absolute(bytes: &Bytes, method: &Method) -> Result<Self, ParseError> {
        let starts = |scheme: &[u8]| {
            bytes
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        let (scheme, default_port) = if starts(b"http://") {
            (7, ":80")
        } else if starts(b"https://") {
            (8, ":443")
        } else {
            return Err(ParseError::Target);
        };
        let path = bytes[scheme..]
            .iter()
            .position(|b| matches!(b, b'/' | b'?' | b'#'))
            .map_or(bytes.len(), |length| scheme + length);
        let authority = authority(bytes.slice(scheme..path))?;
        let uri = match bytes.get(path) {
            None if method == Method::OPTIONS => Uri::from_static("*"),
            None => Uri::from_static("/"),
            Some(b'/') => path_and_query(bytes.slice(path..))?,
            Some(_) => path_and_query([b"/", &bytes[path..]].concat().into())?,
        };
        Ok(Self {
            uri,
            authority: Some(authority),
            default_port: Some(default_port),
        })
    }

    /// True when `host` names the authority of the target, or the target has none.
    pub(crate) fn agrees_with(&self, host: &Authority) -> bool {
        let Some(authority) = &self.authority else {
            return true;
        };
        authority == host
            || self.default_port.is_some_and(|port| {
                let without = |a: &str| a.strip_suffix(port).unwrap_or(a).len();
                let (a, b) = (authority.as_str(), host.as_str());
                a[..without(a)] == b[..without(b)]
            })
    }
}

/// A target in origin form.
fn path_and_query(bytes: Bytes) -> Result<Uri, ParseError> {
    let refuse = |byte: u8| match byte {
        b'#' => ParseError::Fragment,
        _ => ParseError::Target,
    };
    let path = bytes
        .iter()
        .position(|b| !is_path(*b))
        .unwrap_or(bytes.len());
    match bytes.get(path) {
        None => {}
        // A query is opaque: browsers send a lone '%' in it.
        Some(b'?') => {
            if let Some(&byte) = bytes[path + 1..].iter().find(|b| !is_query(**b)) {
                return Err(refuse(byte));
            }
        }
        Some(&byte) => return Err(refuse(byte)),
    }
    if !escapes_are_whole(&bytes[..path]) {
        return Err(ParseError::Target);
    }
    Uri::from_maybe_shared(bytes).map_err(|_| ParseError::Target)
}

/// True when two hexadecimal digits follow every '%'.
fn escapes_are_whole(path: &[u8]) -> bool {
    memchr_iter(b'%', path).all(|at| {
        path.get(at + 1..at + 3)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// An authority without user information, with the host in lower case.
pub(crate) fn authority(bytes: Bytes) -> Result<Authority, ParseError> {
    let host_end = if bytes.first() == Some(&b'[') {
        let close = bytes
            .iter()
            .position(|b| *b == b']')
            .ok_or(ParseError::Host)?;
        str::from_utf8(&bytes[1..close])
            .ok()
            .and_then(|text| text.parse::<Ipv6Addr>().ok())
            .ok_or(ParseError::Host)?;
        close + 1
    } else {
        bytes
            .iter()
            .position(|b| !is_host(*b))
            .unwrap_or(bytes.len())
    };
    if bytes.contains(&b'@') {
        return Err(ParseError::UserInfo);
    }
    if host_end == 0 || host_end > LONGEST_HOST {
        return Err(ParseError::Host);
    }
    match &bytes[host_end..] {
        [] => {}
        [b':', port @ ..] if port.len() <= 5 && decimal(port).is_some_and(|p| p <= 0xffff) => {}
        _ => return Err(ParseError::Host),
    }
    let lower = if bytes[..host_end].iter().any(u8::is_ascii_uppercase) {
        bytes.to_ascii_lowercase().into()
    } else {
        bytes
    };
    Authority::from_maybe_shared(lower).map_err(|_| ParseError::Host)
}
