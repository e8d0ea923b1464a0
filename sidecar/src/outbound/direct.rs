//! Opaque connections to workloads without a sidecar that speak mTLS on the application's port themselves.
//!
//! The bytes go inside TLS as they are. The peer has to prove the workload's SPIFFE ID; the connection ends when that is
//! revoked or not trusted any more, and before either certificate expires.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mesh_auth::Reason;
use mesh_auth::svid::Usage;
use mesh_auth::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::directory::{Endpoint, ServicePort};
use crate::http::body::BodyError;
use crate::http::ending::Endless;
use crate::http::h1::Connection;
use crate::telemetry::observe::{Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::wall_clock::now;
use crate::worker::Worker;
use crate::worker::expiry::Expiry;
use crate::worker::metrics::Direction;
use crate::worker::peer_review::PeerReview;
use crate::worker::review::Review;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose peer has proven who it is.
struct Proven {
    stream: TlsStream<TcpStream>,
    review: Review,
    expiry: Expiry,
    /// When its handshake began.
    handshake: std::time::Instant,
}

/// Carries a connection to an endpoint of `port` until both directions ended.
pub async fn carry<S>(worker: &Rc<Worker>, connection: &RefCell<Connection<S>>, port: &ServicePort)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut observation = super::observe(worker, port.port);
    let mut tried = Vec::new();
    while let Some((endpoint, state)) = worker.balancer.pick(&port.endpoints, &tried) {
        tried.push(Arc::clone(&endpoint.workload.uid));
        let _active = state.begin();
        match open(worker, endpoint).await {
            Ok(proven) => {
                state.reached();
                observation.connected(&endpoint.workload, Some(proven.handshake));
                return copy(worker, connection, proven, observation).await;
            }
            Err(error) => {
                tracing::info!(peer = %endpoint.workload.id, %error, "peer not reachable");
                state.failed(Instant::now());
            }
        }
    }
    super::fail(worker, &mut observation, Reason::NoHealthyEndpoint);
}

async fn open(worker: &Rc<Worker>, endpoint: &Endpoint) -> Result<Proven, String> {
    let workload = &endpoint.workload;
    let address = workload.mesh_address().ok_or("it has no address")?;
    let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
    let own = snapshot.tls.as_ref().ok_or("no certificate is held yet")?;
    let expected = std::slice::from_ref(&workload.id);
    let trust = snapshot.trust();
    // No ALPN: what is inside is nobody's business.
    let config = tls::client_config(Some(&own.identity), trust.clone(), expected, &[])
        .map_err(|e| e.to_string())?;
    let dialer = worker.settings.dialer;
    let tcp = dialer.connect(address).await.map_err(|e| e.to_string())?;
    let began = std::time::Instant::now();
    let handshake = TlsConnector::from(config).connect(tls::server_name(), tcp);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let is_done = matches!(stream, Ok(Ok(_)));
    worker.counters.handshake(Direction::Outbound, is_done);
    let stream = stream
        .map_err(|_| format!("no answer within {HANDSHAKE_TIMEOUT:?}"))?
        .map_err(|e| e.to_string())?;
    let session = stream.get_ref().1;
    let peer = trust
        .peer_of(session, Usage::Server, now())
        .map_err(|e| e.to_string())?;
    let expiry = Expiry::of(&peer, own.identity.not_after());
    let subject = PeerReview::new(session, peer, &trust.chains, Direction::Outbound);
    let review = worker
        .reviews
        .register(Box::new(subject), &worker.snapshot());
    match review.verdict() {
        Some(reason) => Err(reason.to_string()),
        None => Ok(Proven {
            stream,
            review,
            expiry,
            handshake: began,
        }),
    }
}

async fn copy<S>(
    worker: &Worker,
    connection: &RefCell<Connection<S>>,
    proven: Proven,
    mut observation: Observation,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let peer = RefCell::new(Connection::new(proven.stream, BytesMut::new()));
    let mut ending = Endless;
    let carried = Carried::default();
    let bytes = tunnel::between(connection, &peer, Speech::Opaque, &mut ending, &carried);
    let between = proven.review.guard(bytes);
    let result = match tokio::time::timeout(proven.expiry.cut, between).await {
        Ok(Ok(result)) => result,
        Ok(Err(reason)) => Err(BodyError::Ended(reason)),
        Err(_) => {
            tracing::info!("a certificate expires: connection to a peer without sidecar cut");
            Err(BodyError::Ended(Reason::PeerUnverified))
        }
    };
    if let Err(error) = &result {
        tracing::debug!(%error, "connection to a peer without sidecar cut");
    }
    let outcome = Outcome::tunnel(&carried, &result).carried(&worker.counters, Direction::Outbound);
    super::connection_ended(worker, &mut observation, &outcome);
}
