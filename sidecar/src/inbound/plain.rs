//! The inbound capture port: plaintext where the port's mode permits it, and TLS with a client certificate, which is
//! terminated with the workload's SVID and treated as the mesh port treats it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_auth::Reason;
use mesh_auth::policy::MtlsMode;
use mesh_http1::Detected;
use mesh_trace::Phase;
use std::future::poll_fn;
use std::task::Poll;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::lifetime::TunnelLifetime;
use super::source::Source;
use super::{mesh, request};
use crate::http::answer::{Answer, Refused};
use crate::http::ending::{Ending as _, Endless};
use crate::http::gather::gather;
use crate::http::h1::Connection;
use crate::http::h1_server::Responder;
use crate::outbound::detect::{self, Protocol};
use crate::snapshot::Snapshot;
use crate::telemetry::observe::{Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::worker::accepted::Accepted;
use crate::worker::drain::Live;
use crate::worker::expiry::Expiry;
use crate::worker::metrics::Direction;
use crate::worker::peer_review::PeerReview;
use crate::worker::prefixed::Prefixed;
use crate::worker::review::{Review, Subject, Topic};
use crate::worker::{Mode, Worker, dial};

/// How long the first byte is waited for on a port that demands mutual TLS.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Serves one connection on the inbound listener.
pub async fn accept(worker: &Rc<Worker>, (stream, address): (Accepted, SocketAddr), live: &Live) {
    worker.counters.connection(Direction::Inbound);
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let (address, local) = (dial::canonical(address), dial::canonical(local));
    let (own, port) = match worker.settings.mode {
        Mode::Capture => match stream.original_destination() {
            Some(destination) if destination != local => {
                (destination.ip(), Some(destination.port()))
            }
            _ => (local.ip(), None),
        },
        Mode::Explicit => (local.ip(), worker.settings.inbound_port),
    };
    let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
    let source = Source::new(None, address, own, port, &snapshot);
    let Some(port) = port.filter(|p| !worker.is_internal(*p)) else {
        let port = port.unwrap_or(local.port());
        let refused = source.refuse(worker, port, Reason::InternalPort, None);
        return source.turned_away(worker, port, &refused);
    };
    let mode = snapshot.port_modes.mode(port);
    let connection = RefCell::new(Connection::new(stream, BytesMut::new()));
    match mode {
        MtlsMode::Strict => {
            let seen = first_bytes(&connection).await;
            if seen == Detected::Tls {
                let terminated = terminate(worker, connection, source, port, live, &snapshot);
                return Box::pin(terminated).await;
            }
            worker.notebook.plaintext(source.address.ip(), port, true);
            let refused = source.refuse(worker, port, Reason::PlaintextRefused, None);
            source.turned_away(worker, port, &refused);
            if seen == Detected::Http1 {
                answer(&connection, refused).await;
            }
        }
        MtlsMode::Permissive | MtlsMode::Disable => {
            worker.notebook.plaintext(source.address.ip(), port, false);
            let subject = Plaintext {
                source: source.address.to_string(),
                port,
            };
            let reviews = &worker.reviews;
            let review = reviews.register(Box::new(subject), &worker.snapshot());
            let serve = plaintext(worker, connection, source, port, live, &review);
            // Cut or done: there is nothing left to say to whoever does not speak TLS.
            let _ = Box::pin(review.guard(serve)).await;
        }
    }
}

/// Waits for enough bytes to tell TLS from HTTP from the rest.
async fn first_bytes(connection: &RefCell<Connection<Accepted>>) -> Detected {
    let look = async {
        loop {
            let n = poll_fn(|cx| connection.borrow_mut().poll_fill_head(cx)).await;
            let seen = mesh_http1::detect(&connection.borrow().read);
            if seen != Detected::NeedMore || n.is_err() || n.is_ok_and(|n| n == 0) {
                return seen;
            }
        }
    };
    tokio::time::timeout(FIRST_BYTE, look)
        .await
        .unwrap_or(Detected::Unknown)
}

async fn terminate(
    worker: &Rc<Worker>,
    connection: RefCell<Connection<Accepted>>,
    plain: Source,
    port: u16,
    live: &Live,
    snapshot: &Snapshot,
) {
    let trust = snapshot.trust();
    let Some(tls) = &snapshot.tls else {
        let refused = plain.refuse(worker, port, Reason::NoIdentity, None);
        return plain.turned_away(worker, port, &refused);
    };
    let (stream, prefix) = connection.into_inner().into_parts();
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.inbound));
    let Some((mut stream, peer)) = mesh::handshake(
        worker,
        &acceptor,
        &trust,
        Prefixed::new(prefix, stream),
        plain.address,
    )
    .await
    else {
        return;
    };
    let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
    let expiry = Expiry::of(&peer, tls.identity.not_after());
    let subject = PeerReview::new(
        stream.get_ref().1,
        peer.clone(),
        &trust.chains,
        Direction::Inbound,
    );
    let review = worker.reviews.register(Box::new(subject), &snapshot);
    worker.tokens.meet(&peer);
    let source = Source::new(Some(peer), plain.address, plain.own, Some(port), &snapshot);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let source = Rc::new(source);
        return mesh::serve_http2(worker, gather(stream), source, live, expiry, &review).await;
    }
    if let Err(refused) = source.authorize(worker, &snapshot, port) {
        return source.turned_away(worker, port, &refused);
    }
    // Who speaks HTTP/1.1, or anything else, is waited for: the session ticket goes now.
    if let Err(error) = stream.flush().await {
        tracing::debug!(source = %source.address, %error, "connection lost after the handshake");
        return;
    }
    let lifetime = TunnelLifetime::new(worker, &source, port, snapshot.policy_epoch);
    let connection = RefCell::new(Connection::new(stream, BytesMut::new()));
    let serve = async {
        match detect::client(&connection, detect::FIRST_BYTE).await {
            Protocol::Http1 => {
                request::serve_http1(worker, &source, connection.into_inner(), port, live).await;
            }
            _ => raw(worker, &connection, &source, port, lifetime).await,
        }
    };
    if tokio::time::timeout(expiry.cut, review.guard(serve))
        .await
        .is_err()
    {
        tracing::info!(peer = source.peer_name(), "cut: a certificate expired");
    }
}

