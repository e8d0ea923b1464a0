//! What a hostile token makes the verifier allocate is bounded by the rule and by constants, whatever the token says.
//!
//! Counted by the allocator, on this thread, in everything that a request does before its signature holds: finding the
//! token, judging its length, splitting, decoding, reading, looking for the key, checking the signature.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use allocation_counter::{AllocationInfo, measure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use mesh_auth::Reason;
use mesh_auth::token::{Fingerprint, HeaderMemo, TokenPolicy};
use mesh_proto::mesh;

/// Longest token of the rule, bytes.
const LONGEST: usize = 8_192;
/// What a token of any length that is allowed may allocate in all, bytes: 2,048 values of 24 bytes in a vector that
/// doubled to hold them, and three quarters of the token.
const IN_ALL: u64 = 160 * 1024;
/// And at most at once.
const AT_ONCE: u64 = 128 * 1024;

const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k",
"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

fn policy() -> TokenPolicy {
    let document = mesh::RequestAuthentication {
        name: "r".into(),
        namespace: "n".into(),
        rules: vec![mesh::TokenRule {
            issuer: "i".into(),
            jwks: JWKS.into(),
            max_token_bytes: u32::try_from(LONGEST).unwrap(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let compiled = TokenPolicy::compile([&document], &BTreeMap::new(), None);
    compiled.unwrap().unwrap()
}

/// What a request with this token is told, and what that allocated.
fn cost(policy: &TokenPolicy, token: &str) -> (Reason, AllocationInfo) {
    let request = http::Request::builder().header("authorization", format!("Bearer {token}"));
    let (head, ()) = request.body(()).unwrap().into_parts();
    let mut memo = HeaderMemo::default();
    let mut told = None;
    let info = measure(|| {
        let found = policy.find(&head).unwrap();
        let presented = found.credential.unwrap();
        let verdict = policy.verify(presented, 0, Fingerprint::new([0; 8]), &mut memo);
        told = Some(verdict.unwrap_err().reason);
    });
    (told.unwrap(), info)
}

/// A token that says this under the key of the rule; its signature is made up.
fn token(header: &str, payload: &str) -> String {
    let signature = BASE64URL.encode([7; 64]);
    format!(
        "{}.{}.{signature}",
        BASE64URL.encode(header),
        BASE64URL.encode(payload)
    )
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

/// As many of the items as fit, behind the issuer that the rule wants.
fn claims_of(length: usize, mut item: impl FnMut(usize) -> String) -> String {
    let mut text = String::from(r#"{"iss":"i""#);
    for i in 0.. {
        let next = item(i);
        if text.len() + next.len() + 2 > length {
            break;
        }
        text.push(',');
        text.push_str(&next);
    }
    text.push('}');
    text
}

fn array_of(length: usize, element: &str) -> String {
    let mut text = String::from(r#"{"iss":"i","a":["#);
    while text.len() + element.len() + 4 < length {
        text.push_str(element);
        text.push(',');
    }
    text.push_str(element);
    text.push_str("]}");
    text
}

#[test]
fn a_token_that_is_too_long_allocates_nothing_however_long_it_is() {
    let policy = policy();
    type Shape = (&'static str, fn(usize) -> String);
    let shapes: [Shape; 5] = [
        ("junk", |n| "x".repeat(n)),
        ("dots", |n| ".".repeat(n)),
        ("segments", |n| "a.".repeat(n / 2)),
        ("members", |n| {
            token(HEADER, &claims_of(n, |i| format!("\"m{i}\":{i}")))
        }),
        ("depth", |n| {
            token(HEADER, &format!(r#"{{"iss":"i","a":{}"#, "[".repeat(n)))
        }),
    ];
    for (shape, make) in shapes {
        for length in [2 * LONGEST, 16 * LONGEST, 128 * LONGEST] {
            let (reason, info) = cost(&policy, &make(length));
            assert_eq!(reason, Reason::TokenTooLarge, "{shape} of {length}");
            assert_eq!(info.bytes_total, 0, "{shape} of {length}: {info:?}");
        }
    }
}

#[test]
fn a_token_that_is_short_enough_allocates_at_most_a_constant_whatever_it_says() {
    use Reason::{TokenAlgorithm, TokenBadSignature, TokenMalformed, TokenUnknownIssuer};
    let policy = policy();
    // Of a payload this long the token just fits.
    let payload = 6_000;
    let deep = |open: &str, close: &str, depth: usize| {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        token(HEADER, &format!(r#"{{"iss":"i","a":{open}0{close}}}"#))
    };
    let cases: &[(&str, String, Reason)] = &[
        ("nothing", String::new(), TokenMalformed),
        ("junk", "x".repeat(LONGEST), TokenMalformed),
        ("dots", ".".repeat(LONGEST), TokenMalformed),
        ("4,000 segments", "a.".repeat(4_000), TokenMalformed),
        (
            "a header that never ends",
            format!("{}.a.a", "a".repeat(8_000)),
            TokenMalformed,
        ),
        (
            "a header of many members",
            token(&claims_of(payload, |i| format!("\"{i}\":0")), "{}"),
            TokenAlgorithm,
        ),
        (
            "a long kid",
            token(
                &format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(5_800)),
                r#"{"iss":"i"}"#,
            ),
            Reason::TokenUnknownKey,
        ),
        (
            "no JSON",
            token(HEADER, &"\u{1}".repeat(payload)),
            TokenMalformed,
        ),
        ("16 arrays deep", deep("[", "]", 15), TokenBadSignature),
        ("2,900 arrays deep", deep("[", "]", 2_900), TokenMalformed),
        (
            "900 objects deep",
            deep("{\"a\":", "}", 900),
            TokenMalformed,
        ),
        (
            "many members",
            token(HEADER, &claims_of(payload, |i| format!("\"{i}\":0"))),
            TokenBadSignature,
        ),
        (
            "many members of one name",
            token(HEADER, &claims_of(payload, |_| "\"a\":0".into())),
            TokenMalformed,
        ),
        (
            "many empty objects",
            token(HEADER, &claims_of(payload, |i| format!("\"{i}\":{{}}"))),
            TokenBadSignature,
        ),
        (
            "2,047 values",
            token(HEADER, &array_of(4_000, "0")),
            TokenBadSignature,
        ),
        (
            "more values than are read",
            token(HEADER, &array_of(payload, "0")),
            TokenMalformed,
        ),
        (
            "many empty arrays",
            token(HEADER, &array_of(payload, "[]")),
            TokenBadSignature,
        ),
        (
            "many empty strings",
            token(HEADER, &array_of(payload, "\"\"")),
            TokenBadSignature,
        ),
        (
            "many short numbers with fractions",
            token(HEADER, &array_of(payload, "0.1")),
            TokenBadSignature,
        ),
        (
            "one long string",
            token(
                HEADER,
                &format!(r#"{{"iss":"i","a":"{}"}}"#, "a".repeat(5_900)),
            ),
            TokenBadSignature,
        ),
        (
            "one long string of escapes",
            token(
                HEADER,
                &format!(r#"{{"iss":"i","a":"{}"}}"#, "\\u0061".repeat(980)),
            ),
            TokenBadSignature,
        ),
        (
            "one long number",
            token(
                HEADER,
                &format!(r#"{{"iss":"i","a":1{}}}"#, "0".repeat(5_900)),
            ),
            TokenBadSignature,
        ),
        (
            "a long issuer",
            token(HEADER, &format!(r#"{{"iss":"{}"}}"#, "i".repeat(5_900))),
            TokenUnknownIssuer,
        ),
        (
            "a long signature",
            format!(
                "{}.{}.{}",
                BASE64URL.encode(HEADER),
                BASE64URL.encode(r#"{"iss":"i"}"#),
                "A".repeat(8_000)
            ),
            TokenBadSignature,
        ),
    ];
    let mut failures = Vec::new();
    for (name, token, expected) in cases {
        assert!(token.len() <= LONGEST, "{name}: {}", token.len());
        let (reason, info) = cost(&policy, token);
        if reason != *expected || info.bytes_total > IN_ALL || info.bytes_max > AT_ONCE {
            failures.push(format!("{name}: {reason:?}, {info:?}"));
        }
        assert_eq!(info.bytes_current, 0, "{name} leaves something behind");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
