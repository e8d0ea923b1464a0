//! The whole verifier, with keys that are made here: vectors by algorithm, what holds for any bytes, and another
//! library's opinion.

mod differential;
mod keys;
mod properties;
mod signer;
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
