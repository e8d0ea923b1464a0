//! The gate: the one way of an inbound HTTP request to the application, whichever version it speaks and on whichever
//! listener it came.
//!
//! In this order, and nothing else in between: reserved headers off, admission, token, decision, identity on. A request
//! sees one snapshot from start to end; one that waits for keys sees the one that has them. [`Passed`] can only be made here.

use http::{HeaderMap, request};
use mesh_auth::token::Verified;
use mesh_auth::{Reason, headers};
use mesh_trace::Phase;
use std::rc::Rc;

use super::decide;
use super::source::Source;
use super::timing;
use super::token::{Patience, Stop};
use crate::http::answer::Refused;
use crate::http::ending::is_grpc;
use crate::http::{admit, carried};
use crate::telemetry::observe::Observation;
use crate::worker::Worker;

/// What the application is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A request that may go to the application.
#[derive(Debug)]
pub struct Passed {
    /// Application port.
    pub port: u16,
    /// What the application is spoken to.
    pub protocol: AppProtocol,
    /// The token that came with it; `None`: none, and none was needed. Whoever keeps a stream open keeps this.
    pub token: Option<Rc<Verified>>,
    /// The policies that allowed it.
    pub policy_epoch: u64,
}

/// Passes an HTTP/2 request, plain or extended CONNECT.
///
/// # Errors
/// The refusal, already counted and logged.
pub async fn http2(
    worker: &Worker,
    source: &Source,
    head: &mut request::Parts,
    observation: &mut Observation,
) -> Result<Passed, Refused> {
    // Where requests name their port, a sidecar may have written them. From anybody else this is reserved.
    let carried = match source.port {
        None => carried::take(&mut head.headers),
        Some(_) => None,
    };
    let (named, mut protocol) = take_target(&mut head.headers);
    carried::give_back(&mut head.headers, carried);
    let Some(port) = source.port.or(named) else {
        return Err(source.refuse(worker, 0, Reason::BadRequest, None));
    };
    observation.port = port;
    if source.port.is_some() && is_grpc(&head.headers) {
        protocol = AppProtocol::Http2;
    }
    if let Err(error) = admit::http2(head) {
        tracing::debug!(peer = source.peer_name(), %error, "request not admitted");
        return Err(source.refuse(worker, port, Reason::BadRequest, None));
    }
    pass(worker, source, head, port, protocol, observation).await
}

/// Passes an HTTP/1.1 request, which its parser admitted, for application port `port`.
///
/// # Errors
/// The refusal, already counted and logged.
pub async fn http1(
    worker: &Worker,
    source: &Source,
    head: &mut request::Parts,
    port: u16,
    observation: &mut Observation,
) -> Result<Passed, Refused> {
    take_target(&mut head.headers);
    pass(worker, source, head, port, AppProtocol::Http1, observation).await
}

async fn pass(
    worker: &Worker,
    source: &Source,
    head: &mut request::Parts,
    port: u16,
    protocol: AppProtocol,
    observation: &mut Observation,
) -> Result<Passed, Refused> {
    if let Err(error) = admit::path(head) {
        tracing::debug!(peer = source.peer_name(), %error, "request not admitted");
        return Err(source.refuse(worker, port, Reason::BadRequest, None));
    }
    observation.timeline.mark(Phase::Admit);
    let mut patience = Patience::default();
    let (snapshot, token) = loop {
        let snapshot = worker.snapshot();
        let Some(policy) = &snapshot.tokens else {
            break (snapshot, None);
        };
        policy.strip_claim_headers(&mut head.headers);
        let passed = worker.tokens.pass(&snapshot, policy, source, head, port);
        observation.timeline.mark(Phase::Token);
        observation.token_cached = worker.tokens.was_remembered();
        let stop = match passed {
            Ok(token) => break (snapshot, token),
            Err(stop) => stop,
        };
        // What it waits for may come with another snapshot.
        drop(snapshot);
        let has_to_wait = matches!(stop, Stop::Awaits { .. });
        let waited = worker.tokens.wait(stop, &mut patience, head, port).await;
        if has_to_wait {
            observation.timeline.mark(Phase::Introspect);
        }
        if let Err(denied) = waited {
            let refused = source.refuse(worker, port, denied.reason, None);
            return Err(Refused {
                max_age: denied.max_age,
                ..refused
            });
        }
    };
    observation.token.clone_from(&token);
    let subject = token.as_deref().map(Verified::token);
    let decided = decide::request(worker, source, &snapshot, port, head, subject, observation);
    observation.timeline.mark(Phase::Policy);
    decided?;
    observation.tells_timing = timing::is_asked(worker, source, &mut head.headers);
    source.stamp(&mut head.headers);
    Ok(Passed {
        port,
        protocol,
        token,
        policy_epoch: snapshot.policy_epoch,
    })
}

/// What the private headers of a request from a sidecar say, and that they are gone.
fn take_target(headers: &mut HeaderMap) -> (Option<u16>, AppProtocol) {
    let port = headers
        .remove(headers::PORT)
        .and_then(|v| v.to_str().ok()?.parse().ok())
        .filter(|port| *port != 0);
    let protocol = match headers.remove(headers::PROTOCOL) {
        Some(protocol) if protocol == "h2" => AppProtocol::Http2,
        _ => AppProtocol::Http1,
    };
    headers::strip_reserved(headers);
    (port, protocol)
}
