//! Opaque connections to peers: HBONE CONNECT streams on pooled mTLS connections.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{Method, Request, Uri};
use mesh_auth::Reason;
use mesh_trace::Phase;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::detect::{self, Protocol};
use super::direct;
use crate::directory::{MeshProtocol, ServicePort};
use crate::http::body::BodySink as _;
use crate::http::ending::Endless;
use crate::http::h1::Connection;
use crate::http::h2::Sink;
use crate::pool::balance::Active;
use crate::pool::mesh::Slot;
use crate::telemetry::observe::{Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::worker::Worker;
use crate::worker::metrics::Direction;

/// A tunnel whose CONNECT was sent.
struct Opening {
    response: ResponseFuture,
    send: Sink,
    _slot: Slot,
    _active: Active,
}

/// Carries a connection to an endpoint of `port` until both directions ended. The client's first bytes travel with the
/// CONNECT: the answer is not waited for.
pub async fn tunnel<S>(worker: &Rc<Worker>, connection: &RefCell<Connection<S>>, port: &ServicePort)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _held = port.used.hold();
    if port.is_without_sidecars() {
        // Boxed: rarer than tunnels, and larger.
        return Box::pin(direct::carry(worker, connection, port)).await;
    }
    let mut observation = super::observe(worker, port.port);
    let Some(mut opening) = open(worker, port, &mut observation).await else {
        return super::fail(worker, &mut observation, Reason::NoHealthyEndpoint);
    };
    send_first_bytes(connection, &mut opening.send);
    match accepted(&mut opening.response).await {
        Ok(receive) => carry(worker, connection, opening, receive, observation).await,
        Err(error) => {
            tracing::info!(destination = %port.name, %error, "tunnel refused by the peer");
            super::fail(worker, &mut observation, Reason::ConnectFailed);
        }
    }
}

/// The client is silent: opens the tunnel and waits for whoever speaks first. Returns the client's protocol when it
/// turned out to be HTTP (the unused tunnel is given up), else carries the connection and returns `None`.
pub async fn race<S>(
    worker: &Rc<Worker>,
    connection: &RefCell<Connection<S>>,
    port: &Arc<ServicePort>,
    destination: SocketAddr,
) -> Option<Protocol>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _held = port.used.hold();
    if port.is_without_sidecars() {
        // There is no tunnel to give up: whoever speaks first is carried.
        Box::pin(direct::carry(worker, connection, port)).await;
        return None;
    }
    let mut observation = super::observe(worker, port.port);
    let Some(mut opening) = open(worker, port, &mut observation).await else {
        super::fail(worker, &mut observation, Reason::NoHealthyEndpoint);
        return None;
    };
    let mut receive = match accepted(&mut opening.response).await {
        Ok(receive) => receive,
        Err(error) => {
            tracing::info!(destination = %port.name, %error, "tunnel refused by the peer");
            super::fail(worker, &mut observation, Reason::ConnectFailed);
            return None;
        }
    };
    let server_first = poll_fn(|cx| {
        if let Poll::Ready(data) = receive.poll_data(cx) {
            return Poll::Ready(Some(data));
        }
        match connection.borrow_mut().poll_fill_head(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match server_first {
        Some(Some(Ok(data))) => {
            worker.learned.note(destination);
            let _ = receive.flow_control().release_capacity(data.len());
            connection.borrow_mut().put(data);
        }
        Some(_) => {}
        None => {
            if !connection.borrow().read.is_empty() {
                let protocol = detect::client(connection, detect::FIRST_BYTE).await;
                if matches!(protocol, Protocol::Http1 | Protocol::Http2) {
                    opening.send.reset(h2::Reason::CANCEL);
                    return Some(protocol);
                }
            }
        }
    }
    send_first_bytes(connection, &mut opening.send);
    carry(worker, connection, opening, receive, observation).await;
    None
}

async fn open(
    worker: &Rc<Worker>,
    port: &ServicePort,
    observation: &mut Observation,
) -> Option<Opening> {
    let mut tried = Vec::new();
    while let Some((endpoint, state)) = worker.balancer.pick(&port.endpoints, &tried) {
        tried.push(Arc::clone(&endpoint.workload.uid));
        if endpoint.workload.protocol == MeshProtocol::Mtls {
            continue;
        }
        worker.in_use.note(port);
        let active = state.begin();
        let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
        // A pooled connection may have gone away unnoticed: once more on another before the endpoint is given up.
        for _ in 0..2 {
            let slot = match worker.mesh.slot(&endpoint.workload, &snapshot).await {
                Ok(slot) => slot,
                Err(error) => {
                    tracing::info!(peer = %endpoint.workload.id, %error, "peer not reachable");
                    state.failed(Instant::now());
                    break;
                }
            };
            let Some(ip) = endpoint.workload.addresses.first() else {
                break;
            };
            let target = SocketAddr::new(*ip, endpoint.target_port).to_string();
            let Ok(uri) = Uri::builder().authority(target).build() else {
                break;
            };
            let mut request = Request::new(());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = uri;
            match slot.sender().send_request(request, false) {
                Ok((response, send)) => {
                    state.reached();
                    observation.connected(&endpoint.workload, slot.handshake());
                    return Some(Opening {
                        response,
                        send,
                        _slot: slot,
                        _active: active,
                    });
                }
                Err(_) => slot.retire(),
            }
        }
    }
    None
}

/// The receiving stream once the peer said 200.
async fn accepted(response: &mut ResponseFuture) -> Result<RecvStream, String> {
    let answer = poll_fn(|cx| Pin::new(&mut *response).poll(cx))
        .await
        .map_err(|e| e.to_string())?;
    if answer.status() == http::StatusCode::OK {
        Ok(answer.into_body())
    } else {
        let reason = answer
            .headers()
            .get(crate::http::answer::REASON_HEADER)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("no reason given");
        Err(format!("{} ({reason})", answer.status()))
    }
}

fn send_first_bytes<S>(connection: &RefCell<Connection<S>>, send: &mut Sink) {
    let first = connection.borrow_mut().read.split().freeze();
    if !first.is_empty() {
        // A failure shows as the end of the stream.
        let _ = send.send(first, false);
    }
}

async fn carry<S>(
    worker: &Worker,
    connection: &RefCell<Connection<S>>,
    opening: Opening,
    receive: RecvStream,
    mut observation: Observation,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    observation.timeline.mark(Phase::Upstream);
    let carried = Carried::default();
    let result = tunnel::with_stream(
        connection,
        opening.send,
        receive,
        Speech::Opaque,
        &mut Endless,
        &carried,
    )
    .await;
    if let Err(error) = &result {
        tracing::debug!(%error, "tunnel cut");
    }
    let outcome = Outcome::tunnel(&carried, &result).carried(&worker.counters, Direction::Outbound);
    super::connection_ended(worker, &mut observation, &outcome);
}
