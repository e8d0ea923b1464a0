//! What ends an exchange or a tunnel before it is done, and what is said then.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_auth::Reason;
use tokio::time::Sleep;

/// Names the decision, for `meshctl authz why` and the log.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("postern-decision-id");
/// The status of a gRPC call, in its trailers or in a response that is nothing else.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How long a last word may take to be written before the stream is cut.
pub const LAST_WORD: Duration = Duration::from_millis(200);

/// Tells that something must end.
pub trait Ending {
    /// Ready, with the reason, once it must end. Wakes the task that asked last.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reason>;
    /// The decision that ended it, if there was one.
    fn decision(&self) -> Option<u64> {
        None
    }
}

/// Nothing ends it from outside.
#[derive(Debug, Clone, Copy)]
pub struct Endless;

impl Ending for Endless {
    fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<Reason> {
        Poll::Pending
    }
}

/// True if a head is gRPC's: its stream can be ended with a status.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// The trailers that end a gRPC response whose head was sent: code 16, UNAUTHENTICATED, where a token is why, else 7,
/// PERMISSION_DENIED.
pub fn grpc_trailers(reason: Reason, decision: Option<u64>) -> HeaderMap {
    let status = if reason.is_about_token() { "16" } else { "7" };
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(reason.code()));
    if let Some(id) = decision.and_then(|id| HeaderValue::try_from(format!("{id:016x}")).ok()) {
        trailers.insert(DECISION_HEADER, id);
    }
    trailers
}

/// The time that a last word has, from the first time it is asked for.
#[derive(Debug, Default)]
pub struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// Ready when it is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WORD)))
            .as_mut()
            .poll(cx)
    }
}
