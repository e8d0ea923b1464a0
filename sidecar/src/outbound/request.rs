//! Outbound HTTP: each request to an endpoint of its service, over a pooled mTLS connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use h2::{Reason as H2Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request};
use mesh_auth::{Reason, headers};
use mesh_http1::BodyLength;
use mesh_trace::Phase;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::directory::{Endpoint, MeshProtocol, ServicePort};
use crate::http::answer::Answer;
use crate::http::body::{BodyError, BodySink as _, BodySource};
use crate::http::ending::Endless;
use crate::http::forward::{
    Downstream, Exchanged, ForwardError, Head, Response as _, forward, pass_on,
};
use crate::http::gather::gather;
use crate::http::h1::{self, Connection};
use crate::http::h1_server::{self, Responder as H1Responder, Watchdog};
use crate::http::h2_server::{Responder, Unanswered};
use crate::http::unsent::{Piece, Unsent};
use crate::http::upstream::{Http2, Http2Response};
use crate::http::{admit, carried, h2 as stream};
use crate::inbound::request::{into_parts, refuse_head};
use crate::outbound::route::{Route, resolve};
use crate::pool::balance::Active;
use crate::pool::mesh::Slot;
use crate::telemetry::observe::{Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::worker::Worker;
use crate::worker::drain::Live;
use crate::worker::metrics::Direction;
use crate::worker::prefixed::Prefixed;

/// Endpoints tried for one request.
const ATTEMPTS: usize = 3;

/// Why a request got no response from a peer.
#[derive(Debug)]
struct Failed {
    reason: Reason,
    status: StatusCode,
    /// A response was under way: nothing can be answered any more.
    cut: bool,
}

impl Failed {
    fn new(reason: Reason, status: StatusCode) -> Self {
        Self {
            reason,
            status,
            cut: false,
        }
    }
}

impl From<(Reason, StatusCode)> for Failed {
    fn from((reason, status): (Reason, StatusCode)) -> Self {
        Self::new(reason, status)
    }
}

/// Serves HTTP/1.1 from the application until the connection ends.
pub async fn serve_http1<S>(
    worker: &Rc<Worker>,
    connection: RefCell<Connection<S>>,
    route: &Route,
    live: &Live,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut watchdog = Watchdog::new();
    let mut drain = live.watch();
    let limits = &worker.settings.limits;
    loop {
        let parsed =
            match h1_server::read_head(&connection, limits, &mut watchdog, &mut drain).await {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(error) => {
                    refuse_head(worker, &connection, &error, Direction::Outbound).await;
                    break;
                }
            };
        let mut observation = worker.observer.observe(Direction::Outbound);
        let keep_alive = parsed.keep_alive && !drain.is_draining();
        let mut responder =
            H1Responder::new(&connection, &parsed.method, parsed.version, keep_alive);
        let length = parsed.body;
        let upgrade = parsed.upgrade.clone();
        let mut head = into_parts(parsed);
        headers::strip_reserved(&mut head.headers);
        worker.observer.begin(&mut observation, &mut head.headers);
        if let Some(token) =
            upgrade.filter(|_| head.method == Method::GET && length == BodyLength::Empty)
        {
            let opened = (&connection, responder);
            let outcome =
                upgrade_http1(worker, opened, &mut head, &token, route, &mut observation).await;
            tell(worker, &mut observation, &head, &outcome);
            break;
        }
        let mut body = h1::Body::new(&connection, length, limits);
        let protocol = HeaderValue::from_static("http/1.1");
        let result = send(
            worker,
            &mut head,
            &mut body,
            length,
            &mut responder,
            route,
            protocol,
            &mut observation,
        )
        .await;
        let go_on = matches!(&result, Ok(done) if done.request_read) && responder.keeps_alive();
        let outcome = match result {
            Ok(done) => Outcome::of(&done).counted(&worker.counters, Direction::Outbound),
            Err(failed) => {
                responder.close_after();
                let outcome = if failed.cut {
                    cut(worker, failed.reason)
                } else {
                    let answer = refuse(worker, &failed, &head, &mut observation);
                    let _ = answer.send(&mut responder, &head.headers);
                    answered(&answer, &head)
                };
                let _ = responder.finish(&mut Endless).await;
                outcome
            }
        };
        tell(worker, &mut observation, &head, &outcome);
        if !go_on {
            break;
        }
    }
    let _ = poll_fn(|cx| connection.borrow_mut().poll_shutdown(cx)).await;
}

/// Serves HTTP/2 with prior knowledge from the application until the connection ends.
pub async fn serve_http2<S>(
    worker: &Rc<Worker>,
    connection: RefCell<Connection<S>>,
    route: Route,
    live: &Live,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (io, prefix) = connection.into_inner().into_parts();
    let (io, turn) = gather(Prefixed::new(prefix, io));
    let handshake = stream::server_builder().handshake::<_, Piece>(io);
    let Ok(mut connection) = turn.run(handshake).await else {
        return;
    };
    let unsent = Rc::<Unsent>::default();
    let mut drain = live.watch();
    let mut closing = false;
    loop {
        let accepted = poll_fn(|cx| {
            if !closing && drain.poll(cx).is_ready() {
                closing = true;
                connection.graceful_shutdown();
            }
            turn.poll(cx, |cx| connection.poll_accept(cx))
        })
        .await;
        let Some(Ok((request, response))) = accepted else {
            return;
        };
        let (worker, route) = (Rc::clone(worker), route.clone());
        let response = (response, Rc::clone(&unsent));
        let live = worker.drain.enter();
        // Boxed: the runtime moves a task five times, all of it.
        let task = Box::pin(async move {
            serve_stream(&worker, request, response, &route).await;
            drop(live);
        });
        // Ends with its stream, which ends with the connection.
        tokio::task::spawn_local(task);
    }
}

async fn serve_stream(
    worker: &Rc<Worker>,
    request: Request<RecvStream>,
    response: Unanswered,
    route: &Route,
) {
    let (mut head, body) = request.into_parts();
    let mut observation = worker.observer.observe(Direction::Outbound);
    worker.observer.begin(&mut observation, &mut head.headers);
    let mut responder = Responder::new(response, &head.method);
    headers::strip_reserved(&mut head.headers);
    let result = if head.method == Method::CONNECT || admit::http2(&mut head).is_err() {
        Err(Failed::new(Reason::BadRequest, StatusCode::BAD_REQUEST))
    } else {
        let length = admit::http2_length(&head, body.is_end_stream());
        let mut body = stream::Body::new(body);
        let protocol = HeaderValue::from_static("h2");
        send(
            worker,
            &mut head,
            &mut body,
            length,
            &mut responder,
            route,
            protocol,
            &mut observation,
        )
        .await
    };
    let outcome = match result {
        Ok(done) => Outcome::of(&done).counted(&worker.counters, Direction::Outbound),
        Err(failed) if failed.cut => {
            responder.reset(H2Reason::CANCEL);
            cut(worker, failed.reason)
        }
        Err(failed) => {
            let answer = refuse(worker, &failed, &head, &mut observation);
            if let Ok(mut sink) = answer.send(&mut responder, &head.headers) {
                let _ = poll_fn(|cx| sink.poll_flush(cx)).await;
            }
            answered(&answer, &head)
        }
    };
    tell(worker, &mut observation, &head, &outcome);
}

/// A response that was under way is not passed on to its end.
fn cut(worker: &Worker, reason: Reason) -> Outcome {
    Outcome::failed(reason).counted(&worker.counters, Direction::Outbound)
}

/// It ended with an answer of our own, which [`refuse`] counted.
fn answered(answer: &Answer, head: &request::Parts) -> Outcome {
    Outcome {
        status: Some(answer.status),
        grpc_status: answer.grpc_code(&head.headers),
        ..Outcome::default()
    }
}

fn tell(worker: &Worker, observation: &mut Observation, head: &request::Parts, outcome: &Outcome) {
    worker.observer.request_ended(observation, |observation| {
        super::ended(worker, observation, Some(head), outcome)
    });
    worker.observer.watch.edges.left(observation, true, outcome);
}

/// Counts, logs and answers a request that got no response.
fn refuse(
    worker: &Worker,
    failed: &Failed,
    head: &request::Parts,
    observation: &mut Observation,
) -> Answer {
    let id = worker.decision_id();
    observation.refused(failed.reason, id, None);
    worker.counters.denial(Direction::Outbound, failed.reason);
    worker
        .counters
        .request(Direction::Outbound, failed.status, 0, 0);
    tracing::info!(
        decision = format_args!("{id:016x}"),
        reason = failed.reason.code(),
        host = head.uri.authority().map(http::uri::Authority::as_str),
        "outbound request refused"
    );
    Answer::new(failed.reason, id).with_status(failed.status)
}

#[allow(clippy::too_many_arguments)]
async fn send<B, D>(
    worker: &Rc<Worker>,
    head: &mut request::Parts,
    body: &mut B,
    length: BodyLength,
    responder: &mut D,
    route: &Route,
    protocol: HeaderValue,
    observation: &mut Observation,
) -> Result<Exchanged, Failed>
where
    B: BodySource,
    D: Downstream,
{
    let port = resolve(worker, head, route).await?;
    observation.port = port.port;
    observation.timeline.mark(Phase::Admit);
    if head.uri.authority().is_none() {
        // HTTP/1.0 without a host: the connection's destination is the host.
        if let Ok(authority) = http::uri::Authority::try_from(port.name.replace('/', ".").as_str())
        {
            admit::set_authority(head, authority);
        }
    }
    let mut tried: Vec<Arc<str>> = Vec::new();
    for attempt in 0..ATTEMPTS {
        let placed = place(worker, &port, head, &protocol, &mut tried, observation).await;
        let Some((slot, active, uid)) = placed else {
            break;
        };
        observation.resends = u32::try_from(attempt).unwrap_or(u32::MAX);
        let result = forward(
            head,
            body,
            length,
            responder,
            Http2(slot.sender()),
            &mut Endless,
        )
        .await;
        drop(active);
        observation.answered(&result);
        match result {
            Ok(done) => {
                // The mesh's own headers are not for the application.
                return Ok(done);
            }
            Err(ForwardError::NoResponse { error, body_taken }) => {
                tracing::debug!(peer = %uid, %error, "no response from the peer");
                slot.retire();
                if body_taken || !may_retry(&error, &head.method) {
                    return Err(Failed::new(Reason::ConnectFailed, StatusCode::BAD_GATEWAY));
                }
            }
            Err(ForwardError::Request(error)) => {
                tracing::debug!(%error, "request body");
                return Err(Failed::new(Reason::BadRequest, StatusCode::BAD_REQUEST));
            }
            Err(
                error @ (ForwardError::Response(_)
                | ForwardError::Downstream(_)
                | ForwardError::Ended { .. }),
            ) => {
                tracing::debug!(%error, "exchange cut");
                return Err(Failed {
                    cut: true,
                    ..Failed::new(Reason::ConnectFailed, StatusCode::BAD_GATEWAY)
                });
            }
        }
    }
    Err(Failed::new(
        Reason::NoHealthyEndpoint,
        StatusCode::SERVICE_UNAVAILABLE,
    ))
}

/// True when the peer cannot have acted on the request, or acting twice is harmless.
fn may_retry(error: &BodyError, method: &Method) -> bool {
    match error {
        BodyError::Http2(error) => {
            error.reason() == Some(H2Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.reason() == Some(H2Reason::NO_ERROR))
                || (method.is_idempotent() && (error.is_io() || error.is_go_away()))
        }
        _ => method.is_idempotent(),
    }
}

/// A stream's place on an endpoint, with the request told which port it is for.
async fn place(
    worker: &Rc<Worker>,
    port: &ServicePort,
    head: &mut request::Parts,
    protocol: &HeaderValue,
    tried: &mut Vec<Arc<str>>,
    observation: &mut Observation,
) -> Option<(Slot, Active, Arc<str>)> {
    while let Some((endpoint, state)) = worker.balancer.pick(&port.endpoints, tried) {
        let workload = &endpoint.workload;
        if !workload.takes_requests() {
            tried.push(Arc::clone(&workload.uid));
            continue;
        }
        let active = state.begin();
        let snapshot = worker.snapshot();
        let slot = match worker.mesh.ready(workload, &snapshot) {
            Some(slot) => Ok(slot),
            None => {
                worker.in_use.note(port);
                let snapshot = arc_swap::Guard::into_inner(snapshot);
                worker.mesh.slot(workload, &snapshot).await
            }
        };
        match slot {
            Ok(slot) => {
                state.reached();
                observation.connected(workload, slot.handshake());
                if port.endpoints.len() > 1 {
                    tried.push(Arc::clone(&workload.uid));
                }
                address(worker, head, endpoint, protocol);
                return Some((slot, active, Arc::clone(&workload.uid)));
            }
            Err(error) => {
                tracing::info!(peer = %workload.id, %error, "peer not reachable");
                state.failed(Instant::now());
                tried.push(Arc::clone(&workload.uid));
            }
        }
    }
    None
}

/// Tells a sidecar which port the request is for and what it came as; tells anybody else nothing of it.
fn address(
    worker: &Worker,
    head: &mut request::Parts,
    endpoint: &Endpoint,
    protocol: &HeaderValue,
) {
    // From an attempt with another endpoint.
    let carried = carried::take(&mut head.headers);
    carried::give_back(&mut head.headers, carried);
    if endpoint.workload.protocol == MeshProtocol::Postern {
        let port = HeaderValue::from(endpoint.target_port);
        head.headers.insert(headers::PORT, port);
        head.headers.insert(headers::PROTOCOL, protocol.clone());
        worker.repeated.carry(&mut head.headers);
    } else {
        head.headers.remove(headers::PORT);
        head.headers.remove(headers::PROTOCOL);
    }
}

/// An Upgrade: to the peer as extended CONNECT (RFC 8441), then bytes both ways.
async fn upgrade_http1<S>(
    worker: &Rc<Worker>,
    (connection, mut responder): (&RefCell<Connection<S>>, H1Responder<'_, S>),
    head: &mut request::Parts,
    token: &HeaderValue,
    route: &Route,
    observation: &mut Observation,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    responder.close_after();
    let failed = match open_upgrade(worker, head, token, route, observation).await {
        Ok((mut response, send, _slot, _active)) => {
            let final_head = poll_fn(|cx| {
                loop {
                    match std::task::ready!(response.poll_head(cx)) {
                        Ok(Head::Informational(_)) => {}
                        Ok(Head::Final(head, length)) => {
                            return std::task::Poll::Ready(Ok((head, length)));
                        }
                        Err(error) => return std::task::Poll::Ready(Err(error)),
                    }
                }
            })
            .await;
            observation.timeline.mark(Phase::Upstream);
            match final_head {
                Ok((head, _)) if head.status == StatusCode::OK => {
                    responder.switch_protocols(&head, token);
                    let Some(receive) = response.into_stream() else {
                        return Outcome::failed(Reason::ProtocolError);
                    };
                    let carried = Carried::default();
                    let result = tunnel::with_stream(
                        connection,
                        send,
                        receive,
                        Speech::Opaque,
                        &mut Endless,
                        &carried,
                    )
                    .await;
                    if let Err(error) = &result {
                        tracing::debug!(%error, "upgraded connection cut");
                    }
                    return Outcome::tunnel(&carried, &result)
                        .switched()
                        .counted(&worker.counters, Direction::Outbound);
                }
                Ok(answer) => {
                    let status = answer.0.status;
                    let passed = pass_on(response, answer, &mut responder, &mut Endless).await;
                    let Ok((bytes, result)) = passed else {
                        return Outcome::failed(Reason::ProtocolError);
                    };
                    return Outcome::declined(status, bytes, &result)
                        .counted(&worker.counters, Direction::Outbound);
                }
                Err(error) => {
                    tracing::debug!(%error, "peer did not answer the upgrade");
                    Failed::new(Reason::ConnectFailed, StatusCode::BAD_GATEWAY)
                }
            }
        }
        Err(failed) => failed,
    };
    let answer = refuse(worker, &failed, head, observation);
    let _ = answer.send(&mut responder, &HeaderMap::new());
    let _ = responder.finish(&mut Endless).await;
    answered(&answer, head)
}

type Upgrading = (Http2Response, stream::Sink, Slot, Active);

async fn open_upgrade(
    worker: &Rc<Worker>,
    head: &mut request::Parts,
    token: &HeaderValue,
    route: &Route,
    observation: &mut Observation,
) -> Result<Upgrading, Failed> {
    let bad = || Failed::new(Reason::BadRequest, StatusCode::BAD_REQUEST);
    let port = resolve(worker, head, route).await?;
    observation.port = port.port;
    observation.timeline.mark(Phase::Admit);
    let protocol = h2::ext::Protocol::from(token.to_str().map_err(|_| bad())?);
    head.headers.remove(header::CONTENT_LENGTH);
    let came_as = HeaderValue::from_static("http/1.1");
    let mut tried = Vec::new();
    for _ in 0..ATTEMPTS {
        let Some((slot, active, _)) =
            place(worker, &port, head, &came_as, &mut tried, observation).await
        else {
            break;
        };
        let mut request = Request::from_parts(head.clone(), ());
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(protocol.clone());
        match slot.sender().send_request(request, false) {
            Ok((response, send)) => {
                return Ok((Http2Response::new(response, false), send, slot, active));
            }
            Err(_) => slot.retire(),
        }
    }
    Err(Failed::new(
        Reason::NoHealthyEndpoint,
        StatusCode::SERVICE_UNAVAILABLE,
    ))
}