async fn plaintext(
    worker: &Rc<Worker>,
    connection: RefCell<Connection<Accepted>>,
    source: Source,
    port: u16,
    live: &Live,
    review: &Review,
) {
    let protocol = detect::client(&connection, detect::FIRST_BYTE).await;
    let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
    if let Err(refused) = source.authorize(worker, &snapshot, port) {
        source.turned_away(worker, port, &refused);
        if protocol == Protocol::Http1 {
            answer(&connection, refused).await;
        }
        return;
    }
    let lifetime = |source| TunnelLifetime::new(worker, source, port, snapshot.policy_epoch);
    match protocol {
        Protocol::Http1 => {
            request::serve_http1(worker, &source, connection.into_inner(), port, live).await;
        }
        Protocol::Http2 => {
            let (stream, prefix) = connection.into_inner().into_parts();
            mesh::serve_http2(
                worker,
                gather(Prefixed::new(prefix, stream)),
                Rc::new(source),
                live,
                Expiry::of_plaintext(),
                review,
            )
            .await;
        }
        Protocol::Opaque => raw(worker, &connection, &source, port, lifetime(&source)).await,
        Protocol::Silent => {
            silent(worker, connection, &source, port, live, lifetime(&source)).await;
        }
    }
}

/// The client is silent: the application is given a chance to speak first. If the client speaks after all and speaks
/// HTTP, it goes the way of HTTP, so that reserved headers never slip through.
async fn silent(
    worker: &Rc<Worker>,
    connection: RefCell<Connection<Accepted>>,
    source: &Source,
    port: u16,
    live: &Live,
    mut lifetime: TunnelLifetime<'_>,
) {
    let mut observation = worker.observer.connection(Direction::Inbound);
    let address = worker.app_address(port, source.own);
    let Ok(app) = worker.settings.dialer.connect(address).await else {
        let refused = source.refuse(worker, port, Reason::ConnectFailed, None);
        return source.connection_refused(worker, &mut observation, port, &refused);
    };
    observation.timeline.mark(Phase::Connect);
    let app = RefCell::new(Connection::new(app, BytesMut::new()));
    let app_first = poll_fn(|cx| {
        if app.borrow_mut().poll_fill_head(cx).is_ready() {
            return Poll::Ready(Some(true));
        }
        if connection.borrow_mut().poll_fill_head(cx).is_ready() {
            return Poll::Ready(Some(false));
        }
        lifetime.poll_end(cx).map(|_| None)
    })
    .await;
    let Some(app_first) = app_first else {
        return;
    };
    if !app_first && detect::client(&connection, detect::FIRST_BYTE).await == Protocol::Http1 {
        return request::serve_http1(worker, source, connection.into_inner(), port, live).await;
    }
    carry(
        worker,
        &connection,
        &app,
        source,
        port,
        (observation, lifetime),
    )
    .await;
}

