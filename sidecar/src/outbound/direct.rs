//! Opaque connections to workloads without a sidecar that speak mTLS on the application's port themselves.
//!
//! The bytes go inside TLS as they are. The peer has to prove the workload's SPIFFE ID; the connection ends when that is
//! revoked or not trusted any more, and before either certificate expires.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use mesh_auth::{Reason, SpiffeId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::directory::{Endpoint, ServicePort};
use crate::http::body::BodyError;
use crate::http::ending::Endless;
use crate::http::h1::Connection;
use crate::pool::client;
use crate::telemetry::observe::{Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::worker::Worker;
use crate::worker::expiry::Expiry;
use crate::worker::hold_back::HoldBack;
use crate::worker::metrics::Direction;
use crate::worker::peer_review::PeerReview;
use crate::worker::review::Review;

/// A connection whose peer has proven who it is.
struct Proven {
    stream: TlsStream<HoldBack<TcpStream>>,
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
    let client = worker.direct.client(&workload.id, own, &snapshot);
    let client = client.map_err(|e| e.to_string())?;
    let dialer = worker.settings.dialer;
    let tcp = dialer.connect(address).await.map_err(|e| e.to_string())?;
    let began = std::time::Instant::now();
    let handshake = async {
        let mut proven = client.handshake(tcp, snapshot.clock_skew).await?;
        // Either side may be the one that speaks first.
        let flushed = proven.stream.flush().await;
        flushed.map(|()| proven).map_err(|e| e.to_string())
    };
    let own_id = || snapshot.identity().map(SpiffeId::to_shared);
    let proven = client::tell_of_handshake(&worker.observer, address, own_id, handshake).await;
    let counters = &worker.counters;
    counters.handshake(Direction::Outbound, proven.is_ok());
    let client::Proven {
        stream,
        peer,
        resumed,
    } = proven?;
    if resumed {
        worker.counters.resumption(Direction::Outbound);
    }
    let expiry = Expiry::of(&peer, client.own_not_after);
    let chains = &client.trust.chains;
    let subject = PeerReview::new(stream.get_ref().1, peer, chains, Direction::Outbound);
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
