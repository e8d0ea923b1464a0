//! What an operator sees: spans at a real collector, the access log, and metrics that Prometheus' own tool accepts.
#![allow(clippy::expect_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use mesh_e2e::collector::Collector;
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// A query, a cookie and a token that must be seen nowhere.
const SECRETS: &str = "cookie: sid=s3cret\r\nauthorization: Basic czNjcmV0OnMzY3JldA==\r\n";

fn mesh(environment: &[(&str, &str)]) -> Mesh {
    Mesh::with_environment(&["--access-log"], environment)
}

fn id(workload: &str) -> String {
    format!("spiffe://demo.postern.internal/ns/demo/sa/{workload}")
}

/// The spans of one trace that are no phases, by the workload whose sidecar made them and their kind.
fn find<'a>(spans: &'a [Value], workload: &str, kind: &str) -> Vec<&'a Value> {
    let service = format!("demo/{workload}");
    spans
        .iter()
        .filter(|s| s["resource"]["service.name"] == service.as_str() && s["kind"] == kind)
        .collect()
}

fn the<'a>(spans: &'a [Value], workload: &str, kind: &str) -> &'a Value {
    let found = find(spans, workload, kind);
    assert_eq!(found.len(), 1, "{workload} {kind}: {spans:#?}");
    found[0]
}

fn took(span: &Value) -> u64 {
    span["end"].as_u64().expect("a time") - span["start"].as_u64().expect("a time")
}

fn in_trace(collector: &Collector, trace: &str) -> Vec<Value> {
    let spans = collector.spans();
    spans.into_iter().filter(|s| s["trace"] == trace).collect()
}

/// A phase of a request's span.
fn is_child(of: &Value, parent: &Value) -> bool {
    of["parent"] == parent["span"] && of["kind"] == "SPAN_KIND_INTERNAL"
}

#[test]
fn a_request_through_three_services_is_one_tree_of_spans_and_tells_no_secret() {
    let collector = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
    let mesh = mesh(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20sky"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    let caller = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n");
    let answer = http::get(
        mesh.address("web", "outbound"),
        "orders",
        "/call-payments?token=s3cret",
        &format!("{caller}{SECRETS}"),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The collector writes a batch span by span: a parent can be read before its children are there.
    let is_whole = |spans: &[Value], span: &Value| {
        let children = spans.iter().filter(|s| is_child(s, span));
        children.map(took).sum::<u64>() * 100 >= took(span) * 95
    };
    eventually(
        "four spans of one trace, each with children for 95 % of it",
        || {
            let spans = in_trace(&collector, TRACE);
            let parents = spans.iter().filter(|s| s["kind"] != "SPAN_KIND_INTERNAL");
            parents.filter(|span| is_whole(&spans, span)).count() == 4
        },
    );

    let spans = in_trace(&collector, TRACE);
    let web = the(&spans, "web", "SPAN_KIND_CLIENT");
    let orders_in = the(&spans, "orders", "SPAN_KIND_SERVER");
    let orders_out = the(&spans, "orders", "SPAN_KIND_CLIENT");
    let payments = the(&spans, "payments", "SPAN_KIND_SERVER");
    assert_eq!(web["parent"], "b7ad6b7169203331");
    assert_eq!(orders_in["parent"], web["span"]);
    assert_eq!(orders_out["parent"], orders_in["span"]);
    assert_eq!(payments["parent"], orders_out["span"]);

    for span in [web, orders_in, orders_out, payments] {
        assert_eq!(span["name"], "GET");
        assert_eq!(span["status"], "STATUS_CODE_UNSET");
        assert_eq!(span["schema"], "https://opentelemetry.io/schemas/1.45.0");
        assert_eq!(span["metadata"]["x-tenant"], "blue sky");
        assert_eq!(span["attributes"]["http.request.method"], "GET");
        assert_eq!(span["attributes"]["http.response.status_code"], 200);
        assert!(is_whole(&spans, span));
    }
    let server = &orders_in["attributes"];
    assert_eq!(server["url.path"], "/call-payments");
    assert_eq!(server["url.scheme"], "http");
    assert_eq!(server["server.address"], "orders");
    assert_eq!(server["network.protocol.version"], "2");
    assert_eq!(server["postern.peer.id"], id("web"));
    assert_eq!(server["postern.workload.id"], id("orders"));
    assert_eq!(server["postern.decision"], "allow");
    let client = &web["attributes"];
    assert_eq!(client["url.full"], "http://orders/call-payments");
    assert_eq!(client["postern.peer.id"], id("orders"));
    assert_eq!(client["network.protocol.version"], "1.1");

    let mut logged = Vec::new();
    eventually("a line in the access log of orders", || {
        logged = mesh.access_log("orders");
        logged.iter().any(|line| line["direction"] == "inbound")
    });
    let line = logged
        .iter()
        .find(|line| line["direction"] == "inbound")
        .expect("just found");
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["path"], "/call-payments");
    assert_eq!(line["status"], 200);
    assert_eq!(line["peer"], id("web"));
    assert!(line["phases_us"]["upstream"].is_u64(), "{line}");

    let mut told = format!("{:?}", collector.spans());
    for entry in fs::read_dir(mesh.directory().join("logs")).expect("there") {
        told.push_str(&fs::read_to_string(entry.expect("readable").path()).expect("text"));
    }
    for workload in ["web", "orders", "payments"] {
        told.push_str(&mesh.metrics(workload));
    }
    for secret in ["s3cret", "czNjcmV0"] {
        assert!(!told.contains(secret), "{secret}");
    }
}

