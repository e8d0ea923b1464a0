//! Where the requests of a connection go.
//!
//! A connection may live longer than what is at its destination: whenever services or workloads change, the destination is
//! looked up anew before the next request, as that of a new connection is.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{StatusCode, request};
use mesh_auth::Reason;

use super::unknown;
use crate::directory::{AppProtocol, Destination, Endpoint, ServicePort, WorkloadEntry};
use crate::worker::Worker;

/// How the destination of a request is found.
#[derive(Clone)]
pub enum Route {
    /// The connection's destination.
    To(Rc<Followed>),
    /// The request's host.
    ByHost,
}

/// The port at the destination of a connection.
pub struct Followed {
    destination: SocketAddr,
    port: RefCell<Arc<ServicePort>>,
    /// What it was looked up in: an epoch of the directory.
    epoch: Cell<u64>,
}

impl Followed {
    /// `port` is what `destination` stood for at `epoch` of the directory, or later.
    pub fn new(destination: SocketAddr, port: Arc<ServicePort>, epoch: u64) -> Rc<Self> {
        Rc::new(Self {
            destination,
            port: RefCell::new(port),
            epoch: Cell::new(epoch),
        })
    }

    async fn port(&self, worker: &Worker) -> Result<Arc<ServicePort>, Reason> {
        let epoch = worker.snapshot().directory_epoch;
        if epoch != self.epoch.get() {
            // Boxed: few requests come after a change.
            let port = match Box::pin(unknown::by_address(worker, self.destination)).await? {
                Destination::Service(port) => port,
                Destination::Workload(workload) => of_workload(&workload, self.destination.port()),
                Destination::UnknownPort(_) | Destination::Outside | Destination::Unresolved => {
                    return Err(Reason::UnknownDestination);
                }
            };
            self.port.replace(port);
            self.epoch.set(epoch);
        }
        let port = Arc::clone(&self.port.borrow());
        port.used.set();
        Ok(port)
    }
}

/// The application port `port` of a workload that is addressed directly.
pub fn of_workload(workload: &Arc<WorkloadEntry>, port: u16) -> Arc<ServicePort> {
    Arc::new(ServicePort {
        port,
        protocol: AppProtocol::Unspecified,
        name: format!("{}:{port}", workload.uid).into(),
        endpoints: vec![Endpoint::new(workload, port)],
        used: workload.used.clone(),
    })
}

/// The port of the service that a request is for.
///
/// # Errors
/// Why there is none, and what the caller is told.
pub async fn resolve(
    worker: &Worker,
    head: &request::Parts,
    route: &Route,
) -> Result<Arc<ServicePort>, (Reason, StatusCode)> {
    let port = match route {
        Route::To(followed) => followed.port(worker).await,
        Route::ByHost => {
            let bad = (Reason::BadRequest, StatusCode::BAD_REQUEST);
            let authority = head.uri.authority().ok_or(bad)?;
            let (host, port) = (authority.host(), authority.port_u16());
            if host.bytes().any(|b| b.is_ascii_uppercase()) {
                unknown::by_host(worker, &host.to_ascii_lowercase(), port).await
            } else {
                unknown::by_host(worker, host, port).await
            }
        }
    };
    port.map_err(|reason| match reason {
        Reason::UnknownDestination => (reason, StatusCode::NOT_FOUND),
        _ => (reason, StatusCode::SERVICE_UNAVAILABLE),
    })
}
