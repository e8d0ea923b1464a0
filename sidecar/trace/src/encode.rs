//! Spans as OTLP has them, with the attributes of the semantic conventions 1.45. Runs on the exporter's thread.
//!
//! A batch is written once, as bytes: field numbers are those of `opentelemetry/proto/trace/v1/trace.proto`, and a test
//! reads everything back with the generated code.

mod attributes;

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Version};
use mesh_proto::opentelemetry::proto::trace::v1 as wire;
use wire::span::SpanKind as WireKind;
use wire::status::StatusCode as WireStatus;

use crate::id::{IdSource, SpanId};
use crate::settings::AttributeLimits;
use crate::span::{Http, Span, SpanKind, Subject, Verdict};
use crate::timeline::Phase;
use crate::wire::{Writer, size_of_bytes};
use attributes::Attributes;

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
/// The caller recorded its span (W3C flag).
const SAMPLED: u32 = 0x01;
/// Whether the parent is on another machine is known (bit 8) and it is (bit 9).
const PARENT_IS_LOCAL: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x300;
/// Room that is kept between batches; what a large one took beyond it is given back.
const KEPT: usize = 1 << 20;

/// Field numbers.
mod field {
    pub(super) const RESOURCE_SPANS: u64 = 1;
    pub(super) const RESOURCE: u64 = 1;
    pub(super) const RESOURCE_ATTRIBUTES: u64 = 1;
    pub(super) const SCOPE_SPANS: u64 = 2;
    pub(super) const SCOPE: u64 = 1;
    pub(super) const SPANS: u64 = 2;
    pub(super) const SCHEMA_URL: u64 = 3;
    pub(super) const SCOPE_NAME: u64 = 1;
    pub(super) const SCOPE_VERSION: u64 = 2;
    pub(super) const TRACE_ID: u64 = 1;
    pub(super) const SPAN_ID: u64 = 2;
    pub(super) const PARENT_SPAN_ID: u64 = 4;
    pub(super) const NAME: u64 = 5;
    pub(super) const KIND: u64 = 6;
    pub(super) const START: u64 = 7;
    pub(super) const END: u64 = 8;
    pub(super) const STATUS: u64 = 15;
    pub(super) const FLAGS: u64 = 16;
    pub(super) const STATUS_CODE: u64 = 3;
}
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

/// Writes batches.
pub(crate) struct Encoder {
    ids: IdSource,
    resource: Vec<u8>,
    /// The spans of the batch so far.
    spans: Vec<u8>,
    /// The span under way.
    body: Vec<u8>,
    /// A text that has to be put together.
    text: String,
    limits: AttributeLimits,
}

impl Encoder {
    /// An encoder for one resource.
    pub(crate) fn new(
        resource: &[(String, String)],
        limits: AttributeLimits,
        ids: IdSource,
    ) -> Self {
        let mut encoded = Vec::new();
        let mut writer = Writer(&mut encoded);
        for (key, value) in resource {
            writer.text(field::RESOURCE_ATTRIBUTES, key, cut(value));
        }
        Self {
            ids,
            resource: encoded,
            spans: Vec::new(),
            body: Vec::new(),
            text: String::new(),
            limits,
        }
    }

    /// An `ExportTraceServiceRequest` with these spans and their phases.
    pub(crate) fn request(&mut self, spans: &[Span]) -> Bytes {
        self.spans.clear();
        for span in spans {
            self.span(span);
        }
        let version = env!("CARGO_PKG_VERSION");
        let mut scope = Vec::new();
        let mut writer = Writer(&mut scope);
        writer.bytes(field::SCOPE_NAME, SCOPE.as_bytes());
        writer.bytes(field::SCOPE_VERSION, version.as_bytes());
        let schema = size_of_bytes(SCHEMA.len());
        let scope_spans = size_of_bytes(scope.len()) + self.spans.len() + schema;
        let resource_spans =
            size_of_bytes(self.resource.len()) + size_of_bytes(scope_spans) + schema;
        let mut out = Vec::with_capacity(size_of_bytes(resource_spans));
        let mut writer = Writer(&mut out);
        writer.head(field::RESOURCE_SPANS, resource_spans);
        writer.bytes(field::RESOURCE, &self.resource);
        writer.head(field::SCOPE_SPANS, scope_spans);
        writer.bytes(field::SCOPE, &scope);
        writer.0.extend_from_slice(&self.spans);
        writer.bytes(field::SCHEMA_URL, SCHEMA.as_bytes());
        writer.bytes(field::SCHEMA_URL, SCHEMA.as_bytes());
        self.spans.clear();
        self.spans.shrink_to(KEPT);
        out.into()
    }

