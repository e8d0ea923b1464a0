use http::StatusCode;
use mesh_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use mesh_proto::opentelemetry::proto::common::v1::any_value::Value;
use prost::Message as _;

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
        subject: Subject::Request(Http {
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
            decision_cached: Some(false),
        }),
        sent: 0,
        received: 5,
        error: None,
    }
}

fn bytes(span: &Span, limits: AttributeLimits) -> Bytes {
    let resource = [("service.name".to_owned(), "demo/orders".to_owned())];
    let mut encoder = Encoder::new(&resource, limits, IdSource::new(1));
    encoder.request(std::slice::from_ref(span))
}

/// What the generated code reads.
fn encode(span: &Span) -> Vec<wire::Span> {
    let bytes = bytes(span, AttributeLimits::default());
    let request = ExportTraceServiceRequest::decode(bytes.clone()).unwrap();
    assert_eq!(request.encode_to_vec(), bytes, "nothing is unknown to it");
    let resource = &request.resource_spans[0];
    let attribute = &resource.resource.as_ref().unwrap().attributes[0];
    assert_eq!(attribute.key, "service.name");
    assert_eq!(resource.schema_url, SCHEMA);
    let scope = &resource.scope_spans[0];
    assert_eq!(scope.scope.as_ref().unwrap().name, SCOPE);
    assert_eq!(scope.schema_url, SCHEMA);
    scope.spans.clone()
}

fn http(span: &mut Span) -> &mut Http {
    match &mut span.subject {
        Subject::Request(http) => http,
        _ => panic!("no request"),
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
    let spans = encode(&span(SpanKind::Server, 200));
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
    let client = &encode(&span(SpanKind::Client, 200))[0];
    assert_eq!(
        value(client, "url.full"),
        string("http://orders:80/orders/1")
    );
}

#[test]
fn children_account_for_the_whole_span() {
    let spans = encode(&span(SpanKind::Server, 200));
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
        let spans = encode(&span(kind, status));
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
    let http = http(&mut grpc);
    http.is_grpc = true;
    http.grpc_status = Some(7);
    http.path = Some("/shop.Orders/Get".parse().unwrap());
    let spans = encode(&grpc);
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
    let http = http(&mut odd);
    http.method = Method::from_bytes(b"BREW").unwrap();
    http.path = Some(format!("/{}", "x".repeat(5_000)).parse().unwrap());
    let spans = encode(&odd);
    assert_eq!(spans[0].name, "HTTP");
    assert_eq!(value(&spans[0], "http.request.method"), string("_OTHER"));
    let Some(Value::StringValue(path)) = value(&spans[0], "url.path") else {
        panic!()
    };
    assert_eq!(path.len(), MAX_TEXT);
}

#[test]
fn a_handshake_is_one_span_that_says_how_it_went() {
    let mut handshake = span(SpanKind::Server, 200);
    handshake.subject = Subject::Handshake {
        resumed: Some(true),
    };
    handshake.error = Some("peer_revoked");
    let spans = encode(&handshake);
    assert_eq!((spans.len(), spans[0].name.as_str()), (1, "tls.handshake"));
    assert_eq!(
        value(&spans[0], "tls.resumed"),
        Some(Value::BoolValue(true))
    );
    assert_eq!(
        value(&spans[0], "tls.established"),
        Some(Value::BoolValue(false))
    );
    assert_eq!(value(&spans[0], "error.type"), string("peer_revoked"));
    assert!(spans[0].status.is_some());
}

#[test]
fn attributes_keep_to_the_limits_that_are_given() {
    let span = span(SpanKind::Server, 503);
    let all = encode(&span)[0].attributes.len();
    let limits = AttributeLimits {
        count: 3,
        length: 2,
    };
    let bytes = bytes(&span, limits);
    let request = ExportTraceServiceRequest::decode(bytes.clone()).unwrap();
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans[0].attributes.len(), 3);
    // `dropped_attributes_count` is field 10, a varint; what follows is `status`.
    let dropped = [10 << 3, u8::try_from(all - 3).unwrap(), 15 << 3 | 2];
    assert!(bytes.windows(3).any(|part| part == dropped), "{dropped:?}");
    assert_eq!(spans[0].attributes[0].key, "error.type", "before all else");
    for attribute in spans.iter().flat_map(|s| &s.attributes) {
        match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
            Some(Value::StringValue(text)) => assert!(text.len() <= 2, "{text}"),
            value => assert!(value.is_some(), "{}", attribute.key),
        }
    }
    let is_whole = |text: &str| AttributeLimits::default().cut(text) == text;
    assert!(is_whole("aüß") && is_whole(""));
    assert_eq!(limits.cut("üßa"), "üß", "characters, not bytes");
}
