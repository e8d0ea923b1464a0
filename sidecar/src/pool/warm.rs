//! Dials ahead: a change of the own certificate, of trust or of endpoints has connections made before a request needs them.
//!
//! Services are in use while one of their endpoints was used lately. When a snapshot comes, their endpoints without a
//! connection under its TLS contexts get one, one after the other, so that a request finds it ready. At the start those are in use
//! that an earlier process used: they are dialled at once, and readiness waits for it, for a short time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mesh_proto::mesh::MeshProtocol;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::directory::{Directory, ServicePort, WorkloadEntry};
use crate::worker::Worker;

/// How long after its last use a service gets connections ahead.
const LATELY: Duration = Duration::from_secs(60);
/// Connections made ahead for one port of a service; at the start, for everything together.
const MAX_AHEAD: usize = 32;
/// What readiness waits for connections at the start.
pub const AT_START: Duration = Duration::from_millis(300);
/// Longest wait before dialling: sidecars that hear of the same change do not dial at once.
const SPREAD_MS: u64 = 250;

/// Ports of services that requests had to wait for a connection to.
#[derive(Debug, Default)]
pub struct InUse(RefCell<HashMap<Arc<str>, Used>>);

#[derive(Debug)]
struct Used {
    port: u16,
    last: Instant,
}

impl InUse {
    /// A request to this port found no connection ready.
    pub fn note(&self, port: &ServicePort) {
        let last = Instant::now();
        let mut ports = self.0.borrow_mut();
        match ports.get_mut(&port.name) {
            Some(used) => used.last = last,
            None => {
                let used = Used {
                    port: port.port,
                    last,
                };
                ports.insert(Arc::clone(&port.name), used);
            }
        }
    }

    /// Looks when ports were used last, and forgets those that have neither use nor connection.
    fn look(
        &self,
        directory: &Directory,
        now: Instant,
        last_used: impl Fn(&WorkloadEntry) -> Option<Instant>,
    ) {
        self.0.borrow_mut().retain(|name, used| {
            let Some(port) = directory.service_port(name, used.port) else {
                return false;
            };
            let last = members(port).filter_map(|w| last_used(w)).max();
            used.last = used.last.max(last.unwrap_or(used.last));
            last.is_some() || used.is_lately(now)
        });
    }

    /// Workloads of the ports that were used lately.
    fn wanted(&self, directory: &Directory, now: Instant) -> Vec<Arc<WorkloadEntry>> {
        let ports = self.0.borrow();
        let lately = ports.iter().filter(|(_, used)| used.is_lately(now));
        lately
            .filter_map(|(name, used)| directory.service_port(name, used.port))
            .flat_map(|port| members(port).take(MAX_AHEAD).cloned())
            .collect()
    }
}

impl Used {
    fn is_lately(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < LATELY
    }
}

/// The endpoints that have a sidecar.
fn members(port: &ServicePort) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
    let workloads = port.endpoints.iter().map(|endpoint| &endpoint.workload);
    workloads.filter(|workload| has_sidecar(workload))
}

fn has_sidecar(workload: &WorkloadEntry) -> bool {
    matches!(
        workload.protocol,
        MeshProtocol::Postern | MeshProtocol::Hbone
    )
}

/// Dials, once a snapshot is in force that may decide, what is known by name from an earlier process. Returns when the connections
/// are there or cannot be had, or when they take too long.
pub async fn begin(worker: &Rc<Worker>, epochs: &mut watch::Receiver<u64>) {
    let complete = |worker: &Worker| {
        let snapshot = worker.snapshot();
        snapshot.tls.is_some() && snapshot.policy.is_some()
    };
    while !complete(worker) {
        if epochs.changed().await.is_err() {
            return;
        }
    }
    let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
    let named = snapshot.directory.named();
    let peers = named.into_iter().filter(|workload| has_sidecar(workload));
    let dials = peers
        .take(MAX_AHEAD)
        .map(|workload| worker.mesh.dial_ahead(workload, &snapshot));
    let _ = tokio::time::timeout(AT_START, join_all(dials)).await;
}

