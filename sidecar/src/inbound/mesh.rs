//! The mesh port: mutual TLS, then HTTP/2 with plain requests, HBONE CONNECT and extended CONNECT streams.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use h2::{Reason as H2Reason, RecvStream};
use http::{HeaderMap, Method, Request, StatusCode};
use mesh_auth::svid::{SvidError, Usage, VerifiedPeer};
use mesh_auth::tls::Trust;
use mesh_auth::{Reason, SpiffeId};
use mesh_trace::Phase;
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::lifetime::TunnelLifetime;
use super::request;
use super::source::Source;
use crate::http::answer::{Answer, Refused};
use crate::http::body::BodySink as _;
use crate::http::gather::{Gather, Turn, gather};
use crate::http::h1::Connection;
use crate::http::h2 as stream;
use crate::http::h2_server::{Responder, Unanswered};
use crate::http::unsent::{Piece, Unsent};
use crate::telemetry::observe::{Ended, Line, Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::wall_clock::now;
use crate::worker::accepted::Accepted;
use crate::worker::drain::Live;
use crate::worker::expiry::Expiry;
use crate::worker::hold_back::HoldBack;
use crate::worker::metrics::Direction;
use crate::worker::peer_review::PeerReview;
use crate::worker::review::{CUT_AFTER, Review};
use crate::worker::{Mode, Worker, dial};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection on the mesh port.
pub async fn accept(worker: &Rc<Worker>, (stream, address): (Accepted, SocketAddr), live: &Live) {
    worker.counters.connection(Direction::Inbound);
    // Boxed, and done with before the connection is served: an idle one does not keep the room that its beginning took.
    let begun = Box::pin(begin(worker, stream, address)).await;
    if let Some((io, source, expiry, review)) = begun {
        serve_http2(worker, io, source, live, expiry, &review).await;
    }
}

/// A stream of a peer that proved who it is. Boxed where it is made: on its way to who serves it, it would be copied at every step.
pub type Tls<S> = Box<TlsStream<HoldBack<S>>>;

/// The same on the mesh port.
type Io = Tls<Accepted>;

/// Finds out who the peer is and puts its connection under review.
async fn begin(
    worker: &Rc<Worker>,
    stream: Accepted,
    address: SocketAddr,
) -> Option<((Gather<Io>, Turn<Io>), Rc<Source>, Expiry, Review)> {
    let local = stream.local_addr().ok()?;
    let snapshot = worker.snapshot();
    let Some(tls) = &snapshot.tls else {
        // Fail closed: without an identity nobody can be answered.
        let (address, own) = (dial::canonical(address), local.ip().to_canonical());
        let source = Source::new(None, address, own, None, &snapshot);
        let refused = source.refuse(worker, 0, Reason::NoIdentity, None);
        source.turned_away(worker, 0, &refused);
        return None;
    };
    let (tls_stream, peer) = handshake(
        worker,
        &TlsAcceptor::from(Arc::clone(&tls.mesh)),
        &snapshot.trust(),
        stream,
        address,
    )
    .await?;
    let expiry = Expiry::of(&peer, tls.identity.not_after());
    let subject = PeerReview::new(
        tls_stream.get_ref().1,
        peer.clone(),
        &snapshot.chains,
        Direction::Inbound,
    );
    let review = worker
        .reviews
        .register(Box::new(subject), &worker.snapshot());
    worker.tokens.meet(&peer);
    let source = Source::new(
        Some(peer),
        dial::canonical(address),
        local.ip().to_canonical(),
        None,
        &snapshot,
    );
    Some((gather(tls_stream), Rc::new(source), expiry, review))
}

/// Accepts TLS and names the peer; failures are counted and logged. A session ticket goes out with what the caller writes or
/// flushes next.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    acceptor: &TlsAcceptor,
    trust: &Trust,
    stream: S,
    address: SocketAddr,
) -> Option<(Tls<S>, VerifiedPeer)> {
    let mut observation = worker.observer.connection(Direction::Inbound);
    let mut refusal = None;
    // Boxed: an idle connection does not keep the room that its handshake took.
    let shaking = Box::pin(shake_hands(
        worker,
        acceptor,
        trust,
        stream,
        address,
        &mut refusal,
    ));
    let accepted = shaking.await;
    if let Some(reason) = refusal {
        observation.refused(reason, 0, None);
    }
    let resumed = accepted.as_ref().map(|(tls, _)| is_resumed(tls));
    worker
        .observer
        .handshake_ended(&mut observation, |_| Ended {
            line: Line::Handshake { resumed },
            peer_address: Some(dial::canonical(address)),
            port: 0,
            peer_id: accepted.as_ref().map(|(_, peer)| peer.id().to_shared()),
            own_id: worker.snapshot().identity().map(SpiffeId::to_shared),
            sent: 0,
            received: 0,
            error: refusal.map(Reason::code),
        });
    accepted
}

