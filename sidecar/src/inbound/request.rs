//! One inbound HTTP request: through the gate, to the application and back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use h2::RecvStream;
use http::{HeaderMap, Method, Request, StatusCode, request};
use mesh_auth::Reason;
use mesh_http1::{BodyLength, RequestHead};
use mesh_trace::Phase;
use tokio::io::{AsyncRead, AsyncWrite};

use super::gate::{self, AppProtocol, Passed};
use super::lifetime::Lifetime;
use super::mesh::flush;
use super::source::Source;
use super::timing::Telling;
use super::upgrade;
use crate::http::answer::{Answer, Refused};
use crate::http::body::BodySource;
use crate::http::ending::Endless;
use crate::http::forward::{Downstream, Exchanged, ForwardError, forward};
use crate::http::h1::{self, Connection};
use crate::http::h1_server::{self, HeadError, Responder as H1Responder, Watchdog};
use crate::http::h2_server::{Responder, Unanswered};
use crate::http::upstream::{Http1, Http2};
use crate::http::{admit, h2 as stream};
use crate::telemetry::observe::{Observation, Outcome};
use crate::worker::Worker;
use crate::worker::drain::Live;
use crate::worker::metrics::Direction;

/// Serves one HTTP/2 request (plain or extended CONNECT) from an authenticated connection.
pub async fn serve_http2(
    worker: &Rc<Worker>,
    source: &Source,
    request: Request<RecvStream>,
    response: Unanswered,
) {
    let (mut head, body) = request.into_parts();
    let mut observation = worker.observer.observe(Direction::Inbound);
    worker.observer.begin(&mut observation, &mut head.headers);
    let mut responder = Responder::new(response, &head.method);
    let upgrade = head.extensions.remove::<h2::ext::Protocol>();
    let passed = match gate::http2(worker, source, &mut head, &mut observation).await {
        Ok(passed) => passed,
        Err(refused) => {
            note(&mut observation, &refused);
            let outcome = answer(worker, &mut responder, &head.headers, refused).await;
            let port = observation.port;
            return tell(worker, source, &mut observation, &head, port, &outcome);
        }
    };
    let Passed { port, protocol, .. } = passed;
    if upgrade.is_some() {
        head.method = Method::GET;
    }
    let mut lifetime = Lifetime::new(worker, source, &head, &passed);
    if let Some(protocol) = upgrade {
        let opened = (responder, body);
        let outcome = upgrade::serve_http2(
            worker,
            source,
            &head,
            &protocol,
            opened,
            port,
            &mut lifetime,
        )
        .await;
        note_end(&mut observation, &lifetime);
        return tell(worker, source, &mut observation, &head, port, &outcome);
    }
    let length = admit::http2_length(&head, body.is_end_stream());
    let mut body = stream::Body::new(body);
    let result = to_app(
        worker,
        source,
        &head,
        &mut body,
        length,
        &mut responder,
        port,
        protocol,
        &mut lifetime,
        &mut observation,
    )
    .await;
    let result = result.map_err(|error| {
        failure(
            worker,
            source,
            &error,
            lifetime.refused(),
            port,
            &mut observation,
        )
    });
    let outcome = finish(worker, result, &mut responder, &head.headers).await;
    tell(worker, source, &mut observation, &head, port, &outcome);
}

