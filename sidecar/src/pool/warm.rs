//! Dials ahead: a change of the own certificate, of trust or of endpoints has connections made before a request needs them.
//!
//! Services are in use while one of their endpoints was used lately. When a snapshot comes, their endpoints without a
//! connection under its TLS contexts get one, one after the other, so that a request finds it ready.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::mesh::MeshProtocol;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::directory::{ServicePort, WorkloadEntry};
use crate::snapshot::Snapshot;
use crate::worker::Worker;

/// How long after its last use a service gets connections ahead.
const LATELY: Duration = Duration::from_secs(60);
/// Connections made ahead for one port of a service.
const MAX_AHEAD: usize = 32;
/// Longest wait before dialling: snapshots that come together are one, and sidecars that hear of the same change do not dial
/// at once.
const SPREAD_MS: u64 = 250;

/// Ports of services that requests had to wait for a connection to.
#[derive(Debug, Default)]
pub struct InUse(RefCell<HashMap<Arc<str>, u16>>);

impl InUse {
    /// A request to this port found no connection ready.
    pub fn note(&self, port: &ServicePort) {
        let mut ports = self.0.borrow_mut();
        if !ports.contains_key(&port.name) {
            ports.insert(Arc::clone(&port.name), port.port);
        }
    }

    /// Workloads of ports that are still in use, and forgets the others.
    fn endpoints(
        &self,
        snapshot: &Snapshot,
        used: impl Fn(&WorkloadEntry) -> bool,
    ) -> Vec<Arc<WorkloadEntry>> {
        let mut wanted = Vec::new();
        self.0.borrow_mut().retain(|name, port| {
            let Some(port) = snapshot.directory.service_port(name, *port) else {
                return false;
            };
            let speak_mesh = port
                .endpoints
                .iter()
                .map(|endpoint| &endpoint.workload)
                .filter(|workload| workload.protocol != MeshProtocol::Mtls);
            if !speak_mesh.clone().any(|workload| used(workload)) {
                return false;
            }
            wanted.extend(speak_mesh.take(MAX_AHEAD).cloned());
            true
        });
        wanted
    }
}

/// Dials ahead whenever `epochs` tells of a new snapshot, for as long as somebody publishes them.
pub async fn follow(worker: Rc<Worker>, mut epochs: watch::Receiver<u64>) {
    while epochs.changed().await.is_ok() {
        let wait = worker.balancer.random() % SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        epochs.mark_unchanged();
        let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
        let now = Instant::now();
        let used = |workload: &WorkloadEntry| {
            let last = worker.mesh.last_used(workload);
            last.is_some_and(|last| now.saturating_duration_since(last) < LATELY)
        };
        for workload in worker.in_use.endpoints(&snapshot, used) {
            worker.mesh.dial_ahead(&workload, &snapshot).await;
        }
    }
}