async fn raw<S>(
    worker: &Rc<Worker>,
    connection: &RefCell<Connection<S>>,
    source: &Source,
    port: u16,
    lifetime: TunnelLifetime<'_>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut observation = worker.observer.connection(Direction::Inbound);
    let address = worker.app_address(port, source.own);
    let Ok(app) = worker.settings.dialer.connect(address).await else {
        let refused = source.refuse(worker, port, Reason::ConnectFailed, None);
        return source.connection_refused(worker, &mut observation, port, &refused);
    };
    observation.timeline.mark(Phase::Connect);
    let app = RefCell::new(Connection::new(app, BytesMut::new()));
    carry(
        worker,
        connection,
        &app,
        source,
        port,
        (observation, lifetime),
    )
    .await;
}

/// Opaque bytes between a client and the application.
async fn carry<S>(
    worker: &Worker,
    connection: &RefCell<Connection<S>>,
    app: &RefCell<Connection<TcpStream>>,
    source: &Source,
    port: u16,
    (mut observation, mut lifetime): (Observation, TunnelLifetime<'_>),
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let carried = Carried::default();
    let result = tunnel::between(connection, app, Speech::Opaque, &mut lifetime, &carried).await;
    let outcome = Outcome::tunnel(&carried, &result).carried(&worker.counters, Direction::Inbound);
    source.connection_ended(worker, &mut observation, port, &outcome);
}

/// Tells an HTTP/1.1 client why it is refused before the connection is closed.
async fn answer(connection: &RefCell<Connection<Accepted>>, refused: Refused) {
    let mut responder = Responder::new(
        connection,
        &http::Method::GET,
        http::Version::HTTP_11,
        false,
    );
    let _ = Answer::new(refused.reason, refused.id).send(&mut responder, &http::HeaderMap::new());
    let _ = responder.finish(&mut Endless).await;
}

/// A connection without TLS, let in because the port's mode permits it.
struct Plaintext {
    source: String,
    port: u16,
}

impl Subject for Plaintext {
    fn topics(&self) -> &[Topic] {
        &[Topic::Modes]
    }

    fn review(&self, snapshot: &Snapshot) -> Option<Reason> {
        let mode = snapshot.port_modes.mode(self.port);
        (mode == MtlsMode::Strict).then_some(Reason::PlaintextRefused)
    }

    fn direction(&self) -> Direction {
        Direction::Inbound
    }

    fn peer(&self) -> &str {
        &self.source
    }
}
