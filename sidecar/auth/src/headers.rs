//! Headers that speak of identity: which may not come from outside, and how ours are written.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::SpiffeId;
use crate::svid::VerifiedPeer;

/// Names the application port a request between sidecars is for.
pub const PORT: HeaderName = HeaderName::from_static("postern-port");
/// Names what the client spoke, and so what the application is spoken to: `http/1.1` or `h2`.
pub const PROTOCOL: HeaderName = HeaderName::from_static("postern-protocol");
/// Carries `authorization` between sidecars.
pub const AUTHORIZATION: HeaderName = HeaderName::from_static("postern-authorization");
/// Names the peer to the application (Envoy's `x-forwarded-client-cert`).
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const EXACT: &[&str] = &[
    "x-forwarded-client-cert",
    "l5d-client-id",
    // Who the caller is.
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-ip-tags",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    // What was asked before a proxy rewrote it, and where it goes.
    "x-envoy-original-path",
    "x-envoy-original-host",
    "x-envoy-original-method",
    "x-envoy-original-url",
    "x-envoy-original-dst-host",
    "x-envoy-decorator-operation",
];
const PREFIXES: &[&str] = &["postern-", "x-postern-"];

/// True for a header that only the mesh may set. `_` and `.` count as `-`: some applications fold them.
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    // Most headers are told apart by their first byte: every reserved name starts with one of three letters.
    if !matches!(name.first(), Some(b'x' | b'l' | b'p')) {
        return false;
    }
    EXACT
        .iter()
        .any(|reserved| reserved.len() == name.len() && starts_with(name, reserved))
        || PREFIXES.iter().any(|prefix| starts_with(name, prefix))
}

fn starts_with(name: &[u8], prefix: &str) -> bool {
    let fold = |byte: &u8| {
        if matches!(byte, b'_' | b'.') {
            b'-'
        } else {
            *byte
        }
    };
    name.len() >= prefix.len() && prefix.bytes().eq(name[..prefix.len()].iter().map(fold))
}

/// Removes every reserved header. Allocates only if there is one.
pub fn strip_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> = headers.keys().filter(|n| is_reserved(n)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// The `x-forwarded-client-cert` element that names `peer`, as `SANITIZE_SET` writes it: the only element.
#[allow(clippy::missing_panics_doc, clippy::expect_used)]
pub fn xfcc(own: &SpiffeId, peer: &VerifiedPeer) -> HeaderValue {
    const PARTS: [&str; 3] = ["By=", ";Hash=", ";Subject=\"\";URI="];
    let (own, id, digest) = (own.as_str(), peer.id().as_str(), peer.leaf_sha256());
    let around: usize = PARTS.iter().map(|part| part.len()).sum();
    let mut text = String::with_capacity(around + own.len() + 2 * digest.len() + id.len());
    text.extend([PARTS[0], own, PARTS[1]]);
    // Written for every connection with a request, and `{:02x}` takes eight times as long.
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    text.extend(digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    text.extend([PARTS[2], id]);
    HeaderValue::try_from(text).expect("SPIFFE IDs and hex have only visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svid::{Usage, verify};
    use crate::testing::*;

    const RESERVED: &[&str] = &[
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "x-forwarded_client-cert",
        "x.forwarded.client.cert",
        "postern-port",
        "postern_port",
        "postern.port",
        "Postern-Anything",
        "postern-",
        "x-postern-claims",
        "X_POSTERN_CLAIMS",
        "l5d-client-id",
        "L5D_Client_ID",
        "x-envoy-internal",
        "x-envoy-peer-metadata-id",
        "x_envoy-original_path",
        "x-envoy-original-dst-host",
    ];
    const KEPT: &[&str] = &[
        "x-forwarded-for",
        "x-forwarded-client-cert-chain",
        "x-forwarded-client-cer",
        "x-request-id",
        "x",
        "x-",
        "post",
        "postern",
        "posternport",
        "x-postern",
        "accept",
        "l5d",
        "l5d-client-id-2",
        "x-envoy-attempt-count",
        "host",
        "traceparent",
    ];

    fn header(name: &str) -> HeaderName {
        HeaderName::try_from(name).unwrap()
    }

    #[test]
    fn reserved_names_are_removed_in_every_spelling_and_others_stay() {
        let mut headers = HeaderMap::new();
        for name in RESERVED.iter().chain(KEPT) {
            headers.append(header(name), HeaderValue::from_static("a"));
            headers.append(header(name), HeaderValue::from_static("b"));
        }
        strip_reserved(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let mut kept = KEPT.to_vec();
        kept.sort_unstable();
        assert_eq!(left, kept);
        assert_eq!(headers.len(), 2 * KEPT.len(), "every value stays");
    }

    #[test]
    fn each_name_is_told_apart_alone() {
        for name in RESERVED {
            assert!(is_reserved(&header(name)), "{name}");
        }
        for name in KEPT {
            assert!(!is_reserved(&header(name)), "{name}");
        }
        for name in [PORT, PROTOCOL, XFCC] {
            assert!(is_reserved(&name), "our own {name}");
        }
    }

    #[test]
    fn a_thousand_reserved_headers_are_removed_too() {
        let mut headers = HeaderMap::new();
        for i in 0..1000 {
            headers.insert(
                header(&format!("postern-{i}")),
                HeaderValue::from_static("x"),
            );
        }
        strip_reserved(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn the_element_names_us_the_peer_and_its_certificate() {
        let root = authority("td");
        let leaf = sign(&leaf_params("spiffe://td/ns/a/sa/web"), &root);
        let chain = [leaf.clone()];
        let bundles = bundles(&[("td", &root)]);
        let peer = verify(&chain, Usage::Client, &bundles, unix(0)).unwrap();
        let own = SpiffeId::parse("spiffe://td/ns/a/sa/orders").unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            xfcc(&own, &peer).to_str().unwrap(),
            format!(
                "By=spiffe://td/ns/a/sa/orders;Hash={hex};Subject=\"\";URI=spiffe://td/ns/a/sa/web"
            )
        );
    }
}
