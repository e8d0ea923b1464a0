//! Opaque tokens of a certified provider: asked about, remembered for as long as the rule says, and no longer.
#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use mesh_e2e::http::{self, field};
use mesh_e2e::oidc::Provider;
use mesh_e2e::{Mesh, PATIENCE};
use mesh_e2e::{tls, token};
use serde_json::{Value, json};

const RESOURCE: &str = "urn:opaque:orders";
/// `maxCache` where a test waits for it to pass.
const SHORT: u64 = 1;

fn short() -> String {
    format!("{SHORT}s")
}

/// A mesh whose `orders` asks `provider` as its client `sidecar`, as `more` says.
fn mesh(provider: &Provider, more: Value) -> Mesh {
    let mesh = Mesh::start(&["--workers", "4"]);
    let mut client = more;
    client["clientId"] = "sidecar".into();
    client["credentialFile"] = path(provider, "secret");
    demand(&mesh, provider, client);
    mesh
}

fn path(provider: &Provider, name: &str) -> Value {
    provider.file(name).display().to_string().into()
}

/// Has `orders` demand tokens of `provider`, asked about as `introspection` says.
fn demand(mesh: &Mesh, provider: &Provider, mut introspection: Value) {
    introspection["endpoint"] = format!("{}/token/introspection", provider.issuer).into();
    introspection["caFile"] = path(provider, "ca.pem");
    introspection["timeout"] = "5s".into();
    mesh.apply(&token::orders_tokens(&json!({
        "issuer": provider.issuer, "audiences": [RESOURCE], "required": true,
        "outputClaimToHeaders": [
            {"header": "x-client", "claim": "client_id"}, {"header": "x-scope", "claim": "scope"},
        ],
        "introspection": introspection,
    })));
    mesh_e2e::eventually("a token is demanded", || mesh.call_orders().status == 401);
}

fn call(mesh: &Mesh, token: &str) -> http::Answer {
    let line = token::bearer(token);
    http::get(mesh.address("web", "outbound"), "orders", "/", &line)
}

fn refused(mesh: &Mesh, token: &str, status: u16, reason: &str) {
    let answer = call(mesh, token);
    assert_eq!(answer.status, status, "{}", answer.head);
    assert_eq!(field(&answer.head, "postern-reason"), Some(reason));
}

/// Calls until the answer is another than 200; how long that took.
fn until_refused(mesh: &Mesh, token: &str) -> (Duration, http::Answer) {
    let begin = Instant::now();
    loop {
        let answer = call(mesh, token);
        if answer.status != 200 {
            return (begin.elapsed(), answer);
        }
        assert!(begin.elapsed() < PATIENCE, "it is believed for ever");
    }
}

#[test]
fn an_opaque_token_is_asked_about_once_and_the_application_is_told_what_the_provider_says() {
    let provider = Provider::over_tls();
    let mesh = mesh(&provider, json!({"maxCache": "300s"}));
    let token = provider.token("web", RESOURCE);
    assert!(!token.contains('.'), "opaque");
    let answer = call(&mesh, &token);
    assert_eq!(answer.status, 200, "{}", answer.head);
    let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(told["headers"]["x-client"], "web", "{told}");
    assert_eq!(told["headers"]["x-scope"], "read", "{told}");
    assert!(told["headers"]["authorization"].is_null(), "{told}");
    for _ in 0..50 {
        assert_eq!(call(&mesh, &token).status, 200);
    }
    // Whichever worker it came to.
    assert_eq!(provider.introspections(), 1, "questions");

    let other = provider.token("web", "urn:opaque:payments");
    refused(&mesh, &other, 401, "token_wrong_audience");
    refused(&mesh, "nobody-issued-this", 401, "token_inactive");
}

#[test]
fn a_client_with_a_key_of_its_own_signs_what_the_provider_accepts() {
    let provider = Provider::over_tls();
    let mesh = Mesh::start(&[]);
    let key = path(&provider, "signer.key");
    demand(
        &mesh,
        &provider,
        json!({"auth": "private-key-jwt", "clientId": "signer", "keyId": "signer-1", "credentialFile": key}),
    );
    for _ in 0..3 {
        // The provider refuses an assertion that it has seen.
        let token = provider.token("web", RESOURCE);
        let answer = call(&mesh, &token);
        assert_eq!(answer.status, 200, "{}", answer.head);
    }
    refused(&mesh, "nobody-issued-this", 401, "token_inactive");
}