    /// A span and a child for each of its phases.
    fn span(&mut self, span: &Span) {
        let start = nanos(span.at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let end = start + nanos(span.timeline.total());
        let Self {
            body, text, limits, ..
        } = self;
        body.clear();
        let mut writer = Writer(body);
        let parent = span.started.parent;
        head(&mut writer, span, span.started.span, parent, name(span));
        let kind = match span.kind {
            SpanKind::Server => WireKind::Server,
            SpanKind::Client => WireKind::Client,
        };
        times(&mut writer, kind, start, end);
        let mut told = Attributes::new(&mut writer, *limits);
        let error = error_type(span, text);
        let is_error = error.is_some();
        if let Some(error) = error {
            told.text("error.type", error);
        }
        attributes(&mut told, text, span);
        told.finish();
        if is_error {
            let status = [(field::STATUS_CODE << 3) as u8, WireStatus::Error as u8];
            writer.bytes(field::STATUS, &status);
        }
        let remote = parent.map_or(PARENT_IS_LOCAL, |_| PARENT_IS_REMOTE);
        writer.fixed32(field::FLAGS, SAMPLED | remote);
        Writer(&mut self.spans).bytes(field::SPANS, &self.body);
        if matches!(span.subject, Subject::Handshake { .. }) {
            // It is its only phase.
            return;
        }
        for (phase, offset, took) in span.timeline.phases() {
            let start = start + nanos(offset);
            self.child(span, phase, start, start + nanos(took));
        }
    }

    fn child(&mut self, span: &Span, phase: Phase, start: u64, end: u64) {
        self.body.clear();
        let mut writer = Writer(&mut self.body);
        let id = self.ids.span();
        head(
            &mut writer,
            span,
            id,
            Some(span.started.span),
            phase.span_name(),
        );
        times(&mut writer, WireKind::Internal, start, end);
        let mut attributes = Attributes::new(&mut writer, self.limits);
        attributes.text("postern.phase", phase.as_str());
        if let Some(verdict) = &span.verdict {
            match phase {
                Phase::Token => {
                    if let Some(cached) = verdict.token_cached {
                        attributes.boolean("postern.token.cached", cached);
                    }
                }
                Phase::Policy => {
                    attributes.text("postern.decision.reason", verdict.reason);
                    if let Some(cached) = verdict.decision_cached {
                        attributes.boolean("postern.decision.cached", cached);
                    }
                }
                _ => {}
            }
        }
        attributes.finish();
        writer.fixed32(field::FLAGS, SAMPLED | PARENT_IS_LOCAL);
        Writer(&mut self.spans).bytes(field::SPANS, &self.body);
    }
}

fn head(writer: &mut Writer<'_>, span: &Span, id: SpanId, parent: Option<SpanId>, name: &str) {
    writer.bytes(field::TRACE_ID, &span.started.trace.to_bytes());
    writer.bytes(field::SPAN_ID, &id.to_bytes());
    if let Some(parent) = parent {
        writer.bytes(field::PARENT_SPAN_ID, &parent.to_bytes());
    }
    writer.bytes(field::NAME, name.as_bytes());
}

fn times(writer: &mut Writer<'_>, kind: WireKind, start: u64, end: u64) {
    writer.number(field::KIND, kind as u64);
    writer.fixed64(field::START, start);
    writer.fixed64(field::END, end);
}

/// `GET`, the gRPC method, `tcp` or `tls.handshake`: never a path, which has no bound.
fn name(span: &Span) -> &str {
    match &span.subject {
        Subject::Connection => "tcp",
        Subject::Handshake { .. } => "tls.handshake",
        Subject::Request(http) if http.is_grpc => grpc_method(http).unwrap_or("grpc"),
        Subject::Request(http) => known_method(&http.method).unwrap_or("HTTP"),
    }
}

fn known_method(method: &Method) -> Option<&'static str> {
    METHODS
        .iter()
        .find(|known| *known == method)
        .map(Method::as_str)
}

fn grpc_method(http: &Http) -> Option<&str> {
    let path = http.path.as_ref()?.path().strip_prefix('/')?;
    path.contains('/').then(|| cut(path))
}

fn attributes(attributes: &mut Attributes<'_, '_>, text: &mut String, span: &Span) {
    match &span.subject {
        Subject::Request(http) => http_attributes(attributes, text, span, http),
        Subject::Connection => attributes.text("network.transport", "tcp"),
        Subject::Handshake { resumed } => {
            attributes.text("network.transport", "tcp");
            attributes.text("tls.protocol.name", "tls");
            attributes.text("tls.protocol.version", "1.3");
            attributes.boolean("tls.established", span.error.is_none());
            if let Some(resumed) = resumed {
                attributes.boolean("tls.resumed", *resumed);
            }
        }
    }
    network_attributes(attributes, text, span);
    if let Some(verdict) = &span.verdict {
        verdict_attributes(attributes, text, verdict);
    }
    attributes.integer("postern.bytes.sent", span.sent);
    attributes.integer("postern.bytes.received", span.received);
}

