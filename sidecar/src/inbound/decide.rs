//! The decision on one inbound HTTP request: what policy says, what policies that are only tried would say, what AUDIT
//! policies want to be told.

use http::{HeaderMap, Method, request};
use mesh_auth::policy::{PolicySet, Request, Standing};
use mesh_auth::token::VerifiedToken;
use mesh_auth::{Reason, headers};
use metrics::counter;

use super::shadow;
use super::source::Source;
use crate::http::answer::Refused;
use crate::snapshot::Snapshot;
use crate::telemetry::observe::Observation;
use crate::worker::Worker;

/// Decides whether a request for application port `port` goes on. Its path is normalized, its reserved headers are gone.
///
/// # Errors
/// The refusal, already counted and logged.
pub fn request(
    worker: &Worker,
    source: &Source,
    snapshot: &Snapshot,
    port: u16,
    head: &request::Parts,
    token: Option<&VerifiedToken>,
    observation: &mut Observation,
) -> Result<(), Refused> {
    if worker.is_internal(port) {
        return Err(source.refuse(worker, port, Reason::InternalPort, None));
    }
    if let Some(reason) = source.revoked(snapshot) {
        return Err(source.refuse(worker, port, reason, None));
    }
    let Some(policy) = &snapshot.policy else {
        return Err(source.refuse(worker, port, Reason::NoSnapshot, None));
    };
    let request = facts(source, port, head, &head.headers, token);
    let standing = source.standing(policy, snapshot.policy_epoch, port);
    let (decision, remembered) = policy.recall(&standing, &request);
    observation.decision_cached = remembered;
    worker.counters.decision(remembered);
    worker
        .counters
        .decided(decision.policy, decision.is_allowed());
    if policy.has_audit() {
        audit(policy, &standing, source, &request);
    }
    if let Some(would) = policy.would_decide_with(&standing, &request) {
        shadow::compare(
            worker,
            &request.connection,
            Some(&request),
            &decision,
            &would,
        );
    }
    if decision.is_allowed() {
        tracing::debug!(
            peer = source.peer_name(),
            port,
            reason = decision.reason.code(),
            policy = decision.policy,
            rule = decision.rule,
            revision = decision.revision,
            "allowed"
        );
        observation.allowed(decision.reason, || {
            decision.policy.map(|p| worker.counters.policy_name(p))
        });
        return Ok(());
    }
    Err(source.refuse_by(worker, port, &decision, Some(&request)))
}

/// Decides again on a request that was let in and is still open: whether the policies of `snapshot` would let it in too.
///
/// # Errors
/// The refusal, already counted and logged.
pub fn again(
    worker: &Worker,
    source: &Source,
    snapshot: &Snapshot,
    port: u16,
    head: &request::Parts,
    token: Option<&VerifiedToken>,
) -> Result<(), Refused> {
    let Some(policy) = &snapshot.policy else {
        return Err(source.refuse(worker, port, Reason::NoSnapshot, None));
    };
    // What was decided on did not carry the header that was written for the application.
    let unstamped = head.headers.contains_key(headers::XFCC).then(|| {
        let mut headers = head.headers.clone();
        headers.remove(headers::XFCC);
        headers
    });
    let headers = unstamped.as_ref().unwrap_or(&head.headers);
    let request = facts(source, port, head, headers, token);
    let standing = source.standing(policy, snapshot.policy_epoch, port);
    let decision = policy.decide_with(&standing, &request);
    if decision.is_allowed() {
        return Ok(());
    }
    Err(source.refuse_by(worker, port, &decision, Some(&request)))
}

/// What policy looks at.
fn facts<'a>(
    source: &'a Source,
    port: u16,
    head: &'a request::Parts,
    headers: &'a HeaderMap,
    token: Option<&'a VerifiedToken>,
) -> Request<'a> {
    Request {
        connection: source.connection(port),
        // Extended CONNECT carries an Upgrade, which the application gets as GET (RFC 8441 §5).
        method: match head.method {
            Method::CONNECT => &Method::GET,
            ref method => method,
        },
        host: head.uri.authority().map_or("", |a| a.as_str()),
        path: head.uri.path(),
        headers,
        token,
    }
}

fn audit(policy: &PolicySet, standing: &Standing, source: &Source, request: &Request<'_>) {
    policy.audited_with(standing, request, |name, rule| {
        counter!("postern_policy_audit_total", "policy" => name.to_owned()).increment(1);
        tracing::info!(
            policy = name,
            rule,
            peer = source.peer_name(),
            port = request.connection.destination_port,
            method = %request.method,
            path = request.path,
            "audited"
        );
    });
}