fn is_resumed<S>(tls: &TlsStream<S>) -> bool {
    tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    acceptor: &TlsAcceptor,
    trust: &Trust,
    stream: S,
    address: SocketAddr,
    refusal: &mut Option<Reason>,
) -> Option<(Tls<S>, VerifiedPeer)> {
    let mut failed = |error: &dyn std::fmt::Display, reason: Reason| {
        *refusal = Some(reason);
        worker.counters.handshake(Direction::Inbound, false);
        worker.counters.denial(Direction::Inbound, reason);
        tracing::info!(source = %address, reason = reason.code(), error = %error, "TLS handshake failed");
    };
    let mut refused = |refusal: &SvidError| {
        let reason = match refusal {
            SvidError::Revoked { .. } => Reason::PeerRevoked,
            _ => Reason::PeerUnverified,
        };
        failed(&refusal.with_skew(worker.snapshot().clock_skew), reason);
    };
    let accept = acceptor.accept(HoldBack::new(stream)).into_fallible();
    let accept = Box::pin(async { accept.await.map(Box::new) });
    let accept = async {
        match worker.turns.take(accept).await {
            Ok(mut tls) => {
                tls.get_mut().0.release();
                stream::take_frames_whole(tls.get_mut().1);
                Ok(tls)
            }
            Err((error, held)) => {
                held.finish().await;
                Err(error)
            }
        }
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
        Ok(Ok(tls)) => match trust.peer_of(tls.get_ref().1, Usage::Client, now()) {
            Ok(peer) => {
                worker.counters.handshake(Direction::Inbound, true);
                if is_resumed(&tls) {
                    worker.counters.resumption(Direction::Inbound);
                }
                return Some((tls, peer));
            }
            Err(error) => refused(&error),
        },
        Ok(Err(error)) => match mesh_auth::tls::refusal(&error) {
            Some(refusal) => refused(refusal),
            None => failed(&error, Reason::PeerUnverified),
        },
        Err(_) => failed(
            &format_args!("no complete handshake within {HANDSHAKE_TIMEOUT:?}"),
            Reason::PeerUnverified,
        ),
    }
    None
}

/// Serves HTTP/2 on an authenticated connection until it ends, drains, a certificate is about to expire, or a review ends
/// it: then it says GOAWAY, takes no new stream, and is cut soon after.
pub async fn serve_http2<S>(
    worker: &Rc<Worker>,
    (io, turn): (Gather<S>, Turn<S>),
    source: Rc<Source>,
    live: &Live,
    expiry: Expiry,
    review: &Review,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handshake = Box::pin(turn.run(stream::server_builder().handshake::<_, Piece>(io)));
    let mut connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(source = %source.address, %error, "HTTP/2 preface failed");
            return;
        }
        Err(_) => return,
    };
    let unsent = Rc::<Unsent>::default();
    let mut drain = live.watch();
    // One timer for both: to leave, then to be cut.
    let began = Instant::now();
    let mut timer = Box::pin(tokio::time::sleep(expiry.drain));
    let (mut leaving, mut ended) = (false, false);
    loop {
        let accepted = poll_fn(|cx| {
            if !ended && review.poll(cx).is_ready() {
                (leaving, ended) = (true, true);
                connection.graceful_shutdown();
                timer.as_mut().reset(Instant::now() + CUT_AFTER);
            }
            if !leaving && (drain.poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready()) {
                leaving = true;
                connection.graceful_shutdown();
                // Plaintext is cut by nothing but its own end: the longest sleep is as good as never.
                let left = expiry.cut.saturating_sub(began.elapsed());
                timer.set(tokio::time::sleep(left));
            }
            if leaving && timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            turn.poll(cx, |cx| connection.poll_accept(cx))
        })
        .await;
        match accepted {
            Some(Ok((_, mut response))) if ended => response.send_reset(H2Reason::REFUSED_STREAM),
            Some(Ok((request, response))) => {
                // Boxed: the runtime moves a task five times, all of it.
                let task = Box::pin(serve_stream(
                    Rc::clone(worker),
                    Rc::clone(&source),
                    worker.drain.enter(),
                    request,
                    (response, Rc::clone(&unsent)),
                ));
                // Ends with its stream, which ends with the connection.
                tokio::task::spawn_local(task);
            }
            Some(Err(error)) => {
                tracing::debug!(peer = source.peer_name(), %error, "HTTP/2 connection failed");
                return;
            }
            None => return,
        }
    }
}

