//! Answers that the sidecar gives itself: problem documents (RFC 9457) for HTTP, trailers-only responses for gRPC.
//!
//! They carry a stable reason code and a decision id; what would help an attacker stays in the log.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use mesh_auth::Reason;
use mesh_http1::BodyLength;

use super::body::{BodyError, BodySink as _};
use super::ending::{DECISION_HEADER, GRPC_STATUS, is_grpc};
use super::forward::Downstream;

/// Names the reason of an answer that the sidecar gave, for programs.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("postern-reason");

/// How to authenticate, whatever went wrong.
const CHALLENGE: &str = "Bearer realm=\"postern\"";

/// Seconds after which keys that are being fetched, or an answer about a token or a destination, may be there.
const SOON: &str = "1";

/// A refusal, for the caller and the log.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Identifies the decision.
    pub id: u64,
    /// The policy that decided, `namespace/name`; for logs and spans, not for the caller.
    pub policy: Option<Box<str>>,
    /// The scope that would have been enough.
    pub scope: Option<Box<str>>,
    /// What is demanded of the subject's authentication, seconds.
    pub max_age: Option<u32>,
}

/// An answer in place of the application's.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Why.
    pub reason: Reason,
    /// Identifies the decision in the log.
    pub decision_id: u64,
    /// The scope that would have been enough.
    scope: Option<Box<str>>,
    /// What is demanded of the subject's authentication, seconds.
    max_age: Option<u32>,
}

impl Answer {
    /// The answer for `reason`.
    pub fn new(reason: Reason, decision_id: u64) -> Self {
        Self {
            status: status_of(reason),
            reason,
            decision_id,
            scope: None,
            max_age: None,
        }
    }

    /// The answer to a refusal.
    pub fn of(refused: &Refused) -> Self {
        Self {
            scope: refused.scope.clone(),
            max_age: refused.max_age,
            ..Self::new(refused.reason, refused.id)
        }
    }

    /// What a client is told to do about its token (RFC 6750 §3, RFC 9470 §3). Without a token: no error.
    fn challenge(&self) -> Option<HeaderValue> {
        let error = match self.reason {
            Reason::TokenMissing => return Some(HeaderValue::from_static(CHALLENGE)),
            Reason::TokenDuplicate => "invalid_request",
            Reason::InsufficientScope => "insufficient_scope",
            Reason::TokenTooOld => "insufficient_user_authentication",
            reason if reason.is_about_token() => "invalid_token",
            _ => return None,
        };
        let mut text = format!(
            "{CHALLENGE}, error=\"{error}\", error_description=\"{}\"",
            self.reason.code()
        );
        if self.reason == Reason::InsufficientScope
            && let Some(scope) = &self.scope
        {
            // Quotes cannot be in a scope (RFC 6749 §3.3); who configured one gets no attribute.
            if !scope.contains(['"', '\\']) {
                text.push_str(&format!(", scope=\"{scope}\""));
            }
        }
        if self.reason == Reason::TokenTooOld
            && let Some(seconds) = self.max_age
        {
            text.push_str(&format!(", max_age=\"{seconds}\""));
        }
        HeaderValue::try_from(text).ok()
    }

    /// The same reason with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The problem document.
    pub fn body(&self) -> String {
        format!(
            "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{},\"reason\":\"{}\",\"decision_id\":\"{:016x}\"}}\n",
            self.status.canonical_reason().unwrap_or("error"),
            self.status.as_u16(),
            self.reason.code(),
            self.decision_id,
        )
    }

    /// Sends the answer; for gRPC requests as HTTP 200 with the status in the trailers-only head.
    ///
    /// # Errors
    /// The downstream failed.
    pub fn send<D: Downstream>(
        &self,
        downstream: &mut D,
        request: &HeaderMap,
    ) -> Result<D::Sink, BodyError> {
        let (mut head, ()) = http::Response::new(()).into_parts();
        if let Ok(id) = HeaderValue::try_from(format!("{:016x}", self.decision_id)) {
            head.headers.insert(DECISION_HEADER, id);
        }
        head.headers
            .insert(REASON_HEADER, HeaderValue::from_static(self.reason.code()));
        if let Some(challenge) = self.challenge() {
            head.headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Reason::KeysUnavailable
        | Reason::IntrospectionFailed
        | Reason::DestinationUnresolved = self.reason
        {
            head.headers
                .insert(header::RETRY_AFTER, HeaderValue::from_static(SOON));
        }
        if is_grpc(request) {
            head.headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            head.headers
                .insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_status()));
            head.headers
                .insert("grpc-message", HeaderValue::from_static(self.reason.code()));
            return downstream.respond(head, BodyLength::Length(0));
        }
        head.status = self.status;
        head.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let body = Bytes::from(self.body());
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        respond_with(downstream, head, body)
    }

    /// The gRPC status code that a gRPC request is answered with; `None` for others.
    pub fn grpc_code(&self, request: &HeaderMap) -> Option<u32> {
        is_grpc(request)
            .then(|| self.grpc_status().parse().ok())
            .flatten()
    }

    fn grpc_status(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "16",
            403 => "7",
            400 | 404 => "3",
            _ => "14",
        }
    }
}

fn respond_with<D: Downstream>(
    downstream: &mut D,
    head: response::Parts,
    body: Bytes,
) -> Result<D::Sink, BodyError> {
    let mut sink = downstream.respond(head, BodyLength::Length(body.len() as u64))?;
    // A HEAD request's sink takes no body; the length header has told what it would have been.
    let _ = sink.send(body, true);
    Ok(sink)
}

fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest | Reason::ProtocolError => StatusCode::BAD_REQUEST,
        Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::TokenDuplicate => StatusCode::BAD_REQUEST,
        Reason::UnauthenticatedPeer => StatusCode::UNAUTHORIZED,
        reason if reason.is_about_token() => StatusCode::UNAUTHORIZED,
        Reason::NoSnapshot
        | Reason::NoIdentity
        | Reason::KeysUnavailable
        | Reason::IntrospectionFailed
        | Reason::DestinationUnresolved
        | Reason::NoHealthyEndpoint
        | Reason::ConnectFailed
        | Reason::Draining => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    }
}
