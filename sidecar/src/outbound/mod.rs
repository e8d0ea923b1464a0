//! Traffic of the application to others: to peers over the mesh, to the rest of the world as configured.
//!
//! The destination decides first (service, workload, outside), then the protocol: HTTP goes request by request, all
//! else as one tunnel per connection.

pub mod detect;
pub mod direct;
pub mod opaque;
pub mod request;
pub mod route;
pub mod unknown;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use mesh_auth::{Reason, SpiffeId};
use mesh_trace::Phase;
use tokio::net::TcpStream;

use crate::directory::{AppProtocol, Destination, MeshProtocol, ServicePort};
use crate::http::ending::Endless;
use crate::http::h1::Connection;
use crate::telemetry::observe::{Ended, EndedHttp, Line, Observation, Outcome};
use crate::tunnel::{self, Carried, Speech};
use crate::worker::accepted::Accepted;
use crate::worker::drain::Live;
use crate::worker::metrics::Direction;
use crate::worker::{Egress, Mode, TcpService, Worker, dial};
use detect::Protocol;
use route::{Followed, Route};

/// Serves one connection on the outbound listener. What is large once it is known what the connection speaks is boxed then:
/// a task is moved several times until it runs.
pub async fn accept(worker: &Rc<Worker>, stream: Accepted, live: &Live) {
    worker.counters.connection(Direction::Outbound);
    if worker.settings.mode == Mode::Explicit {
        let connection = RefCell::new(Connection::accepted(stream));
        return match detect::client(&connection, std::time::Duration::from_secs(30)).await {
            Protocol::Http1 => {
                Box::pin(request::serve_http1(
                    worker,
                    connection,
                    &Route::ByHost,
                    live,
                ))
                .await;
            }
            Protocol::Http2 => {
                Box::pin(request::serve_http2(
                    worker,
                    connection,
                    Route::ByHost,
                    live,
                ))
                .await;
            }
            Protocol::Opaque | Protocol::Silent => {
                refuse(worker, None, Reason::ProtocolError);
            }
        };
    }
    let (Some(destination), Ok(local)) = (stream.original_destination(), stream.local_addr())
    else {
        return refuse(worker, None, Reason::UnknownDestination);
    };
    // Somebody dialled the listener itself: to follow that would be to call ourselves for ever.
    if destination == dial::canonical(local) {
        return refuse(worker, Some(destination), Reason::Loop);
    }
    if worker.settings.probe.is_for(destination) {
        return worker.settings.probe.answer(stream).await;
    }
    let epoch = worker.snapshot().directory_epoch;
    let target = match unknown::by_address(worker, destination).await {
        Ok(target) => target,
        // It may be a workload of the mesh: in the clear only if that was said to be acceptable.
        Err(_) if worker.settings.egress == Egress::AllowUnresolved => Destination::Outside,
        Err(reason) => return refuse(worker, Some(destination), reason),
    };
    match target {
        Destination::Service(port) => {
            to_service(worker, stream, port, (destination, epoch), live).await;
        }
        Destination::Workload(workload) => {
            let port = route::of_workload(&workload, destination.port());
            to_service(worker, stream, port, (destination, epoch), live).await;
        }
        Destination::UnknownPort(_) => {
            refuse(worker, Some(destination), Reason::UnknownDestination);
        }
        Destination::Outside => outside(worker, stream, destination).await,
        Destination::Unresolved => {
            refuse(worker, Some(destination), Reason::DestinationUnresolved);
        }
    }
}

/// Serves one connection on an explicit listener for a service port.
pub async fn accept_service(
    worker: &Rc<Worker>,
    stream: Accepted,
    live: &Live,
    service: &TcpService,
) {
    worker.counters.connection(Direction::Outbound);
    let _ = live;
    let port = unknown::by_host(worker, &service.host, Some(service.port)).await;
    match port {
        Ok(port) => {
            let connection = RefCell::new(Connection::accepted(stream));
            Box::pin(opaque::tunnel(worker, &connection, &port)).await;
        }
        Err(reason) => refuse(worker, None, reason),
    }
}

/// To a port that `destination` stood for at that epoch of the directory, or later.
async fn to_service(
    worker: &Rc<Worker>,
    stream: Accepted,
    port: Arc<ServicePort>,
    (destination, epoch): (SocketAddr, u64),
    live: &Live,
) {
    if port
        .endpoints
        .iter()
        .all(|e| e.workload.protocol == MeshProtocol::Unspecified)
        && !port.endpoints.is_empty()
    {
        return plaintext(worker, stream, &port).await;
    }
    let connection = RefCell::new(Connection::accepted(stream));
    if port.protocol == AppProtocol::Tcp
        || !port.speaks_requests()
        || worker.learned.server_first(destination)
    {
        return Box::pin(opaque::tunnel(worker, &connection, &port)).await;
    }
    let first_byte = if port.protocol == AppProtocol::Http {
        std::time::Duration::from_secs(300)
    } else {
        detect::FIRST_BYTE
    };
    let mut protocol = detect::client(&connection, first_byte).await;
    if protocol == Protocol::Silent && port.protocol != AppProtocol::Http {
        match Box::pin(opaque::race(worker, &connection, &port, destination)).await {
            Some(found) => protocol = found,
            None => return,
        }
    }
    match protocol {
        Protocol::Http1 => {
            let route = Route::To(Followed::new(destination, port, epoch));
            Box::pin(request::serve_http1(worker, connection, &route, live)).await;
        }
        Protocol::Http2 => {
            let route = Route::To(Followed::new(destination, port, epoch));
            Box::pin(request::serve_http2(worker, connection, route, live)).await;
        }
        Protocol::Opaque => Box::pin(opaque::tunnel(worker, &connection, &port)).await,
        Protocol::Silent => {}
    }
}

