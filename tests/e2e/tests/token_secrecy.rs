//! Tokens go every way there is while everybody logs all that he can, and afterwards they are nowhere to be read.
#![allow(clippy::expect_used)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{BufReader, Read as _, Write as _};
use std::path::Path;

use mesh_e2e::collector::Collector;
use mesh_e2e::http::{self, Answer, field};
use mesh_e2e::oidc::Provider;
use mesh_e2e::token::{self, ISSUER, Issuer, bearer, claims, in_seconds};
use mesh_e2e::{Mesh, eventually};
use serde_json::{Value, json};

const RESOURCE: &str = "urn:opaque:orders";
/// What no claim of a token may show up as.
const CANARY: &str = "canary-jti-5f2e";
/// As much of a token as would help somebody.
const TELLING: usize = 16;

/// `orders` takes signed tokens of `issuer` in three places, opaque ones of `provider`, and waits for keys that never come.
fn documents(issuer: &Issuer, provider: &Provider) -> String {
    let file = |name| provider.file(name).display().to_string();
    let headers = json!([{"name": "authorization", "prefix": "Bearer "}]);
    let signed = json!({
        "issuer": ISSUER, "audiences": ["orders"], "jwks": issuer.jwks(),
        "fromHeaders": headers, "fromParams": ["access_token"], "fromCookies": ["session"],
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-subject", "claim": "sub"}],
        "routes": [{"paths": ["/kept"], "forward": "keep"}, {"paths": ["/demanded"], "required": true}],
    });
    let opaque = json!({
        "issuer": provider.issuer, "audiences": [RESOURCE],
        "introspection": {
            "clientId": "sidecar", "credentialFile": file("secret"), "caFile": file("ca.pem"),
            "endpoint": format!("{}/token/introspection", provider.issuer), "timeout": "5s",
        },
    });
    let keyless = json!({"issuer": "https://nowhere.test", "jwksUri": "https://nowhere.test/keys"});
    json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "orders-tokens", "namespace": "demo"},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}}, "jwtRules": [signed, opaque, keyless],
        },
    })
    .to_string()
}

/// What was presented, and what was said.
struct Record<'a> {
    mesh: &'a Mesh,
    tokens: Vec<String>,
    outputs: String,
}

impl Record<'_> {
    fn keep(&mut self, answer: &Answer) {
        self.outputs.push_str(&answer.head);
        // The application says what it got; everybody else must not.
        if answer.status != 200 {
            self.outputs.push_str(&answer.text());
        }
    }

    /// Presents a token and is answered `reason`, or 200.
    fn present(&mut self, path: &str, lines: &str, token: &str, reason: Option<&str>) {
        self.tokens.push(token.to_owned());
        let answer = http::get(self.mesh.address("web", "outbound"), "orders", path, lines);
        assert_eq!(
            field(&answer.head, "postern-reason"),
            reason,
            "{}",
            answer.head
        );
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(id) = told["decision_id"].as_str() {
            let why = self.mesh.meshctl(&["authz", "why", id]);
            self.outputs.push_str(&String::from_utf8_lossy(&why.stdout));
        }
        self.keep(&answer);
    }

    fn bearer(&mut self, token: &str, reason: Option<&str>) {
        self.present("/", &bearer(token), token, reason);
    }
}

/// A WebSocket that `token` opened and its revocation ends.
fn revoke_while_open(record: &mut Record<'_>, token: &str, jti: &str) {
    record.tokens.push(token.to_owned());
    let mut stream = http::connect(record.mesh.address("web", "outbound"));
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
        bearer(token)
    );
    stream.write_all(request.as_bytes()).expect("written");
    let mut stream = BufReader::new(stream);
    let head = http::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    record.outputs.push_str(&head);
    let revoked = [
        "revoke", "token", "--issuer", ISSUER, "--jti", jti, "--wait",
    ];
    let said = record.mesh.meshctl(&revoked);
    assert!(said.status.success(), "{said:?}");
    stream.read_to_end(&mut Vec::new()).ok();
    record.bearer(token, Some("token_revoked"));
}

