//! Headers that speak of identity: which may not come from outside, and how ours are written.

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::SpiffeId;
use crate::svid::VerifiedPeer;

/// Names the application port a request between sidecars is for.
pub const PORT: &str = "postern-port";
/// Names what the client spoke, and so what the application is spoken to: `http/1.1` or `h2`.
pub const PROTOCOL: &str = "postern-protocol";
/// Names the peer to the application (Envoy's `x-forwarded-client-cert`).
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const EXACT: &[&str] = &[
    "x-forwarded-client-cert",
    "l5d-client-id",
    "x-envoy-original-path",
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-decorator-operation",
];
const PREFIXES: &[&str] = &["postern-", "x-postern-"];

/// True for a header that only the mesh may set. `_` counts as `-`: some applications fold the two.
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    // Every reserved name starts with one of three letters; most others are told apart here.
    if !matches!(name.first(), Some(b'x' | b'l' | b'p')) {
        return false;
    }
    let same = |reserved: &str, name: &[u8]| {
        reserved
            .bytes()
            .zip(name)
            .all(|(r, n)| r == if *n == b'_' { b'-' } else { *n })
    };
    EXACT.iter().any(|r| r.len() == name.len() && same(r, name))
        || PREFIXES
            .iter()
            .any(|p| name.len() >= p.len() && same(p, name))
}

/// Removes every reserved header.
pub fn strip_reserved(headers: &mut HeaderMap) {
    // Two passes, because a map cannot be changed while it is walked; the second is rare and short.
    while let Some(name) = headers.keys().find(|name| is_reserved(name)).cloned() {
        headers.remove(name);
    }
}

/// The `x-forwarded-client-cert` element that names `peer`, as `SANITIZE_SET` writes it: the only element.
#[allow(clippy::missing_panics_doc, clippy::expect_used)]
pub fn xfcc(own: &SpiffeId, peer: &VerifiedPeer) -> HeaderValue {
    let mut text = format!("By={own};Hash=");
    for byte in peer.leaf_sha256() {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, ";Subject=\"\";URI={}", peer.id());
    HeaderValue::try_from(text).expect("SPIFFE IDs and hex have only visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_removed_in_every_spelling_and_others_stay() {
        let mut headers = HeaderMap::new();
        let reserved = [
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "postern-port",
            "postern_port",
            "x-postern-claims",
            "l5d-client-id",
            "x-envoy-peer-metadata-id",
        ];
        let kept = [
            "x-forwarded-for",
            "x-request-id",
            "post",
            "poster",
            "accept",
            "l5d",
            "x-envoy-attempt-count",
        ];
        for name in reserved.iter().chain(&kept) {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_static("a"),
            );
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_static("b"),
            );
        }
        strip_reserved(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let mut kept = kept.to_vec();
        kept.sort_unstable();
        assert_eq!(left, kept);
    }
}