/// A service without sidecars: as it is, to one of its endpoints.
async fn plaintext(worker: &Rc<Worker>, stream: Accepted, port: &ServicePort) {
    let mut observation = observe(worker, port.port);
    let mut tried = Vec::new();
    while let Some((endpoint, state)) = worker.balancer.pick(&port.endpoints, &tried) {
        let Some(ip) = endpoint.workload.addresses.first() else {
            tried.push(Arc::clone(&endpoint.workload.uid));
            continue;
        };
        let _active = state.begin();
        match worker
            .settings
            .dialer
            .connect(SocketAddr::new(*ip, endpoint.target_port))
            .await
        {
            Ok(upstream) => {
                state.reached();
                return Box::pin(copy(worker, stream, upstream, observation)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "endpoint not reachable");
                state.failed(tokio::time::Instant::now());
                tried.push(Arc::clone(&endpoint.workload.uid));
            }
        }
    }
    fail(worker, &mut observation, Reason::NoHealthyEndpoint);
}

async fn outside(worker: &Rc<Worker>, stream: Accepted, destination: SocketAddr) {
    if worker.settings.egress == Egress::Refuse {
        return refuse(worker, Some(destination), Reason::EgressRefused);
    }
    let mut observation = observe(worker, destination.port());
    observation.address = Some(destination);
    match worker.settings.dialer.connect(destination).await {
        Ok(upstream) => Box::pin(copy(worker, stream, upstream, observation)).await,
        Err(error) => {
            tracing::debug!(%error, "destination outside the mesh not reachable");
            fail(worker, &mut observation, Reason::ConnectFailed);
        }
    }
}

/// How traffic to others ended, for those who read more than numbers.
fn ended<'a>(
    worker: &Worker,
    observation: &Observation,
    head: Option<&'a http::request::Parts>,
    outcome: &Outcome,
) -> Ended<'a> {
    Ended {
        line: head.map_or(Line::Connection, |head| {
            Line::Http(EndedHttp {
                head,
                status: outcome.status,
                grpc_status: outcome.grpc_status,
            })
        }),
        peer_address: observation.address,
        port: observation.port,
        peer_id: observation.peer.as_ref().map(SpiffeId::to_shared),
        own_id: worker.snapshot().identity().map(SpiffeId::to_shared),
        sent: outcome.sent,
        received: outcome.received,
        error: outcome.error,
    }
}

async fn copy(
    worker: &Worker,
    client: Accepted,
    upstream: TcpStream,
    mut observation: Observation,
) {
    observation.timeline.mark(Phase::Connect);
    observation.address = upstream.peer_addr().ok();
    let client = RefCell::new(Connection::accepted(client));
    let upstream = RefCell::new(Connection::new(upstream, BytesMut::new()));
    let carried = Carried::default();
    let mut ending = Endless;
    let bytes = tunnel::between(&client, &upstream, Speech::Opaque, &mut ending, &carried);
    let result = bytes.await;
    if let Err(error) = &result {
        tracing::debug!(%error, "connection outside the mesh cut");
    }
    let outcome = Outcome::tunnel(&carried, &result).carried(&worker.counters, Direction::Outbound);
    connection_ended(worker, &mut observation, &outcome);
}

/// Begins to observe a connection of opaque bytes to `port`.
fn observe(worker: &Worker, port: u16) -> Observation {
    let mut observation = worker.observer.connection(Direction::Outbound);
    observation.port = port;
    observation
}

/// Tells of an opaque connection that ended.
fn connection_ended(worker: &Worker, observation: &mut Observation, outcome: &Outcome) {
    worker
        .observer
        .watch
        .edges
        .left(observation, false, outcome);
    worker
        .observer
        .connection_ended(observation, |observation| {
            ended(worker, observation, None, outcome)
        });
}

/// Counts, logs and tells of a connection that is closed instead of served.
fn refuse(worker: &Worker, destination: Option<SocketAddr>, reason: Reason) {
    let mut observation = observe(worker, destination.map_or(0, |d| d.port()));
    observation.address = destination;
    fail(worker, &mut observation, reason);
}

/// The same of one that was under way.
fn fail(worker: &Worker, observation: &mut Observation, reason: Reason) {
    let id = deny(worker, observation.address, reason);
    observation.refused(reason, id, None);
    connection_ended(worker, observation, &Outcome::failed(reason));
}

/// Counts and logs a connection that is closed instead of served; returns the decision's identifier.
fn deny(worker: &Worker, destination: Option<SocketAddr>, reason: Reason) -> u64 {
    let id = worker.decision_id();
    worker.counters.denial(Direction::Outbound, reason);
    tracing::info!(
        decision = format_args!("{id:016x}"),
        reason = reason.code(),
        destination = destination.map(tracing::field::display),
        "outbound connection refused"
    );
    id
}