/// Serves HTTP/1.1 on an inbound connection to application port `port` until it ends.
pub async fn serve_http1<S>(
    worker: &Rc<Worker>,
    source: &Source,
    connection: Connection<S>,
    port: u16,
    live: &Live,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = RefCell::new(connection);
    let mut watchdog = Watchdog::new();
    let mut drain = live.watch();
    let limits = &worker.settings.limits;
    loop {
        let parsed =
            match h1_server::read_head(&connection, limits, &mut watchdog, &mut drain).await {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(error) => {
                    refuse_head(worker, &connection, &error, Direction::Inbound).await;
                    break;
                }
            };
        let mut observation = worker.observer.observe(Direction::Inbound);
        let keep_alive = parsed.keep_alive && !drain.is_draining();
        let mut responder =
            H1Responder::new(&connection, &parsed.method, parsed.version, keep_alive);
        let length = parsed.body;
        let upgrade = parsed.upgrade.clone();
        let mut head = into_parts(parsed);
        worker.observer.begin(&mut observation, &mut head.headers);
        let passed = match gate::http1(worker, source, &mut head, port, &mut observation).await {
            Ok(passed) => passed,
            Err(refused) => {
                responder.close_after();
                note(&mut observation, &refused);
                let answer = Answer::of(&refused);
                let _ = answer.send(&mut responder, &head.headers);
                let _ = responder.finish(&mut Endless).await;
                let outcome = answered(worker, &answer, &head.headers);
                tell(worker, source, &mut observation, &head, port, &outcome);
                break;
            }
        };
        let mut lifetime = Lifetime::new(worker, source, &head, &passed);
        if let Some(token) = upgrade {
            let opened = (&connection, responder);
            let outcome =
                upgrade::serve_http1(worker, source, opened, &head, &token, port, &mut lifetime)
                    .await;
            note_end(&mut observation, &lifetime);
            tell(worker, source, &mut observation, &head, port, &outcome);
            break;
        }
        let mut body = h1::Body::new(&connection, length, limits);
        let result = to_app(
            worker,
            source,
            &head,
            &mut body,
            length,
            &mut responder,
            port,
            AppProtocol::Http1,
            &mut lifetime,
            &mut observation,
        )
        .await;
        let go_on = matches!(&result, Ok(done) if done.request_read) && responder.keeps_alive();
        let outcome = match result {
            Ok(done) => Outcome::of(&done).counted(&worker.counters, Direction::Inbound),
            Err(error) => {
                responder.close_after();
                let failure = failure(
                    worker,
                    source,
                    &error,
                    lifetime.refused(),
                    port,
                    &mut observation,
                );
                match failure {
                    Failure::Unanswered(answer) => {
                        let _ = answer.send(&mut responder, &head.headers);
                        let _ = responder.finish(&mut Endless).await;
                        answered(worker, &answer, &head.headers)
                    }
                    Failure::Cut(reason) | Failure::Said(reason) => {
                        // What came before the cut goes out, unless that has to end too.
                        let left = responder.finish(&mut lifetime).await;
                        note_end(&mut observation, &lifetime);
                        let reason = left.err().and_then(|e| e.reason()).unwrap_or(reason);
                        cut(worker, reason)
                    }
                }
            }
        };
        tell(worker, source, &mut observation, &head, port, &outcome);
        if !go_on {
            break;
        }
    }
    let _ = poll_fn(|cx| connection.borrow_mut().poll_shutdown(cx)).await;
}

/// An admitted HTTP/1.1 head as request parts.
pub fn into_parts(parsed: RequestHead) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parsed.method;
    head.uri = parsed.uri;
    head.version = parsed.version;
    head.headers = parsed.headers;
    if let Some(authority) = parsed.authority {
        admit::set_authority(&mut head, authority);
    }
    head
}

/// Answers a head that could not be read, and says so in the log.
pub async fn refuse_head<S>(
    worker: &Worker,
    connection: &RefCell<Connection<S>>,
    error: &HeadError,
    direction: Direction,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (status, reason) = match error {
        HeadError::Parse(error) => (error.status(), Reason::BadRequest),
        HeadError::Timeout => (StatusCode::REQUEST_TIMEOUT, Reason::BadRequest),
        HeadError::Io(_) => return,
    };
    let id = worker.decision_id();
    worker.counters.denial(direction, reason);
    tracing::info!(decision = format_args!("{id:016x}"), %error, "request refused");
    let mut responder = H1Responder::new(connection, &Method::GET, http::Version::HTTP_11, false);
    let _ = Answer::new(reason, id)
        .with_status(status)
        .send(&mut responder, &HeaderMap::new());
    let _ = responder.finish(&mut Endless).await;
}

#[allow(clippy::too_many_arguments)]
async fn to_app<B, D>(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    body: &mut B,
    length: BodyLength,
    responder: &mut D,
    port: u16,
    protocol: AppProtocol,
    lifetime: &mut Lifetime<'_>,
    observation: &mut Observation,
) -> Result<Exchanged, ForwardError>
where
    B: BodySource,
    D: Downstream,
{
    let address = worker.app_address(port, source.own);
    let unreachable = |error: String| ForwardError::NoResponse {
        error: std::io::Error::other(error).into(),
        body_taken: false,
    };
    if protocol == AppProtocol::Http2 {
        let caller = source.caller();
        let sender = worker
            .clear
            .sender(address, &caller)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        observation.timeline.mark(Phase::Connect);
        let responder =
            &mut Telling::new(responder, &observation.timeline, observation.tells_timing);
        let result = forward(head, body, length, responder, Http2(sender), lifetime).await;
        observation.answered(&result);
        if matches!(&result, Err(ForwardError::NoResponse { .. })) {
            worker.clear.forget(address, &caller);
        }
        return result;
    }
    let mut lease = worker
        .apps
        .lease(address)
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    let timing = observation.tells_timing;
    loop {
        observation.timeline.mark(Phase::Connect);
        let reused = lease.reused();
        let upstream = Http1 {
            lease,
            limits: worker.settings.limits.clone(),
            upgrade: None,
        };
        let responder = &mut Telling::new(responder, &observation.timeline, timing);
        let result = forward(head, body, length, responder, upstream, lifetime).await;
        observation.answered(&result);
        match result {
            // The application closed the kept connection at the moment it was used again.
            Err(ForwardError::NoResponse {
                body_taken: false, ..
            }) if reused && head.method.is_idempotent() => {
                observation.resends += 1;
                lease = worker
                    .apps
                    .fresh(address)
                    .await
                    .map_err(|e| unreachable(e.to_string()))?;
            }
            result => return result,
        }
    }
}

