//! What is kept of one request or connection until it is exported. Cheap to make: shared values, no formatting.
//!
//! Deliberately absent, so that no rule has to keep it out later: query strings, header values other than the user agent,
//! tokens, cookies and claims.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode, Version};

use crate::timeline::Timeline;
use crate::tracer::Started;

/// Which side of the exchange the sidecar was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Inbound: in front of the application.
    Server,
    /// Outbound: on behalf of the application.
    Client,
}

/// A decision, as the log and the caller know it.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Whether it was let through.
    pub allowed: bool,
    /// The stable reason code.
    pub reason: &'static str,
    /// The deciding policy.
    pub policy: Option<Arc<str>>,
    /// The decision's identifier; 0 where none was given out.
    pub id: u64,
    /// Whether the token's verification was remembered; `None` without a token.
    pub token_cached: Option<bool>,
    /// Whether the decision was remembered; `None` where nothing is remembered.
    pub decision_cached: Option<bool>,
}

/// The HTTP part of a span.
#[derive(Debug, Clone)]
pub struct Http {
    /// Method.
    pub method: Method,
    /// Path; the query in it is never read.
    pub path: Option<PathAndQuery>,
    /// Host and port that the request names.
    pub authority: Option<Authority>,
    /// Version that the caller speaks.
    pub version: Version,
    /// User agent.
    pub user_agent: Option<HeaderValue>,
    /// Status of the response; `None` when there was none.
    pub status: Option<StatusCode>,
    /// True for gRPC.
    pub is_grpc: bool,
    /// The gRPC status code, where it was seen.
    pub grpc_status: Option<u32>,
    /// How often it was sent again.
    pub resends: u32,
}

/// What a span is of.
#[derive(Debug, Clone)]
pub enum Subject {
    /// An HTTP request.
    Request(Http),
    /// A connection of opaque bytes.
    Connection,
    /// The TLS handshake of a connection.
    Handshake {
        /// Whether an earlier session was resumed; `None`: it did not get that far.
        resumed: Option<bool>,
    },
}

/// One request, connection or handshake.
#[derive(Debug, Clone)]
pub struct Span {
    /// Where it belongs.
    pub started: Started,
    /// Which side.
    pub kind: SpanKind,
    /// When it started.
    pub at: SystemTime,
    /// What it spent its time on.
    pub timeline: Timeline,
    /// What it is of.
    pub subject: Subject,
    /// The other end of the connection.
    pub peer_address: Option<SocketAddr>,
    /// Port of the application or service; 0: unknown.
    pub port: u16,
    /// The peer's SPIFFE ID.
    pub peer_id: Option<Arc<str>>,
    /// Our own SPIFFE ID.
    pub own_id: Option<Arc<str>>,
    /// What was decided.
    pub verdict: Option<Verdict>,
    /// Bytes towards the application or peer.
    pub sent: u64,
    /// Bytes back.
    pub received: u64,
    /// Why it failed, a stable word; `None`: it did not.
    pub error: Option<&'static str>,
}