fn http_attributes(
    attributes: &mut Attributes<'_, '_>,
    text: &mut String,
    span: &Span,
    http: &Http,
) {
    match known_method(&http.method) {
        Some(method) => attributes.text("http.request.method", method),
        None => {
            attributes.text("http.request.method", "_OTHER");
            attributes.text("http.request.method_original", http.method.as_str());
        }
    }
    let path = http.path.as_ref().map_or("/", |p| p.path());
    match span.kind {
        SpanKind::Server => {
            attributes.text("url.path", path);
            attributes.text("url.scheme", "http");
        }
        SpanKind::Client => {
            let host = http.authority.as_ref().map_or("", |a| a.as_str());
            attributes.text("url.full", put(text, format_args!("http://{host}{path}")));
            if http.resends > 0 {
                let count = http.resends.into();
                attributes.integer("http.request.resend_count", count);
            }
        }
    }
    if let Some(status) = http.status {
        attributes.integer("http.response.status_code", status.as_u16().into());
    }
    if let Some(authority) = &http.authority {
        attributes.text("server.address", authority.host());
    }
    attributes.text("network.protocol.name", "http");
    let version = match http.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        _ => "2",
    };
    attributes.text("network.protocol.version", version);
    if let Some(agent) = http.user_agent.as_ref().and_then(|a| a.to_str().ok()) {
        attributes.text("user_agent.original", agent);
    }
    if http.is_grpc {
        attributes.text("rpc.system.name", "grpc");
        if let Some(method) = grpc_method(http) {
            attributes.text("rpc.method", method);
        }
        if let Some(code) = http.grpc_status {
            attributes.text("rpc.status_code", grpc_code(code));
        }
    }
}

fn network_attributes(attributes: &mut Attributes<'_, '_>, text: &mut String, span: &Span) {
    if span.port != 0 {
        attributes.integer("server.port", span.port.into());
    }
    if let Some(peer) = span.peer_address {
        let address = put(text, format_args!("{}", peer.ip()));
        if span.kind == SpanKind::Server {
            attributes.text("client.address", address);
        }
        attributes.text("network.peer.address", address);
        attributes.integer("network.peer.port", peer.port().into());
    }
    if let Some(id) = &span.peer_id {
        attributes.text("postern.peer.id", id);
    }
    if let Some(id) = &span.own_id {
        attributes.text("postern.workload.id", id);
    }
}

fn verdict_attributes(attributes: &mut Attributes<'_, '_>, text: &mut String, verdict: &Verdict) {
    let word = if verdict.allowed { "allow" } else { "deny" };
    attributes.text("postern.decision", word);
    attributes.text("postern.decision.reason", verdict.reason);
    if let Some(policy) = &verdict.policy {
        attributes.text("postern.policy", policy);
    }
    if verdict.id != 0 {
        let id = put(text, format_args!("{:016x}", verdict.id));
        attributes.text("postern.decision.id", id);
    }
    if let Some(cached) = verdict.token_cached {
        attributes.boolean("postern.token.cached", cached);
    }
    if let Some(cached) = verdict.decision_cached {
        attributes.boolean("postern.decision.cached", cached);
    }
}

/// What makes the span an error, by the conventions: for a server 5xx, for a client 4xx too; a failure without status.
fn error_type<'a>(span: &Span, text: &'a mut String) -> Option<&'a str> {
    if let Subject::Request(http) = &span.subject {
        if let Some(code) = http.grpc_status {
            let is_error = match span.kind {
                SpanKind::Client => code != 0,
                // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
                SpanKind::Server => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            };
            return is_error.then(|| grpc_code(code));
        }
        if let Some(status) = http.status {
            let is_error = status.is_server_error()
                || (span.kind == SpanKind::Client && status.is_client_error());
            return is_error.then(|| put(text, format_args!("{}", status.as_u16())));
        }
    }
    span.error
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

fn cut(value: &str) -> &str {
    let mut end = value.len().min(MAX_TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// A text put together.
fn put<'a>(text: &'a mut String, of: std::fmt::Arguments<'_>) -> &'a str {
    text.clear();
    // Writing to a string does not fail.
    let _ = text.write_fmt(of);
    text
}

#[cfg(test)]
mod tests;
