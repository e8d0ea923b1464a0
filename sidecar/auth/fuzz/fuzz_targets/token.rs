//! Looks for a token that makes the verifier panic, for one that it accepts although nobody signed it, and for claims that
//! read differently once written again.
//!
//! With cargo-fuzz, in `sidecar/auth`:
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none token -- -max_len=4096 -max_total_time=600`.

#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mesh_auth::claims;
use mesh_auth::token::{Fingerprint, HeaderMemo, TokenPolicy};
use mesh_proto::mesh;

// The generator of P-256: a key whose private half is 1.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k",
"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

fn policy() -> &'static TokenPolicy {
    static POLICY: OnceLock<TokenPolicy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let document = mesh::RequestAuthentication {
            name: "r".into(),
            namespace: "n".into(),
            rules: vec![mesh::TokenRule {
                issuer: "i".into(),
                jwks: JWKS.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let compiled = TokenPolicy::compile([&document], &BTreeMap::new(), None);
        compiled.expect("it compiles").expect("it has a rule")
    })
}

fuzz_target!(|input: &[u8]| {
    if let Ok(object) = claims::parse(input) {
        let written = object.to_string();
        assert_eq!(claims::parse(written.as_bytes()), Ok(object));
    }
    let Ok(value) = http::HeaderValue::from_bytes(&[b"Bearer ", input].concat()) else {
        return;
    };
    let request = http::Request::builder().header("authorization", value);
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let Ok(found) = policy().find(&head) else {
        return;
    };
    if let Some(presented) = found.credential {
        let mut memo = HeaderMemo::default();
        let verdict = policy().verify(presented, 0, Fingerprint::new([0; 8]), &mut memo);
        // The generator's private key is 1: whoever finds that may sign. The fuzzer will not.
        assert!(verdict.is_err());
    }
});