async fn serve_stream(
    worker: Rc<Worker>,
    source: Rc<Source>,
    _live: Live,
    request: Request<RecvStream>,
    response: Unanswered,
) {
    let is_connect = request.method() == Method::CONNECT;
    let is_extended = request.extensions().get::<h2::ext::Protocol>().is_some();
    if is_connect && !is_extended {
        connect(&worker, &source, request, response).await;
    } else {
        request::serve_http2(&worker, &source, request, response).await;
    }
}

/// One HBONE tunnel: 400 for a bad authority, 401 when denied, 503 when the application cannot be reached.
async fn connect(
    worker: &Rc<Worker>,
    source: &Source,
    request: Request<RecvStream>,
    response: Unanswered,
) {
    let (head, body) = request.into_parts();
    let mut observation = worker.observer.connection(Direction::Inbound);
    let mut responder = Responder::new(response, &Method::CONNECT);
    let refuse = |responder: &mut Responder,
                  observation: &mut Observation,
                  status: StatusCode,
                  port: u16,
                  refused: &Refused| {
        let answer = Answer::new(refused.reason, refused.id).with_status(status);
        if answer.send(responder, &HeaderMap::new()).is_err() {
            responder.reset(H2Reason::CANCEL);
        }
        source.connection_refused(worker, observation, port, refused);
    };
    let target = head
        .uri
        .authority()
        .and_then(|a| a.as_str().parse::<SocketAddr>().ok());
    let Some(target) = target else {
        let refused = source.refuse(worker, 0, Reason::BadRequest, None);
        return refuse(
            &mut responder,
            &mut observation,
            StatusCode::BAD_REQUEST,
            0,
            &refused,
        );
    };
    let port = source.port.unwrap_or(target.port());
    if !is_own_address(worker, source, target.ip().to_canonical()) {
        let refused = source.refuse(worker, port, Reason::DestinationMismatch, None);
        return refuse(
            &mut responder,
            &mut observation,
            StatusCode::BAD_REQUEST,
            port,
            &refused,
        );
    }
    let snapshot = worker.snapshot();
    observation.timeline.mark(Phase::Admit);
    let authorized = source.authorize(worker, &snapshot, port);
    observation.timeline.mark(Phase::Policy);
    if let Err(refused) = authorized {
        return refuse(
            &mut responder,
            &mut observation,
            StatusCode::UNAUTHORIZED,
            port,
            &refused,
        );
    }
    let mut lifetime = TunnelLifetime::new(worker, source, port, snapshot.policy_epoch);
    drop(snapshot);
    let address = worker.app_address(port, source.own);
    let app = match worker.settings.dialer.connect(address).await {
        Ok(app) => app,
        Err(error) => {
            tracing::debug!(%error, "application not reachable");
            let refused = source.refuse(worker, port, Reason::ConnectFailed, None);
            return refuse(
                &mut responder,
                &mut observation,
                StatusCode::SERVICE_UNAVAILABLE,
                port,
                &refused,
            );
        }
    };
    let (head, ()) = http::Response::new(()).into_parts();
    let Ok(send) = responder.open(head) else {
        return;
    };
    observation.timeline.mark(Phase::Connect);
    let app = RefCell::new(Connection::new(app, BytesMut::new()));
    let carried = Carried::default();
    let result =
        tunnel::with_stream(&app, send, body, Speech::Opaque, &mut lifetime, &carried).await;
    if let Err(error) = &result {
        tracing::debug!(peer = source.peer_name(), %error, "tunnel cut");
    }
    let outcome =
        Outcome::tunnel_from_app(&carried, &result).carried(&worker.counters, Direction::Inbound);
    source.connection_ended(worker, &mut observation, port, &outcome);
}

fn is_own_address(worker: &Worker, source: &Source, ip: std::net::IpAddr) -> bool {
    ip == source.own
        || (worker.settings.mode == Mode::Explicit && ip.is_loopback())
        || worker
            .snapshot()
            .own
            .as_ref()
            .is_some_and(|own| own.addresses.contains(&ip))
}

/// Resolves once the stream's sink was written out; used by answers whose body may have to wait for capacity.
pub async fn flush(sink: &mut stream::Sink) {
    poll_fn(|cx| match sink.poll_flush(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_accept<S, F: Future>(_: fn(&'static Rc<Worker>, S, &'static Live) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    fn size_of_stream<A, B, C, D, E, F: Future>(_: fn(A, B, C, D, E) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Each connection and each stream is a task: what its future holds is held while it is idle, and moved when it is spawned.
    #[test]
    fn tasks_stay_small() {
        let sizes = [
            (size_of_accept(accept), 1_820),
            (size_of_stream(serve_stream), 3_300),
            (size_of_accept(crate::outbound::accept), 1_700),
            (size_of_accept(super::super::plain::accept), 1_700),
        ];
        for (size, most) in sizes {
            assert!(size <= most, "{sizes:?}: {size} bytes, at most {most}");
        }
    }
}
