//! What a verification costs beside the signature check that is in it.
//!
//! `cargo bench -p mesh-auth --bench token`. In a tight loop everything is warm; `mesh-bench token-cost` measures a sidecar.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use divan::{Bencher, black_box};
use http::request::Parts;
use mesh_auth::claims;
use mesh_auth::token::{Fingerprint, HeaderMemo, Outcome, TokenPolicy, Verified};
use mesh_proto::mesh;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Unix seconds, within the life of the tokens.
const NOW: i64 = 1_800_000_000;

fn main() {
    divan::main();
}

struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn policy(&self) -> TokenPolicy {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
        let document = mesh::RequestAuthentication {
            name: "r".into(),
            namespace: "n".into(),
            rules: vec![mesh::TokenRule {
                issuer: "https://idp.bench".into(),
                audiences: vec!["orders".into()],
                jwks: format!(
                    r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k1","x":"{x}","y":"{y}"}}]}}"#
                ),
                ..Default::default()
            }],
            ..Default::default()
        };
        let compiled = TokenPolicy::compile([&document], &BTreeMap::new(), None);
        compiled.unwrap().unwrap()
    }

    fn token(&self, id: usize) -> String {
        let header = BASE64URL.encode(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#);
        let payload = BASE64URL.encode(payload(id));
        let signed = format!("{header}.{payload}");
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}

fn payload(id: usize) -> String {
    format!(
        r#"{{"aud":"orders","exp":{},"iat":{NOW},"iss":"https://idp.bench","jti":"{id}","sub":"alice"}}"#,
        NOW + 3_600
    )
}

fn request(token: &str) -> Parts {
    let request = http::Request::builder().header("authorization", format!("Bearer {token}"));
    request.body(()).unwrap().into_parts().0
}

fn verify(policy: &TokenPolicy, head: &Parts, memo: &mut HeaderMemo) -> Verified {
    let presented = policy.find(head).unwrap().credential.unwrap();
    match policy.verify(presented, NOW, Fingerprint::new([7; 8]), memo) {
        Ok(Outcome::Verified(verified)) => verified,
        _ => unreachable!("the token is good"),
    }
}

/// The check alone, with a prepared key.
#[divan::bench]
fn signature(bencher: Bencher<'_, '_>) {
    let issuer = Issuer::new();
    let key =
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, issuer.0.public_key().as_ref()).unwrap();
    let token = issuer.token(0);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = BASE64URL.decode(signature).unwrap();
    bencher.bench_local(|| {
        key.verify_sig(black_box(signed.as_bytes()), black_box(&signature))
            .unwrap();
    });
}

/// Reading the claims alone.
#[divan::bench]
fn claims_read(bencher: Bencher<'_, '_>) {
    let payload = payload(0);
    bencher.bench_local(|| claims::parse(black_box(payload.as_bytes())).unwrap());
}

/// One token, again and again.
#[divan::bench]
fn verified(bencher: Bencher<'_, '_>) {
    let issuer = Issuer::new();
    let (policy, head) = (issuer.policy(), request(&issuer.token(0)));
    let mut memo = HeaderMemo::default();
    bencher.bench_local(|| verify(&policy, black_box(&head), &mut memo));
}

/// Tokens that take turns, of which the last 8,192 are kept, as a worker does: each makes room for itself.
#[divan::bench(sample_size = 100)]
fn verified_and_kept(bencher: Bencher<'_, '_>) {
    let issuer = Issuer::new();
    let policy = issuer.policy();
    let heads: Vec<Parts> = (0..10_000).map(|i| request(&issuer.token(i))).collect();
    let mut memo = HeaderMemo::default();
    let kept = heads.iter().take(8_192);
    let mut kept: Vec<Verified> = kept.map(|h| verify(&policy, h, &mut memo)).collect();
    let (mut at, slots) = (0, kept.len());
    bencher.bench_local(|| {
        kept[at % slots] = verify(&policy, &heads[at % heads.len()], &mut memo);
        at += 1;
    });
}
