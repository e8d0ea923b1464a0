//! The whole verifier, with keys that are made here: vectors by algorithm, what holds for any bytes, and another
//! library's opinion.

mod differential;
mod jwt_svid;
mod keys;
mod properties;
mod signer;
mod svid_rules;
mod vectors;

use std::collections::BTreeMap;

use mesh_proto::mesh;

use self::signer::Signer;
use super::places::Presented;
use super::{Fingerprint, HeaderMemo, Outcome, TokenPolicy};
use crate::Reason;

/// When tokens are verified, Unix seconds.
const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://idp.test";

/// The rule of [`ISSUER`] for audience `shop`, with these keys.
fn rule(jwks: String) -> mesh::TokenRule {
    mesh::TokenRule {
        issuer: ISSUER.into(),
        audiences: vec!["shop".into()],
        jwks,
        ..Default::default()
    }
}

fn policy(rule: mesh::TokenRule) -> TokenPolicy {
    let document = mesh::RequestAuthentication {
        name: "r".into(),
        namespace: "n".into(),
        rules: vec![rule],
        ..Default::default()
    };
    TokenPolicy::compile([&document], &BTreeMap::new(), None)
        .unwrap()
        .unwrap()
}

/// The verdict of a worker that verified `memo`'s headers before.
fn verdict_with(
    policy: &TokenPolicy,
    token: &[u8],
    now: i64,
    memo: &mut HeaderMemo,
) -> Result<(), Reason> {
    let presented = Presented {
        text: token,
        place: 0,
    };
    match policy.verify(presented, now, Fingerprint::new([0; 8]), memo) {
        Ok(Outcome::Verified(_)) => Ok(()),
        Ok(Outcome::Introspect(_)) => Err(Reason::IntrospectionFailed),
        Err(refusal) => Err(refusal.reason),
    }
}

fn verdict(policy: &TokenPolicy, token: impl AsRef<[u8]>) -> Result<(), Reason> {
    verdict_with(policy, token.as_ref(), NOW, &mut HeaderMemo::default())
}

/// Claims of a good token.
fn claims() -> serde_json::Value {
    serde_json::json!({
        "iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 600, "iat": NOW - 5, "jti": "1",
    })
}

#[test]
fn a_broken_jwt_is_an_opaque_token_only_where_no_jwts_are_verified() {
    let signer = Signer::new(super::Algorithm::Es256);
    let introspection = mesh::TokenIntrospection {
        endpoint: "https://idp.test/introspect".into(),
        client_id: "shop".into(),
        credential_file: "/secret".into(),
        ..Default::default()
    };
    let both = policy(mesh::TokenRule {
        introspection: Some(introspection.clone()),
        ..rule(signer.jwks())
    });
    let opaque_only = policy(mesh::TokenRule {
        introspection: Some(introspection),
        ..rule(String::new())
    });
    let jwt_only = policy(rule(signer.jwks()));
    let good = signer.sign(signer.header(), claims());
    let segments: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (segments[0], segments[1], segments[2]);
    let asked = Err(Reason::IntrospectionFailed);
    let malformed = Err(Reason::TokenMalformed);
    for (what, token, [by_both, by_opaque, by_jwt]) in [
        ("whole", good.clone(), [Ok(()), asked, Ok(())]),
        (
            "opaque",
            "2YotnFZFEjr1zCsicMWpAA".into(),
            [asked, asked, malformed],
        ),
        (
            "of other letters",
            "v1.a+b.c~d".into(),
            [asked, asked, malformed],
        ),
        (
            "encrypted",
            format!("{header}.a.b.c.d"),
            [asked, asked, malformed],
        ),
        (
            "its header is none",
            format!("{}.{payload}.{signature}", &header[1..]),
            [asked, asked, malformed],
        ),
        (
            "its header is cut",
            format!("{}.{payload}.{signature}", &header[..header.len() - 3]),
            [malformed, asked, malformed],
        ),
        (
            "of another kind",
            "v2.local.bm90aGluZw".into(),
            [asked, asked, malformed],
        ),
        (
            "its payload is none",
            format!("{header}.xx.{signature}"),
            [malformed, asked, malformed],
        ),
        (
            "its signature is cut",
            format!("{header}.{payload}.a"),
            [malformed, asked, malformed],
        ),
        (
            "it is no text",
            format!("{header}.{payload} .a"),
            [malformed, malformed, malformed],
        ),
    ] {
        assert_eq!(verdict(&both, &token), by_both, "{what}, both");
        assert_eq!(verdict(&opaque_only, &token), by_opaque, "{what}, opaque");
        assert_eq!(verdict(&jwt_only, &token), by_jwt, "{what}, JWT");
    }
}

#[test]
fn what_holds_a_stream_open_is_judged_by_the_rules_of_the_day_but_not_by_their_keys() {
    let signer = Signer::new(super::Algorithm::Es256);
    let before = policy(rule(signer.jwks()));
    let token = signer.sign(signer.header(), claims());
    let presented = Presented {
        text: token.as_bytes(),
        place: 0,
    };
    let outcome = before.verify(
        presented,
        NOW,
        Fingerprint::new([0; 8]),
        &mut HeaderMemo::default(),
    );
    let Ok(Outcome::Verified(verified)) = outcome else {
        panic!("a good token");
    };
    let keys = Signer::new(super::Algorithm::Es256).jwks();
    for (change, expected) in [
        (rule(keys.clone()), Ok(())),
        (
            mesh::TokenRule {
                audiences: vec!["bank".into()],
                ..rule(keys.clone())
            },
            Err(Reason::TokenWrongAudience),
        ),
        (
            mesh::TokenRule {
                issuer: "https://other.test".into(),
                ..rule(keys)
            },
            Err(Reason::TokenUnknownIssuer),
        ),
    ] {
        let after = policy(change);
        // Long after its expiry, which is the stream's own affair.
        assert_eq!(after.still_accepts(&verified, NOW + 10_000), expected);
    }
    assert_eq!(before.still_accepts(&verified, NOW), Ok(()));
}