#[test]
fn the_workloads_own_certificate_proves_the_client_and_no_other_does() {
    for (workload, accepted) in [("orders", true), ("web", false)] {
        let mesh = Mesh::start(&[]);
        let id = format!("spiffe://demo.postern.internal/ns/demo/sa/{workload}");
        let provider = Provider::over_mutual_tls(&id, &mesh.trust_bundle());
        demand(&mesh, &provider, json!({"auth": "svid", "clientId": id}));
        let token = provider.token("web", RESOURCE);
        if accepted {
            let answer = call(&mesh, &token);
            assert_eq!(answer.status, 200, "{}", answer.head);
        } else {
            refused(&mesh, &token, 503, "introspection_failed");
        }
    }
}

#[test]
fn a_provider_that_knows_the_very_certificate_takes_that_and_no_other() {
    let mesh = Mesh::start(&[]);
    let id = "spiffe://demo.postern.internal/ns/demo/sa/orders";
    let anybody = tls::Client::new(None);
    for (workload, accepted) in [("orders", true), ("web", false)] {
        let pinned = anybody.certificate_of(mesh.address(workload, "mesh"));
        let provider = Provider::over_tls_with_pinned(id, &pinned);
        demand(&mesh, &provider, json!({"auth": "svid", "clientId": id}));
        let token = provider.token("web", RESOURCE);
        let expected = if accepted { 200 } else { 503 };
        // The rule of the provider before may still be in force.
        mesh_e2e::eventually("it is asked about", || {
            call(&mesh, &token).status == expected
        });
    }
}

#[test]
fn a_token_revoked_at_the_provider_is_refused_when_the_answer_is_no_longer_believed() {
    let provider = Provider::over_tls();
    let mesh = mesh(&provider, json!({"maxCache": short()}));
    let (lost, kept) = (
        provider.token("web", RESOURCE),
        provider.token("web", RESOURCE),
    );
    assert_eq!(call(&mesh, &lost).status, 200);
    provider.revoke("web", &lost);
    let (took, answer) = until_refused(&mesh, &lost);
    assert_eq!(answer.status, 401, "{}", answer.head);
    assert_eq!(
        field(&answer.head, "postern-reason"),
        Some("token_inactive")
    );
    // The bound, and what one slow exchange may take.
    assert!(took < Duration::from_secs(SHORT + 5), "{took:?}");
    assert_eq!(call(&mesh, &kept).status, 200);
}

#[test]
fn nobody_waits_while_an_answer_that_is_not_fresh_is_asked_for_again() {
    let provider = Provider::over_tls();
    let mesh = mesh(&provider, json!({"maxCache": short(), "stale": "60s"}));
    let token = provider.token("web", RESOURCE);
    assert_eq!(call(&mesh, &token).status, 200);
    let asked = provider.introspections();
    let slow = Duration::from_secs(3);
    provider.delay_introspection(3000);
    let begin = Instant::now();
    // Asked again, answered, and asked again after that.
    while provider.introspections() < asked + 2 {
        let called = Instant::now();
        assert_eq!(call(&mesh, &token).status, 200);
        assert!(called.elapsed() < slow, "it waited for the provider");
        assert!(begin.elapsed() < PATIENCE, "it is never asked for again");
    }
    provider.delay_introspection(0);
    provider.revoke("web", &token);
    let (took, answer) = until_refused(&mesh, &token);
    assert_eq!(answer.status, 401, "{}", answer.head);
    assert!(took < Duration::from_secs(SHORT + 10), "{took:?}");
}

#[test]
fn without_the_provider_nobody_is_let_in_and_the_reason_is_told() {
    let mut provider = Provider::over_tls();
    let mesh = mesh(&provider, json!({"maxCache": short()}));
    let (known, unknown) = (
        provider.token("web", RESOURCE),
        provider.token("web", RESOURCE),
    );
    assert_eq!(call(&mesh, &known).status, 200);
    provider.stop();
    refused(&mesh, &unknown, 503, "introspection_failed");
    let (_, answer) = until_refused(&mesh, &known);
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert_eq!(
        field(&answer.head, "postern-reason"),
        Some("introspection_failed")
    );
}