/// Dials ahead whenever `epochs` tells of a new snapshot, for as long as somebody publishes them.
pub async fn follow(worker: Rc<Worker>, mut epochs: watch::Receiver<u64>) {
    while epochs.changed().await.is_ok() {
        // At once: the pool soon forgets connections that are outdated.
        let last_used = |workload: &WorkloadEntry| worker.mesh.last_used(workload);
        let directory = Arc::clone(&worker.snapshot().directory);
        worker.in_use.look(&directory, Instant::now(), last_used);
        let wait = worker.balancer.random() % SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let directory = Arc::clone(&worker.snapshot().directory);
        for workload in worker.in_use.wanted(&directory, Instant::now()) {
            // What came meanwhile has a pass of its own.
            if epochs.has_changed().unwrap_or(true) {
                break;
            }
            let snapshot = arc_swap::Guard::into_inner(worker.snapshot());
            worker.mesh.dial_ahead(&workload, &snapshot).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_auth::TrustDomain;
    use mesh_proto::mesh;

    use super::*;
    use crate::snapshot::Resources;

    fn workload(name: &str, protocol: MeshProtocol) -> mesh::Workload {
        mesh::Workload {
            uid: format!("ns/{name}"),
            name: name.into(),
            namespace: "ns".into(),
            service_account: name.into(),
            addresses: vec![vec![10, 0, 0, 1]],
            mesh_protocol: protocol.into(),
            services: vec![mesh::ServiceMembership {
                service: "ns/s".into(),
                ports: vec![mesh::PortMapping {
                    service_port: 80,
                    target_port: 8080,
                }],
            }],
            ..Default::default()
        }
    }

    fn directory(workloads: &[(&str, MeshProtocol)]) -> Directory {
        let service = mesh::Service {
            name: "s".into(),
            namespace: "ns".into(),
            ports: vec![mesh::ServicePort {
                port: 80,
                ..Default::default()
            }],
            ..Default::default()
        };
        let resources = Resources {
            services: [("ns/s".to_owned(), Arc::new(service))].into(),
            workloads: workloads
                .iter()
                .map(|(name, protocol)| {
                    let workload = workload(name, *protocol);
                    (workload.uid.clone(), Arc::new(workload))
                })
                .collect(),
            ..Resources::default()
        };
        let domain = TrustDomain::new("td").unwrap();
        Directory::build(&domain, "ns", &resources, &Directory::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_is_dialled_while_it_is_used_and_known_while_it_has_a_connection() {
        let directory = directory(&[
            ("a", MeshProtocol::Postern),
            ("b", MeshProtocol::Hbone),
            ("plain", MeshProtocol::Unspecified),
            ("own-tls", MeshProtocol::Mtls),
        ]);
        let wanted = |in_use: &InUse, now| -> Vec<String> {
            let wanted = in_use.wanted(&directory, now);
            wanted.iter().map(|w| w.uid.to_string()).collect()
        };
        let in_use = InUse::default();
        let start = Instant::now();
        assert!(wanted(&in_use, start).is_empty());
        in_use.note(directory.service_port("ns/s:80", 80).unwrap());
        assert_eq!(wanted(&in_use, start), ["ns/a", "ns/b"]);

        // Not used for a while, but connected: not dialled, not forgotten.
        let later = start + 2 * LATELY;
        in_use.look(&directory, later, |_| Some(start));
        assert!(wanted(&in_use, later).is_empty());
        in_use.look(&directory, later, |w| (&*w.uid == "ns/b").then_some(later));
        assert_eq!(wanted(&in_use, later), ["ns/a", "ns/b"]);

        in_use.look(&directory, later + 2 * LATELY, |_| None);
        assert!(in_use.0.borrow().is_empty());
    }
}