async fn finish(
    worker: &Worker,
    result: Result<Exchanged, Failure>,
    responder: &mut Responder,
    request: &HeaderMap,
) -> Outcome {
    match result {
        Ok(done) => Outcome::of(&done).counted(&worker.counters, Direction::Inbound),
        Err(Failure::Unanswered(problem)) => {
            if let Ok(mut sink) = problem.send(responder, request) {
                flush(&mut sink).await;
            }
            answered(worker, &problem, request)
        }
        Err(Failure::Cut(reason)) => {
            responder.reset(h2::Reason::CANCEL);
            cut(worker, reason)
        }
        Err(Failure::Said(reason)) => cut(worker, reason),
    }
}

fn note(observation: &mut Observation, refused: &Refused) {
    observation.refused(refused.reason, refused.id, refused.policy.as_deref());
}

/// Notes the decision that ended what was under way, if one did.
fn note_end(observation: &mut Observation, lifetime: &Lifetime<'_>) {
    if let Some(refused) = lifetime.refused() {
        note(observation, refused);
    }
}

/// A response that was under way is not passed on to its end.
fn cut(worker: &Worker, reason: Reason) -> Outcome {
    Outcome::failed(reason).counted(&worker.counters, Direction::Inbound)
}

/// What is left to do after a failed exchange.
enum Failure {
    /// The request was not answered yet: with this.
    Unanswered(Answer),
    /// A response was under way.
    Cut(Reason),
    /// A response was under way, and its last word is still to be written: a reset would take it back.
    Said(Reason),
}

/// Counts and logs a failed exchange, which a decision may have `ended`.
fn failure(
    worker: &Worker,
    source: &Source,
    error: &ForwardError,
    ended: Option<&Refused>,
    port: u16,
    observation: &mut Observation,
) -> Failure {
    let (reason, status) = match *error {
        ForwardError::NoResponse { .. } => (Reason::ConnectFailed, StatusCode::BAD_GATEWAY),
        ForwardError::Request(_) => (Reason::BadRequest, StatusCode::BAD_REQUEST),
        ForwardError::Ended {
            reason,
            answered: false,
        } => match ended {
            Some(refused) => {
                note(observation, refused);
                return Failure::Unanswered(Answer::of(refused));
            }
            None => (reason, StatusCode::UNAUTHORIZED),
        },
        ForwardError::Ended { reason, .. } => {
            if let Some(refused) = ended {
                note(observation, refused);
            }
            tracing::debug!(peer = source.peer_name(), %error, "exchange cut");
            return Failure::Said(reason);
        }
        ForwardError::Response(_) | ForwardError::Downstream(_) => {
            tracing::debug!(peer = source.peer_name(), %error, "exchange cut");
            return Failure::Cut(Reason::ProtocolError);
        }
    };
    tracing::debug!(%error, "exchange failed");
    let refused = source.refuse(worker, port, reason, None);
    observation.refused(refused.reason, refused.id, None);
    Failure::Unanswered(Answer::new(refused.reason, refused.id).with_status(status))
}

/// Answers a request that is refused.
pub(super) async fn answer(
    worker: &Worker,
    responder: &mut Responder,
    request: &HeaderMap,
    refused: Refused,
) -> Outcome {
    let problem = Answer::of(&refused);
    if let Ok(mut sink) = problem.send(responder, request) {
        flush(&mut sink).await;
    }
    answered(worker, &problem, request)
}

/// Counts an answer that the sidecar gave itself.
pub(super) fn answered(worker: &Worker, answer: &Answer, request: &HeaderMap) -> Outcome {
    Outcome {
        status: Some(answer.status),
        grpc_status: answer.grpc_code(request),
        ..Outcome::default()
    }
    .counted(&worker.counters, Direction::Inbound)
}

fn tell(
    worker: &Worker,
    source: &Source,
    observation: &mut Observation,
    head: &request::Parts,
    port: u16,
    outcome: &Outcome,
) {
    source.request_ended(worker, observation, head, port, outcome);
}
