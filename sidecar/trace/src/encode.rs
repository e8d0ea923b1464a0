//! Spans as OTLP has them, with the attributes of the semantic conventions 1.45. Runs on the exporter's thread.

use std::time::{Duration, UNIX_EPOCH};

use http::{Method, Version};
use mesh_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use mesh_proto::opentelemetry::proto::common::v1::any_value::Value;
use mesh_proto::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use mesh_proto::opentelemetry::proto::resource::v1::Resource;
use mesh_proto::opentelemetry::proto::trace::v1 as wire;
use wire::span::SpanKind as WireKind;
use wire::status::StatusCode as WireStatus;

use crate::id::{IdSource, SpanId};
use crate::span::{Http, Span, SpanKind, Verdict};
use crate::timeline::Phase;

/// Version of the conventions that the attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";
const SCOPE: &str = "postern-sidecar";
/// Methods that a span may be named by (HTTP semantic conventions).
const METHODS: &[Method] = &[
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
    Method::PATCH,
];
/// Longest text of one attribute, bytes: what a client sends must not become what we store.
const MAX_TEXT: usize = 1024;
/// The parent is on another machine (bits 8 and 9 of the flags).
const PARENT_IS_REMOTE: u32 = 0x300;
/// gRPC's status codes by number.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A batch for the collector.
pub(crate) fn request(
    spans: &[Span],
    resource: &[(String, String)],
    ids: &IdSource,
) -> ExportTraceServiceRequest {
    let spans = spans.iter().flat_map(|span| encode(span, ids)).collect();
    let attributes = resource
        .iter()
        .map(|(key, value)| text(key, value))
        .collect();
    ExportTraceServiceRequest {
        resource_spans: vec![wire::ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![wire::ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: SCOPE.to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans,
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

/// A span and a child for each of its phases.
fn encode(span: &Span, ids: &IdSource) -> Vec<wire::Span> {
    let start = nanos(span.at.duration_since(UNIX_EPOCH).unwrap_or_default());
    let mut attributes = Vec::with_capacity(20);
    if let Some(http) = &span.http {
        http_attributes(&mut attributes, span, http);
    }
    network_attributes(&mut attributes, span);
    if let Some(verdict) = &span.verdict {
        verdict_attributes(&mut attributes, verdict);
    }
    attributes.push(number("postern.bytes.sent", span.sent));
    attributes.push(number("postern.bytes.received", span.received));
    let error = error_type(span);
    let status = error.as_ref().map(|_| wire::Status {
        message: String::new(),
        code: WireStatus::Error.into(),
    });
    if let Some(error) = &error {
        attributes.push(text("error.type", error));
    }
    let whole = wire::Span {
        trace_id: span.started.trace.to_bytes().to_vec(),
        span_id: span.started.span.to_bytes().to_vec(),
        trace_state: String::new(),
        parent_span_id: span
            .started
            .parent
            .map(|p| p.to_bytes().to_vec())
            .unwrap_or_default(),
        flags: 1 | span.started.parent.map_or(0x100, |_| PARENT_IS_REMOTE),
        name: name(span),
        kind: match span.kind {
            SpanKind::Server => WireKind::Server,
            SpanKind::Client => WireKind::Client,
        }
        .into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + nanos(span.timeline.total()),
        attributes,
        status,
    };
    let children = span
        .timeline
        .phases()
        .map(|(phase, offset, took)| child(span, ids.span(), phase, start + nanos(offset), took));
    let mut all = Vec::with_capacity(1 + Phase::ALL.len());
    all.extend(children);
    all.insert(0, whole);
    all
}

fn child(span: &Span, id: SpanId, phase: Phase, start: u64, took: Duration) -> wire::Span {
    let mut attributes = vec![text("postern.phase", phase.as_str())];
    if phase == Phase::Token
        && let Some(cached) = span.verdict.as_ref().and_then(|v| v.token_cached)
    {
        attributes.push(boolean("postern.token.cached", cached));
    }
    if phase == Phase::Policy
        && let Some(verdict) = &span.verdict
    {
        attributes.push(text("postern.decision.reason", verdict.reason));
    }
    wire::Span {
        trace_id: span.started.trace.to_bytes().to_vec(),
        span_id: id.to_bytes().to_vec(),
        trace_state: String::new(),
        parent_span_id: span.started.span.to_bytes().to_vec(),
        flags: 0x101,
        name: format!("postern.{}", phase.as_str()),
        kind: WireKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + nanos(took),
        attributes,
        status: None,
    }
}

/// `GET`, the gRPC method, or `tcp`: never a path, which has no bound.
fn name(span: &Span) -> String {
    match &span.http {
        None => "tcp".to_owned(),
        Some(http) if http.is_grpc => grpc_method(http).unwrap_or_else(|| "grpc".to_owned()),
        Some(http) => known_method(&http.method).unwrap_or("HTTP").to_owned(),
    }
}

fn known_method(method: &Method) -> Option<&'static str> {
    METHODS
        .iter()
        .find(|known| *known == method)
        .map(Method::as_str)
}

fn grpc_method(http: &Http) -> Option<String> {
    let path = http.path.as_ref()?.path().strip_prefix('/')?;
    path.contains('/').then(|| cut(path))
}

fn http_attributes(attributes: &mut Vec<KeyValue>, span: &Span, http: &Http) {
    match known_method(&http.method) {
        Some(method) => attributes.push(text("http.request.method", method)),
        None => {
            attributes.push(text("http.request.method", "_OTHER"));
            attributes.push(text("http.request.method_original", http.method.as_str()));
        }
    }
    let path = http.path.as_ref().map_or("/", |p| p.path());
    match span.kind {
        SpanKind::Server => {
            attributes.push(text("url.path", path));
            attributes.push(text("url.scheme", "http"));
        }
        SpanKind::Client => {
            let host = http.authority.as_ref().map_or("", |a| a.as_str());
            attributes.push(text("url.full", &format!("http://{host}{path}")));
            if http.resends > 0 {
                attributes.push(number("http.request.resend_count", http.resends.into()));
            }
        }
    }
    if let Some(status) = http.status {
        attributes.push(number("http.response.status_code", status.as_u16().into()));
    }
    if let Some(authority) = &http.authority {
        attributes.push(text("server.address", authority.host()));
    }
    attributes.push(text("network.protocol.name", "http"));
    let version = match http.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        _ => "2",
    };
    attributes.push(text("network.protocol.version", version));
    if let Some(agent) = http.user_agent.as_ref().and_then(|a| a.to_str().ok()) {
        attributes.push(text("user_agent.original", agent));
    }
    if http.is_grpc {
        attributes.push(text("rpc.system.name", "grpc"));
        if let Some(method) = grpc_method(http) {
            attributes.push(text("rpc.method", &method));
        }
        if let Some(code) = http.grpc_status {
            attributes.push(text("rpc.status_code", grpc_code(code)));
        }
    }
}

fn network_attributes(attributes: &mut Vec<KeyValue>, span: &Span) {
    if span.port != 0 {
        attributes.push(number("server.port", span.port.into()));
    }
    if let Some(peer) = span.peer_address {
        let address = peer.ip().to_string();
        if span.kind == SpanKind::Server {
            attributes.push(text("client.address", &address));
        }
        attributes.push(text("network.peer.address", &address));
        attributes.push(number("network.peer.port", peer.port().into()));
    }
    if span.http.is_none() {
        attributes.push(text("network.transport", "tcp"));
    }
    if let Some(id) = &span.peer_id {
        attributes.push(text("postern.peer.id", id));
    }
    if let Some(id) = &span.own_id {
        attributes.push(text("postern.workload.id", id));
    }
}

fn verdict_attributes(attributes: &mut Vec<KeyValue>, verdict: &Verdict) {
    let word = if verdict.allowed { "allow" } else { "deny" };
    attributes.push(text("postern.decision", word));
    attributes.push(text("postern.decision.reason", verdict.reason));
    if let Some(policy) = &verdict.policy {
        attributes.push(text("postern.policy", policy));
    }
    if verdict.id != 0 {
        attributes.push(text("postern.decision.id", &format!("{:016x}", verdict.id)));
    }
    if let Some(cached) = verdict.token_cached {
        attributes.push(boolean("postern.token.cached", cached));
    }
}

/// What makes the span an error, by the conventions: for a server 5xx, for a client 4xx too; a failure without status.
fn error_type(span: &Span) -> Option<String> {
    if let Some(http) = &span.http {
        if let Some(code) = http.grpc_status {
            let is_error = match span.kind {
                SpanKind::Client => code != 0,
                // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
                SpanKind::Server => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            };
            return is_error.then(|| grpc_code(code).to_owned());
        }
        if let Some(status) = http.status {
            let is_error = status.is_server_error()
                || (span.kind == SpanKind::Client && status.is_client_error());
            return is_error.then(|| status.as_str().to_owned());
        }
    }
    span.error.map(str::to_owned)
}

fn grpc_code(code: u32) -> &'static str {
    usize::try_from(code)
        .ok()
        .and_then(|index| GRPC_CODES.get(index).copied())
        .unwrap_or("UNKNOWN")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn cut(value: &str) -> String {
    let mut end = value.len().min(MAX_TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(cut(value)))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn boolean(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::timeline::Timeline;
    use crate::tracer::Started;

    fn span(kind: SpanKind, status: u16) -> Span {
        let ids = IdSource::new(9);
        let mut timeline = Timeline::start();
        let at = |micros| timeline.started() + Duration::from_micros(micros);
        let moments = [
            (Phase::Admit, at(2)),
            (Phase::Policy, at(3)),
            (Phase::Upstream, at(40)),
        ];
        for (phase, moment) in moments {
            timeline.mark_at(phase, moment);
        }
        Span {
            started: Started {
                trace: ids.trace(),
                span: ids.span(),
                parent: Some(ids.span()),
                sampled: true,
            },
            kind,
            at: UNIX_EPOCH + Duration::from_secs(1_000),
            timeline,
            http: Some(Http {
                method: Method::GET,
                path: Some("/orders/1?token=s3cret".parse().unwrap()),
                authority: Some("orders:80".parse().unwrap()),
                version: Version::HTTP_11,
                user_agent: None,
                status: StatusCode::from_u16(status).ok(),
                is_grpc: false,
                grpc_status: None,
                resends: 0,
            }),
            peer_address: Some(([10, 0, 0, 1], 4000).into()),
            port: 8080,
            peer_id: Some("spiffe://td/ns/a/sa/web".into()),
            own_id: Some("spiffe://td/ns/a/sa/orders".into()),
            verdict: Some(Verdict {
                allowed: true,
                reason: "allowed_by_policy",
                policy: Some("shop/p".into()),
                id: 7,
                token_cached: Some(true),
            }),
            sent: 0,
            received: 5,
            error: None,
        }
    }

    fn value(span: &wire::Span, key: &str) -> Option<Value> {
        let found = span.attributes.iter().find(|a| a.key == key)?;
        found.value.clone()?.value
    }

    fn string(text: &str) -> Option<Value> {
        Some(Value::StringValue(text.to_owned()))
    }

    #[test]
    fn a_server_span_says_what_the_conventions_ask_for_and_no_query() {
        let spans = encode(&span(SpanKind::Server, 200), &IdSource::new(1));
        let server = &spans[0];
        assert_eq!(server.name, "GET");
        assert_eq!(server.kind, i32::from(WireKind::Server));
        for (key, expected) in [
            ("http.request.method", string("GET")),
            ("url.path", string("/orders/1")),
            ("url.scheme", string("http")),
            ("http.response.status_code", Some(Value::IntValue(200))),
            ("server.address", string("orders")),
            ("server.port", Some(Value::IntValue(8080))),
            ("client.address", string("10.0.0.1")),
            ("network.protocol.version", string("1.1")),
            ("postern.peer.id", string("spiffe://td/ns/a/sa/web")),
            ("postern.decision", string("allow")),
            ("postern.policy", string("shop/p")),
        ] {
            assert_eq!(value(server, key), expected, "{key}");
        }
        assert!(!format!("{spans:?}").contains("s3cret"));
        let client = &encode(&span(SpanKind::Client, 200), &IdSource::new(1))[0];
        assert_eq!(
            value(client, "url.full"),
            string("http://orders:80/orders/1")
        );
    }

    #[test]
    fn children_account_for_the_whole_span() {
        let spans = encode(&span(SpanKind::Server, 200), &IdSource::new(1));
        let (whole, children) = spans.split_first().unwrap();
        let names: Vec<_> = children.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            ["postern.admit", "postern.policy", "postern.upstream"]
        );
        let sum: u64 = children
            .iter()
            .map(|c| c.end_time_unix_nano - c.start_time_unix_nano)
            .sum();
        assert_eq!(sum, whole.end_time_unix_nano - whole.start_time_unix_nano);
        for child in children {
            assert_eq!(child.parent_span_id, whole.span_id);
            assert_eq!(child.trace_id, whole.trace_id);
        }
    }

    #[test]
    fn errors_are_what_the_conventions_call_errors() {
        for (kind, status, is_error) in [
            (SpanKind::Server, 200, false),
            (SpanKind::Server, 404, false),
            (SpanKind::Server, 503, true),
            (SpanKind::Client, 404, true),
            (SpanKind::Client, 503, true),
            (SpanKind::Client, 302, false),
        ] {
            let spans = encode(&span(kind, status), &IdSource::new(1));
            assert_eq!(spans[0].status.is_some(), is_error, "{kind:?} {status}");
            assert_eq!(
                value(&spans[0], "error.type"),
                is_error.then(|| Value::StringValue(status.to_string()))
            );
        }
    }

    #[test]
    fn grpc_is_told_by_method_and_code() {
        let mut grpc = span(SpanKind::Server, 200);
        let http = grpc.http.as_mut().unwrap();
        http.is_grpc = true;
        http.grpc_status = Some(7);
        http.path = Some("/shop.Orders/Get".parse().unwrap());
        let spans = encode(&grpc, &IdSource::new(1));
        assert_eq!(spans[0].name, "shop.Orders/Get");
        assert_eq!(
            value(&spans[0], "rpc.status_code"),
            string("PERMISSION_DENIED")
        );
        assert!(spans[0].status.is_none(), "a denial is the caller's error");
    }

    #[test]
    fn unknown_methods_do_not_become_names_and_long_texts_are_cut() {
        let mut odd = span(SpanKind::Server, 200);
        let http = odd.http.as_mut().unwrap();
        http.method = Method::from_bytes(b"BREW").unwrap();
        http.path = Some(format!("/{}", "x".repeat(5_000)).parse().unwrap());
        let spans = encode(&odd, &IdSource::new(1));
        assert_eq!(spans[0].name, "HTTP");
        assert_eq!(value(&spans[0], "http.request.method"), string("_OTHER"));
        let Some(Value::StringValue(path)) = value(&spans[0], "url.path") else {
            panic!()
        };
        assert_eq!(path.len(), MAX_TEXT);
    }
}
