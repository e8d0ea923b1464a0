//! Tokens through two real sidecars: what is let through, what is refused, and how it is said.
#![allow(clippy::expect_used)]

use std::path::PathBuf;

use mesh_e2e::Mesh;
use mesh_e2e::http::{self, field};
use mesh_e2e::token::{self, ISSUER, Issuer, bearer, claims, in_seconds};
use serde_json::{Value, json};

/// A mesh whose `orders` takes tokens of `issuer`, and whose `/open` needs none.
fn mesh(issuer: &Issuer, directory: &tempfile::TempDir) -> Mesh {
    let documents = format!(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: orders-tokens, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  jwtRules:
  - issuer: {ISSUER}
    audiences: [orders]
    jwks: '{jwks}'
    forwardOriginalToken: false
    outputClaimToHeaders:
    - {{header: x-subject, claim: sub}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: orders-subjects, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  action: DENY
  rules:
  - from:
    - source: {{notRequestPrincipals: ["*"]}}
    to:
    - operation: {{notPaths: ["/open"]}}
"#,
        jwks = issuer.jwks()
    );
    let file: PathBuf = directory.path().join("tokens.yaml");
    std::fs::write(&file, documents).expect("written");
    Mesh::start(&["--policy", file.to_str().expect("a path")])
}

fn call(mesh: &Mesh, path: &str, lines: &str) -> http::Answer {
    http::get(mesh.address("web", "outbound"), "orders", path, lines)
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

#[test]
fn a_credential_that_comes_again_reaches_the_application_as_it_was_sent() {
    let mesh = Mesh::start(&[]);
    for name in ["a", "b"] {
        let value = format!("Bearer {}", name.repeat(300));
        for time in 1..=3 {
            let answer = call(&mesh, "/", &format!("authorization: {value}\r\n"));
            assert_eq!(answer.status, 200, "{}", answer.head);
            let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(told["headers"]["authorization"], *value, "time {time}");
            assert!(!answer.text().contains("postern-"), "{}", answer.text());
        }
    }
}

#[test]
fn good_tokens_pass_and_every_other_is_refused_with_its_reason() {
    let issuer = Issuer::new("k1");
    let stranger = Issuer::new("k1");
    let directory = tempfile::tempdir().expect("a directory");
    let mesh = mesh(&issuer, &directory);
    let header = issuer.header();
    let good = issuer.sign(&header, &claims());

    // Again and again: what comes again goes another way between the sidecars.
    for _ in 0..3 {
        let answer = call(&mesh, "/", &bearer(&good));
        assert_eq!(answer.status, 200, "{}", answer.head);
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(told["headers"]["x-subject"], "alice");
        assert!(
            told["headers"]["authorization"].is_null(),
            "not forwarded: {told}"
        );
    }
    let answer = call(
        &mesh,
        "/",
        &format!("postern-authorization: Bearer {good}\r\n"),
    );
    assert_eq!(answer.status, 403, "no way in from outside");
    let answer = call(
        &mesh,
        "/open",
        "x-subject: mallory\r\nX_Subject: mallory\r\n",
    );
    assert_eq!(answer.status, 200, "no token is no error by itself");
    assert!(
        !answer.text().contains("mallory"),
        "claims from outside are removed: {}",
        answer.text()
    );

    let (first, rest) = good.split_at(good.len() - 1);
    let twin = format!("{first}{}", if rest == "A" { "Q" } else { "A" });
    let signed = |claims: &Value| issuer.sign(&header, claims);
    let under = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header);
        issuer.sign(&header, &claims())
    };
    let none = token::segments(r#"{"alg":"none"}"#, &claims().to_string());
    let twice = format!(
        r#"{{"iss":"{ISSUER}","sub":"alice","sub":"root","aud":"orders","exp":{}}}"#,
        in_seconds(60)
    );
    let cases: Vec<(&str, String, u16, &str)> = vec![
        (
            "expired",
            signed(&with(|c| c["exp"] = in_seconds(-3600).into())),
            401,
            "token_expired",
        ),
        (
            "no exp",
            signed(&with(|c| {
                drop(c.as_object_mut().expect("object").remove("exp"));
            })),
            401,
            "token_claim",
        ),
        (
            "exp as text",
            signed(&with(|c| c["exp"] = "never".into())),
            401,
            "token_claim",
        ),
        (
            "not yet",
            signed(&with(|c| c["nbf"] = in_seconds(3600).into())),
            401,
            "token_not_yet_valid",
        ),
        (
            "other audience",
            signed(&with(|c| c["aud"] = "payments".into())),
            401,
            "token_wrong_audience",
        ),
        (
            "audience prefix",
            signed(&with(|c| c["aud"] = "orders2".into())),
            401,
            "token_wrong_audience",
        ),
        (
            "no audience",
            signed(&with(|c| {
                drop(c.as_object_mut().expect("object").remove("aud"));
            })),
            401,
            "token_wrong_audience",
        ),
        (
            "other issuer",
            signed(&with(|c| c["iss"] = "https://evil.test".into())),
            401,
            "token_unknown_issuer",
        ),
        (
            "issuer with slash",
            signed(&with(|c| c["iss"] = format!("{ISSUER}/").into())),
            401,
            "token_unknown_issuer",
        ),
        (
            "stranger's key",
            stranger.sign(&header, &claims()),
            401,
            "token_bad_signature",
        ),
        ("mutated", twin, 401, "token_bad_signature"),
        (
            "unknown kid",
            under(&|h| h["kid"] = "k9".into()),
            401,
            "token_unknown_key",
        ),
        ("alg none", format!("{none}."), 401, "token_algorithm"),
        (
            "HS256 with the public key",
            token::hmac_signed(
                &json!({"alg": "HS256", "kid": "k1"}),
                &claims(),
                issuer.public(),
            ),
            401,
            "token_algorithm",
        ),
        (
            "crit",
            under(&|h| {
                h["crit"] = json!(["exp"]);
                h["exp"] = 1.into();
            }),
            401,
            "token_malformed",
        ),
        (
            "b64 false",
            under(&|h| h["b64"] = false.into()),
            401,
            "token_malformed",
        ),
        (
            "duplicate claim",
            issuer.sign_text(&header.to_string(), &twice),
            401,
            "token_malformed",
        ),
        ("two segments", none, 401, "token_malformed"),
        ("garbage", "not-a-token".into(), 401, "token_malformed"),
        ("padding", format!("{good}="), 401, "token_malformed"),
    ];
    for (name, token, status, reason) in cases {
        let answer = call(&mesh, "/open", &bearer(&token));
        let told = field(&answer.head, "postern-reason");
        assert_eq!(
            (answer.status, told),
            (status, Some(reason)),
            "{name}: {}",
            answer.head
        );
        let challenge = field(&answer.head, "www-authenticate").expect("a challenge");
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{name}: {challenge}"
        );
        assert!(!answer.text().contains(&token), "{name}");
        // Remembered failures answer alike.
        assert_eq!(
            call(&mesh, "/open", &bearer(&token)).status,
            status,
            "{name}"
        );
    }
    let twice = format!("{}{}", bearer(&good), bearer(&good));
    let answer = call(&mesh, "/open", &twice);
    assert_eq!(answer.status, 400, "{}", answer.head);
    assert_eq!(call(&mesh, "/", "").status, 403, "policy wants a subject");
    assert_eq!(call(&mesh, "/", &bearer(&good)).status, 200, "still good");
}