/// Every way of a token.
fn drive(record: &mut Record<'_>, issuer: &Issuer, provider: &mut Provider) {
    let header = issuer.header();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        change(&mut claims);
        issuer.sign(&header, &claims)
    };
    let good = with(&|_| {});
    // What comes again goes another way between the sidecars.
    for _ in 0..3 {
        record.bearer(&good, None);
    }
    record.present("/kept", &bearer(&good), &good, None);
    record.present("/demanded", "", &good, Some("token_missing"));
    record.present(&format!("/?access_token={good}"), "", &good, None);
    record.present("/", &format!("cookie: session={good}\r\n"), &good, None);
    let twice = bearer(&good).repeat(2);
    record.present("/", &twice, &good, Some("token_duplicate"));
    let inside = format!("postern-authorization: Bearer {good}\r\nx-payload: {good}\r\n");
    record.present("/", &inside, &good, None);

    let expired = with(&|c| c["exp"] = in_seconds(-3600).into());
    let stranger = Issuer::new("k1").sign(&header, &claims());
    for (token, reason) in [
        (expired, "token_expired"),
        (stranger, "token_bad_signature"),
        (
            with(&|c| c["aud"] = "payments".into()),
            "token_wrong_audience",
        ),
        (
            with(&|c| c["iss"] = "https://evil.test".into()),
            "token_unknown_issuer",
        ),
        (
            with(&|c| c["iss"] = "https://nowhere.test".into()),
            "keys_unavailable",
        ),
        (
            with(&|c| c["sub"] = json!({"name": "alice"})),
            "token_claim",
        ),
        (
            Issuer::new("k9").sign(&Issuer::new("k9").header(), &claims()),
            "token_unknown_key",
        ),
        (
            format!(
                "{}.",
                token::segments(r#"{"alg":"none"}"#, &claims().to_string())
            ),
            "token_algorithm",
        ),
        (
            issuer.sign_text("no header", &claims().to_string()),
            "token_inactive",
        ),
        (
            issuer.sign_text(&header.to_string(), &format!("{} ", claims()).repeat(50)),
            "token_too_large",
        ),
    ] {
        // Refusals are remembered.
        for _ in 0..2 {
            record.bearer(&token, Some(reason));
        }
    }
    // What the operator names himself may be written.
    let lost = with(&|c| c["jti"] = "lost".into());
    revoke_while_open(record, &lost, "lost");

    let opaque = provider.token("web", RESOURCE);
    for _ in 0..3 {
        record.bearer(&opaque, None);
    }
    let other = provider.token("web", "urn:opaque:payments");
    record.bearer(&other, Some("token_wrong_audience"));
    record.bearer(
        "nobody-issued-this-token-to-anybody",
        Some("token_inactive"),
    );
    let unasked = provider.token("web", RESOURCE);
    provider.stop();
    record.bearer(&unasked, Some("introspection_failed"));

    // Past the sidecar of the caller: nobody without mutual TLS is heard.
    let plain = http::get(
        record.mesh.address("orders", "inbound"),
        "orders",
        "/",
        &bearer(&good),
    );
    record.keep(&plain);
}

/// What everybody wrote or tells of himself.
fn collect(record: &mut Record<'_>, spans: &Collector) {
    let mesh = record.mesh;
    for workload in ["web", "orders"] {
        for path in ["/metrics", "/config_dump", "/readyz"] {
            let answer = http::get(mesh.address(workload, "admin"), "127.0.0.1", path, "");
            assert_eq!(answer.status, 200, "{path}");
            record.outputs.push_str(&answer.text());
        }
    }
    record.outputs.push_str(&mesh.control_api_metrics());
    for arguments in [
        &["status", "-o", "json"][..],
        &["revoke", "list", "-o", "json"],
    ] {
        let said = mesh.meshctl(arguments);
        record
            .outputs
            .push_str(&String::from_utf8_lossy(&said.stdout));
    }
    eventually("the last span is told", || {
        let told = |span: &Value| {
            span["attributes"]
                .to_string()
                .contains("introspection_failed")
        };
        spans.spans().iter().any(told)
    });
    for span in spans.spans() {
        write!(record.outputs, "{span}").expect("a string");
    }
    read_all(&mesh.directory(), &mut record.outputs);
}

/// Logs, access logs, states: every file.
fn read_all(directory: &Path, into: &mut String) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            read_all(&entry.path(), into);
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).expect("a file");
            into.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

/// A piece of one of the tokens that is in `text`: of payload or signature, or of an opaque one. Headers are no secret.
fn leaked<'a>(tokens: &[String], text: &'a str) -> Option<&'a str> {
    let mut pieces = HashSet::new();
    for token in tokens {
        let opaque = !token.contains('.');
        for segment in token.split('.').skip(usize::from(!opaque)) {
            pieces.extend(segment.as_bytes().windows(TELLING));
        }
    }
    let at = text
        .as_bytes()
        .windows(TELLING)
        .position(|window| pieces.contains(window))?;
    text.get(at.saturating_sub(200)..at)
}

#[test]
fn at_trace_level_a_token_is_nowhere_to_be_read_whichever_way_it_went() {
    let issuer = Issuer::new("k1");
    let mut provider = Provider::over_tls();
    let spans = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", spans.grpc);
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mesh = Mesh::with_environment(
        &[
            "--access-log",
            "--log=trace",
            "--control-api-flag=--allow-local-fetch",
            "--control-api-flag=--key-refetch=1s",
        ],
        &environment,
    );
    mesh.apply(&documents(&issuer, &provider));
    eventually("the rules are in force", || {
        let demanded = http::get(mesh.address("web", "outbound"), "orders", "/demanded", "");
        demanded.status == 401
    });
    let mut record = Record {
        mesh: &mesh,
        tokens: Vec::new(),
        outputs: String::new(),
    };
    drive(&mut record, &issuer, &mut provider);
    collect(&mut record, &spans);
    let Record {
        tokens, outputs, ..
    } = record;
    // The search has something to search: libraries' frames, refusals, spans.
    for expected in [
        "TRACE",
        "h2::",
        "token_wrong_audience",
        "SPAN_KIND_SERVER",
        "postern_token",
    ] {
        assert!(outputs.contains(expected), "no {expected}");
    }
    let found = leaked(&tokens, &outputs);
    assert_eq!(found, None, "a piece of a token follows this");
    assert!(!outputs.contains(CANARY), "a claim was written");
}

#[test]
fn the_search_finds_a_piece_of_a_token() {
    let token = Issuer::new("k1").sign(&json!({"alg": "ES256"}), &claims());
    let piece = &token[token.len() - 20..];
    let tokens = [token.clone(), "an-opaque-token-of-somebody".to_owned()];
    assert_eq!(leaked(&tokens, &format!("said: {piece}")), Some("said: "));
    assert_eq!(leaked(&tokens, "x an-opaque-token-of-"), Some("x "));
    assert_eq!(leaked(&tokens, &token[..18]), None, "the header");
}
