//! A token that names its holder's certificate: good for that holder, also with the certificates that follow, and for nobody
//! else.
#![allow(clippy::expect_used)]

use mesh_e2e::http::{self, field};
use mesh_e2e::token::{self, ISSUER, Issuer, bearer, claims};
use mesh_e2e::{Mesh, eventually};
use serde_json::{Value, json};

/// What `orders` is told of the certificate that `web` presents, as a thumbprint (RFC 8705 §3.1).
fn thumbprint(mesh: &Mesh) -> String {
    let answer = mesh.call_orders();
    assert_eq!(answer.status, 200, "{}", answer.head);
    let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let header = told["headers"]["x-forwarded-client-cert"].as_str();
    let mut parts = header.expect("a caller").split(';');
    let digest = parts
        .find_map(|part| part.strip_prefix("Hash="))
        .expect("a digest");
    token::thumbprint(digest)
}

fn call(mesh: &Mesh, from: &str, token: &str) -> (u16, Option<String>) {
    let answer = http::get(
        mesh.address(from, "outbound"),
        "orders",
        "/",
        &bearer(token),
    );
    let reason = field(&answer.head, "postern-reason").map(str::to_owned);
    (answer.status, reason)
}

/// How many tokens `orders` refused because somebody else presented them.
fn mismatches(mesh: &Mesh) -> u64 {
    let metrics = mesh.metrics("orders");
    let mut counts = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let counted = series.starts_with("postern_token_verifications_total{")
            && series.contains(r#"result="token_binding_mismatch""#);
        counted.then(|| value.parse::<u64>().expect("a number"))
    });
    counts.next().unwrap_or(0)
}

#[test]
fn a_token_bound_to_a_certificate_outlives_it_for_its_holder_and_is_refused_from_anybody_else() {
    let issuer = Issuer::new("k1");
    let mesh = Mesh::start(&[]);
    let bound = |to: &str| {
        let mut claims = claims();
        claims["cnf"] = json!({"x5t#S256": to});
        issuer.sign(&issuer.header(), &claims)
    };
    let first = thumbprint(&mesh);
    let token = bound(&first);
    mesh.apply(&token::orders_tokens(&json!({
        "issuer": ISSUER, "audiences": ["orders"], "jwks": issuer.jwks(),
        "binding": {"certificate": true},
    })));
    let mismatch = (401, Some("token_binding_mismatch".to_owned()));
    let unbound = issuer.sign(&issuer.header(), &claims());
    eventually("the rule is in force", || {
        call(&mesh, "web", &unbound) == mismatch
    });
    assert_eq!(call(&mesh, "web", &token).0, 200);
    let before = mismatches(&mesh);
    assert_eq!(call(&mesh, "payments", &token), mismatch, "stolen");
    assert_eq!(mismatches(&mesh), before + 1, "and counted");

    mesh.rotate("web");
    eventually("web presents another certificate", || {
        thumbprint(&mesh) != first
    });
    let second = thumbprint(&mesh);
    for _ in 0..3 {
        assert_eq!(call(&mesh, "web", &token).0, 200, "it is still web");
        assert_eq!(call(&mesh, "web", &bound(&second)).0, 200);
    }
    for stolen in [&token, &bound(&second)] {
        assert_eq!(call(&mesh, "payments", stolen), mismatch, "stolen");
    }
    let nobodys = token::thumbprint(&"00".repeat(32));
    assert_eq!(call(&mesh, "web", &bound(&nobodys)), mismatch);
    assert_eq!(mismatches(&mesh), before + 4);
}
