//! Trailer sections: which fields may stand in one, read and written.
//!
//! Fields that RFC 9110 §6.5.1 forbids after a body (framing, routing, credentials, caching, content description,
//! controls), hop-by-hop fields and those that say who is calling are dropped silently, as a recipient may do with any
//! trailer: a peer further on that merges trailers into the head never sees them. What is dropped must still be well
//! formed.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName};

use crate::error::ParseError;
use crate::fields::{Field, classify, header_name, header_value, split};
use crate::limits::Limits;
use crate::scan::{Bounds, line, section};

/// Takes a trailer section with its empty line off the front of `buf`; `None` when it has not arrived in full.
pub(crate) fn parse(buf: &mut BytesMut, limits: &Limits) -> Result<Option<HeaderMap>, ParseError> {
    let bounds = Bounds {
        bytes: limits.max_trailer_bytes.saturating_add(2),
        lines: limits.max_headers,
    };
    let Some(section) = section(buf, 0, bounds, ParseError::TrailersTooLarge)? else {
        return Ok(None);
    };
    let bytes = buf.split_to(section.end).freeze();
    let mut trailers = HeaderMap::new();
    let mut at = 0;
    while let Some((end, next)) = line(&bytes, at) {
        if end == at {
            break;
        }
        let (name, from, to) = split(&bytes, at, end)?;
        let (name, value) = (header_name(name)?, header_value(&bytes, from, to)?);
        if is_allowed(&name) && trailers.try_append(name, value).is_err() {
            return Err(ParseError::TooManyHeaders);
        }
        at = next;
    }
    Ok(Some(trailers))
}

/// True when a field may stand in a trailer section.
pub(crate) fn is_allowed(name: &HeaderName) -> bool {
    const NAMES: [&str; 34] = [
        "age",
        "authentication-info",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "dpop",
        "expires",
        "forwarded",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "txn-token",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-real-ip",
        "x-original-url",
    ];
    const PREFIXES: [&str; 5] = ["postern-", "x-postern-", "x-forwarded-", "x-envoy-", "l5d-"];
    let name = name.as_str();
    classify(name.as_bytes()) == Field::Other
        && !NAMES.contains(&name)
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
