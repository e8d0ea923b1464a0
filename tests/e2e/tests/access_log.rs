//! The access log and spans of what is no plain request: tunnels that are cut, tokens that are remembered or refused, TLS
//! handshakes.
#![allow(clippy::expect_used)]

use std::io::{Read as _, Write as _};

use mesh_e2e::collector::Collector;
use mesh_e2e::token::{ISSUER, Issuer, claims};
use mesh_e2e::{Mesh, eventually, http, tls};
use serde_json::Value;

/// The lines of `workload` that fit, once there are `count` of them.
fn lines(mesh: &Mesh, workload: &str, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{count} lines of {workload}"), || {
        found = mesh.access_log(workload);
        found.retain(|line| fits(line));
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

#[test]
fn a_tunnel_has_one_line_in_each_sidecar_with_its_bytes_also_when_it_is_cut() {
    let mesh = Mesh::with_environment(&["--access-log"], &[]);
    for is_cut in [false, true] {
        let mut tunnel = http::connect(mesh.tcp_service("orders:7000"));
        tunnel.write_all(b"0123456789").expect("written");
        let mut echo = [0; 10];
        if is_cut {
            // What was sent back is there and is not read: closing resets the connection.
            while tunnel.peek(&mut echo).expect("echoed") < echo.len() {}
        } else {
            tunnel.read_exact(&mut echo).expect("echoed");
        }
    }
    for (workload, direction) in [("web", "outbound"), ("orders", "inbound")] {
        let told = lines(&mesh, workload, 2, |line| {
            line["protocol"] == "tcp" && line["direction"] == direction
        });
        for line in &told {
            assert_eq!((&line["sent"], &line["received"]), (&10.into(), &10.into()));
            assert!(line["duration_us"].as_u64() > Some(0), "{line}");
            assert!(line["peer"].is_string() && line["workload"].is_string());
        }
        let errors = told.iter().filter(|line| line["error"].is_string());
        assert_eq!(errors.count(), 1, "{told:#?}");
    }
}

#[test]
fn a_line_says_whether_the_token_was_remembered_and_a_refused_one_waited_for_nobody() {
    let issuer = Issuer::new("k1");
    let mesh = Mesh::with_environment(&["--access-log"], &[]);
    mesh.apply(&format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: demo}}\n\
         spec:\n  selector: {{matchLabels: {{app: orders}}}}\n  jwtRules:\n  - issuer: {ISSUER}\n    audiences: [orders]\n    jwks: '{}'\n",
        issuer.jwks()
    ));
    let good = issuer.sign(&issuer.header(), &claims());
    let bad = Issuer::new("k1").sign(&issuer.header(), &claims());
    let ask = |token: &str| {
        let line = format!("authorization: Bearer {token}\r\n");
        http::get(mesh.address("web", "outbound"), "orders", "/", &line).status
    };
    eventually("the rule is in force", || ask(&bad) == 401);
    assert_eq!([ask(&good), ask(&good)], [200, 200]);
    let told = lines(&mesh, "orders", 2, |line| {
        line["status"] == 200 && line["token_cached"].is_boolean()
    });
    assert_eq!(
        [&told[0]["token_cached"], &told[1]["token_cached"]],
        [&Value::Bool(false), &Value::Bool(true)]
    );
    for line in mesh.access_log("orders") {
        assert!(!line.to_string().contains(&good), "{line}");
        if line["status"] == 401 {
            let phases = &line["phases_us"];
            assert!(phases["token"].is_u64(), "{line}");
            assert!(phases["introspect"].is_null(), "{line}");
        }
    }
}

#[test]
fn a_caller_of_the_trust_domain_who_asks_is_told_how_long_authentication_took() {
    let mesh = Mesh::start(&[]);
    let ask = |line: &str| {
        let outbound = mesh.address("web", "outbound");
        let answer = http::get(outbound, "orders", "/headers", line);
        let timing = http::field(&answer.head, "x-auth-timing").map(str::to_owned);
        (answer.text(), timing)
    };
    let (seen, timing) = ask("x-auth-timing: please\r\n");
    let timing = timing.expect("told");
    assert!(timing.starts_with("admit;dur=0."), "{timing}");
    assert!(timing.contains(", policy;dur=0."), "{timing}");
    assert!(
        !seen.to_ascii_lowercase().contains("x-auth-timing"),
        "{seen}"
    );
    assert_eq!(ask("").1, None);
    // Plaintext has no trust domain.
    mesh.apply(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open, namespace: demo}\n\
         spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: PERMISSIVE}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: everybody, namespace: demo}\n\
         spec: {selector: {matchLabels: {app: orders}}, rules: [{}]}\n",
    );
    let inbound = mesh.address("orders", "inbound");
    let mut plain = None;
    eventually("plaintext is let in", || {
        let answer = http::get(inbound, "orders", "/", "x-auth-timing: please\r\n");
        let status = answer.status;
        plain = Some(answer);
        status == 200
    });
    let head = plain.expect("answered").head;
    assert_eq!(http::field(&head, "x-auth-timing"), None, "{head}");
}

#[test]
fn a_handshake_is_a_span_and_a_refused_one_a_line() {
    let collector = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
    let mesh = Mesh::with_environment(
        &["--access-log"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ],
    );
    assert_eq!(mesh.call_orders().status, 200);
    let stranger = tls::credential(
        &tls::other_authority(),
        &["spiffe://demo.postern.internal/ns/demo/sa/web"],
        time::Duration::minutes(-5),
    );
    let refused = tls::first_byte(mesh.address("orders", "mesh"), Some(&stranger));
    assert!(refused.is_err(), "{refused:?}");
    let handshakes = |service: &str, kind: &str| {
        let mut spans = collector.spans();
        spans.retain(|s| {
            s["name"] == "tls.handshake"
                && s["resource"]["service.name"] == service
                && s["kind"] == kind
        });
        spans
    };
    let mut spans = Vec::new();
    eventually("spans of both handshakes at orders", || {
        spans = handshakes("demo/orders", "SPAN_KIND_SERVER");
        spans.len() >= 2
    });
    let of = |established: bool| {
        let found = spans
            .iter()
            .find(|s| s["attributes"]["tls.established"] == established);
        found.unwrap_or_else(|| panic!("{established}: {spans:#?}"))
    };
    assert_eq!(of(true)["attributes"]["tls.protocol.version"], "1.3");
    assert_eq!(
        of(true)["attributes"]["postern.peer.id"],
        "spiffe://demo.postern.internal/ns/demo/sa/web"
    );
    assert_eq!(of(false)["attributes"]["error.type"], "peer_unverified");
    assert_eq!(of(false)["status"], "STATUS_CODE_ERROR");
    let mut dialled = Vec::new();
    eventually("a span of web's side of the handshake", || {
        dialled = handshakes("demo/web", "SPAN_KIND_CLIENT");
        !dialled.is_empty()
    });
    let dialled = &dialled[0]["attributes"];
    assert_eq!(dialled["tls.established"], true);
    assert_eq!(
        dialled["postern.peer.id"],
        "spiffe://demo.postern.internal/ns/demo/sa/orders"
    );
    let told = lines(&mesh, "orders", 1, |line| line["protocol"] == "tls");
    assert_eq!(told[0]["reason"], "peer_unverified");
}
