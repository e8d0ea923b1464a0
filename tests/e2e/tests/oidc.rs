//! Tokens of a certified OpenID provider: found by discovery, accepted, and its keys followed while requests flow.
#![allow(clippy::expect_used)]

use std::time::Instant;

use mesh_e2e::http::{self, field};
use mesh_e2e::oidc::Provider;
use mesh_e2e::{Mesh, PATIENCE, eventually, token};
use serde_json::json;

fn mesh(provider: &Provider, directory: &tempfile::TempDir) -> Mesh {
    let documents = token::orders_tokens(&json!({
        "issuer": provider.issuer, "audiences": ["urn:orders"], "profile": "at+jwt", "required": true,
        "binding": {"rules": [
            {"claim": "client_id", "principal": "spiffe://demo.postern.internal/ns/demo/sa/{value}"},
        ]},
    }));
    let file = directory.path().join("tokens.yaml");
    std::fs::write(&file, documents).expect("written");
    Mesh::start(&[
        "--policy",
        file.to_str().expect("a path"),
        "--control-api-flag=--allow-local-fetch",
        "--control-api-flag=--key-refetch=1s",
    ])
}

fn call(mesh: &Mesh, token: &str) -> http::Answer {
    let line = token::bearer(token);
    http::get(mesh.address("web", "outbound"), "orders", "/", &line)
}

#[test]
fn tokens_of_a_certified_provider_pass_and_its_keys_are_followed_while_requests_flow() {
    let provider = Provider::start();
    let directory = tempfile::tempdir().expect("a directory");
    let mesh = mesh(&provider, &directory);
    let first = provider.token("web", "urn:orders");
    // Before the first key set arrives it is "not now", never "no".
    eventually("the keys arrive", || {
        let answer = call(&mesh, &first);
        assert!([200, 503].contains(&answer.status), "{}", answer.head);
        answer.status == 200
    });
    let refused = |token: &str, reason: &str| {
        let answer = call(&mesh, token);
        assert_eq!(answer.status, 401, "{}", answer.head);
        assert_eq!(field(&answer.head, "postern-reason"), Some(reason));
    };
    refused(
        &provider.token("web", "urn:payments"),
        "token_wrong_audience",
    );
    refused(
        &provider.token("other", "urn:orders"),
        "token_binding_mismatch",
    );
    refused(&provider.token("web", "urn:opaque"), "token_malformed");

    for _ in 0..3 {
        provider.rotate(1);
        let fetches = provider.key_fetches();
        let token = provider.token("web", "urn:orders");
        let end = Instant::now() + PATIENCE;
        // Requests flow on: the new key's tokens are "not now" at worst, the old key's pass all the while.
        loop {
            let answer = call(&mesh, &token);
            assert!([200, 503].contains(&answer.status), "{}", answer.head);
            assert!(Instant::now() < end, "the new key never came");
            if answer.status == 200 {
                break;
            }
        }
        assert!(
            provider.key_fetches() <= fetches + 2,
            "requests share a fetch"
        );
    }
}