#[test]
fn refusals_are_kept_though_nothing_is_sampled_and_are_errors_where_the_conventions_say() {
    let collector = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.http);
    let mesh = mesh(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    let answer = http::get(mesh.address("web", "outbound"), "orders", "/", "");
    assert_eq!(answer.status, 200);
    let answer = http::get(
        mesh.address("web", "outbound"),
        "payments",
        "/?a=s3cret",
        "",
    );
    assert_eq!(answer.status, 403, "{}", answer.text());
    let decision = http::field(&answer.head, "postern-decision-id")
        .expect("told")
        .to_owned();

    eventually("the refusal's span", || {
        !find(&collector.spans(), "payments", "SPAN_KIND_SERVER").is_empty()
    });
    let spans = collector.spans();
    let server = the(&spans, "payments", "SPAN_KIND_SERVER");
    assert_eq!(server["transport"], "http");
    assert_eq!(
        server["status"], "STATUS_CODE_UNSET",
        "4xx is the caller's error"
    );
    assert_eq!(server["attributes"]["http.response.status_code"], 403);
    assert_eq!(server["attributes"]["postern.decision"], "deny");
    assert_eq!(
        server["attributes"]["postern.decision.id"],
        decision.as_str()
    );
    assert!(server["attributes"]["postern.decision.reason"].is_string());
    assert!(
        find(&spans, "orders", "SPAN_KIND_SERVER").is_empty(),
        "what is let through is not kept: {spans:#?}"
    );
    assert!(!format!("{spans:?}").contains("s3cret"));
    let mut logged = Vec::new();
    eventually("the refusal in the access log", || {
        logged = mesh.access_log("payments");
        logged
            .iter()
            .any(|line| line["decision_id"] == decision.as_str())
    });
}

#[test]
fn a_collector_that_takes_nothing_costs_spans_and_no_request() {
    // Accepts connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let mesh = mesh(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
    ]);
    for _ in 0..50 {
        assert_eq!(mesh.call_orders().status, 200);
    }
    for reason in ["queue_full", "export_failed"] {
        eventually("dropped spans are counted", || {
            mesh.metrics("web").contains(&format!(
                "postern_spans_dropped_total{{reason=\"{reason}\"}}"
            ))
        });
    }
}

#[test]
fn metrics_are_as_prometheus_wants_them_and_have_every_phase() {
    let mesh = mesh(&[]);
    assert_eq!(mesh.call_orders().status, 200);
    let text = mesh.metrics("orders");
    for series in [
        "postern_requests_total{code_class=\"2xx\",direction=\"inbound\"}",
        "postern_request_duration_seconds_count{direction=\"inbound\"}",
        "postern_phase_duration_seconds_count{direction=\"inbound\",phase=\"policy\"}",
        "postern_phase_duration_seconds_count{direction=\"inbound\",phase=\"upstream\"}",
        "postern_tls_handshakes_total{direction=\"inbound\",result=\"ok\"}",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs (apt-get install prometheus)");
    let mut stdin = promtool.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let mut said = String::new();
    let mut stderr = promtool.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert!(promtool.wait().expect("it ends").success(), "{said}");
    assert_eq!(said, "");
}
