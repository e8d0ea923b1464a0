//! Services and workloads, indexed the way the hot path asks for them: by address and by host.
//!
//! Immutable once built, but for marks of use. Endpoints of a service port are resolved here, so that a request only picks one.
//! Hosts and addresses are indexed as far as everything that they may stand for is held ([`Scope`]): of others nothing is known.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::alias::ip_address;
pub use mesh_proto::mesh::{AppProtocol, MeshProtocol};
use mesh_proto::{ResourceType, mesh};

use crate::lookups::{Lookup, Scope};
use crate::snapshot::Resources;

mod entries;
mod mark;

use entries::{host_names, service_entry, workload_entry};
pub use mark::{Held, Mark};

/// Mesh port of a workload that names none.
pub const DEFAULT_MESH_PORT: u16 = 15008;

/// A workload or service that cannot be indexed.
#[derive(Debug, thiserror::Error)]
#[error("{kind} '{name}': {field}: {reason}")]
pub struct DirectoryError {
    /// `workload` or `service`.
    pub kind: &'static str,
    /// Resource name.
    pub name: String,
    /// Path of the offending field.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

/// One instance of an application, as the hot path sees it.
#[derive(Debug, Clone)]
pub struct WorkloadEntry {
    /// `namespace/name`.
    pub uid: Arc<str>,
    /// The identity its sidecar must prove.
    pub id: SpiffeId,
    /// Its addresses; the first is dialled.
    pub addresses: Vec<IpAddr>,
    /// Where it accepts mTLS: its sidecar's mesh port, or the application's port of an [`Endpoint`] without a sidecar.
    pub mesh_port: u16,
    /// How it is reached.
    pub protocol: MeshProtocol,
    /// Set when it is addressed directly.
    pub used: Mark,
}

impl WorkloadEntry {
    /// True when it takes h2 requests over mTLS.
    pub fn takes_requests(&self) -> bool {
        matches!(self.protocol, MeshProtocol::Postern | MeshProtocol::Mtls)
    }

    /// Address of the sidecar's mesh port, if the workload has an address.
    pub fn mesh_address(&self) -> Option<SocketAddr> {
        self.addresses
            .first()
            .map(|ip| SocketAddr::new(*ip, self.mesh_port))
    }
}

/// A workload that answers for a service port.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<WorkloadEntry>,
    /// Application port on it.
    pub target_port: u16,
}

impl Endpoint {
    /// The application port `target_port` of `workload`. Where there is no sidecar, that port itself speaks mTLS.
    pub fn new(workload: &Arc<WorkloadEntry>, target_port: u16) -> Self {
        let workload = match workload.protocol {
            MeshProtocol::Mtls => Arc::new(WorkloadEntry {
                mesh_port: target_port,
                ..WorkloadEntry::clone(workload)
            }),
            _ => Arc::clone(workload),
        };
        Self {
            workload,
            target_port,
        }
    }
}

/// One port of a service with its endpoints.
#[derive(Debug)]
pub struct ServicePort {
    /// Port that clients dial.
    pub port: u16,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Who answers; may be empty.
    pub endpoints: Vec<Endpoint>,
    /// `namespace/name:port`.
    pub name: Arc<str>,
    /// Its service's.
    pub used: Mark,
}

impl ServicePort {
    /// True when every endpoint takes plain h2 requests (not only HBONE).
    pub fn speaks_requests(&self) -> bool {
        self.endpoints.iter().all(|e| e.workload.takes_requests())
    }

    /// True when no endpoint has a sidecar and all of them speak mTLS themselves.
    pub fn is_without_sidecars(&self) -> bool {
        !self.endpoints.is_empty()
            && self
                .endpoints
                .iter()
                .all(|e| e.workload.protocol == MeshProtocol::Mtls)
    }
}

/// A named destination.
#[derive(Debug)]
pub struct ServiceEntry {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Ports in order of declaration.
    pub ports: Vec<Arc<ServicePort>>,
    /// Set when it is looked up.
    pub used: Mark,
}

impl ServiceEntry {
    /// The port that clients dial as `port`.
    pub fn port(&self, port: u16) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|p| p.port == port)
    }
}

/// Where traffic to an address goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A port of a service.
    Service(Arc<ServicePort>),
    /// A port of a service's address that the service does not have.
    UnknownPort(Arc<ServiceEntry>),
    /// A workload, addressed directly.
    Workload(Arc<WorkloadEntry>),
    /// Not in the mesh.
    Outside,
    /// Nothing is known of it.
    Unresolved,
}

/// Services and workloads by address and host.
#[derive(Debug, Default)]
pub struct Directory {
    services_by_host: HashMap<Box<str>, Arc<ServiceEntry>>,
    services_by_address: HashMap<IpAddr, Arc<ServiceEntry>>,
    workloads_by_address: HashMap<IpAddr, Arc<WorkloadEntry>>,
    workloads_by_uid: HashMap<Arc<str>, Arc<WorkloadEntry>>,
    services: Vec<Arc<ServiceEntry>>,
    /// How much of what there is this is.
    scope: Scope,
}

impl Directory {
    /// Indexes the services and workloads of `resources`, with short host names as seen from `own_namespace`. What `before` knows
    /// keeps its marks.
    ///
    /// # Errors
    /// Names the resource and field that is malformed.
    pub fn build(
        trust_domain: &TrustDomain,
        own_namespace: &str,
        resources: &Resources,
        before: &Self,
    ) -> Result<Self, DirectoryError> {
        let scope = &resources.scope;
        let mut directory = Self {
            scope: scope.clone(),
            ..Self::default()
        };
        let covers = |address| is_held(scope, || Lookup::address(address));
        let mut members: HashMap<&str, Vec<(&mesh::ServiceMembership, Arc<WorkloadEntry>)>> =
            HashMap::new();
        for (name, workload) in &resources.workloads {
            let mut entry = workload_entry(name, trust_domain, workload)?;
            if let Some(before) = before.workload(name) {
                entry.used = before.used.clone();
            }
            let entry = Arc::new(entry);
            for address in entry.addresses.iter().filter(|a| covers(**a)) {
                // Several workloads on one address (loopback) cannot be told apart by it; the first by name wins.
                directory
                    .workloads_by_address
                    .entry(*address)
                    .or_insert_with(|| Arc::clone(&entry));
            }
            for membership in &workload.services {
                members
                    .entry(&membership.service)
                    .or_default()
                    .push((membership, Arc::clone(&entry)));
            }
            directory
                .workloads_by_uid
                .insert(Arc::clone(&entry.uid), entry);
        }
        for (name, service) in &resources.services {
            let used = before.service(name).map(|before| before.used.clone());
            let members = members.get(name.as_str());
            let entry = service_entry(name, service, members, used.unwrap_or_default())?;
            let entry = Arc::new(entry);
            for (index, address) in service.addresses.iter().enumerate() {
                let address = ip_address(address).ok_or_else(|| DirectoryError {
                    kind: "service",
                    name: name.clone(),
                    field: format!("addresses[{index}]"),
                    reason: "must be 4 or 16 bytes".into(),
                })?;
                if covers(address) {
                    directory
                        .services_by_address
                        .insert(address, Arc::clone(&entry));
                }
            }
            for host in host_names(service, own_namespace) {
                if !is_held(scope, || Lookup::Host(host.as_str().into())) {
                    continue;
                }
                directory
                    .services_by_host
                    .entry(host.into())
                    .or_insert_with(|| Arc::clone(&entry));
            }
            directory.services.push(entry);
        }
        Ok(directory)
    }

    /// Where traffic to `address` goes.
    pub fn by_address(&self, address: SocketAddr) -> Destination {
        let ip = address.ip().to_canonical();
        if let Some(service) = self.services_by_address.get(&ip) {
            service.used.set();
            return match service.port(address.port()) {
                Some(port) => Destination::Service(Arc::clone(port)),
                None => Destination::UnknownPort(Arc::clone(service)),
            };
        }
        match self.workloads_by_address.get(&ip) {
            Some(workload) => {
                workload.used.set();
                Destination::Workload(Arc::clone(workload))
            }
            None if self.is_everything() && self.scope.covers(&Lookup::Address(ip)) => {
                Destination::Outside
            }
            None => Destination::Unresolved,
        }
    }

    /// The service that requests to `host` (lower-case, no port) are for, as far as that is known.
    pub fn by_host(&self, host: &str) -> Option<&Arc<ServiceEntry>> {
        let service = self.services_by_host.get(host)?;
        service.used.set();
        Some(service)
    }

    /// True when what is not known here is not in the mesh.
    pub fn is_everything(&self) -> bool {
        self.scope.is_everything()
    }

    /// Where the destinations lead that are held by name, each workload once; of everything held, nowhere.
    pub fn named(&self) -> Vec<&Arc<WorkloadEntry>> {
        if self.scope.is_of_all() {
            return Vec::new();
        }
        let services = self.services_by_host.values();
        let services = services.chain(self.services_by_address.values());
        let ports = services.flat_map(|service| &service.ports);
        let endpoints = ports.flat_map(|port| &port.endpoints);
        let workloads = endpoints.map(|endpoint| &endpoint.workload);
        let mut seen = HashSet::new();
        workloads
            .chain(self.workloads_by_address.values())
            .filter(|workload| seen.insert(&workload.uid))
            .collect()
    }

    /// Takes the marks: what was used since they were taken last.
    pub fn take_used(&self) -> HashSet<(ResourceType, Arc<str>)> {
        let services = self.services.iter().filter(|s| s.used.take());
        let services = services.map(|s| (ResourceType::Service, Arc::clone(&s.name)));
        let workloads = self.workloads().filter(|w| w.used.take());
        let workloads = workloads.map(|w| (ResourceType::Workload, Arc::clone(&w.uid)));
        services.chain(workloads).collect()
    }

    fn service(&self, name: &str) -> Option<&Arc<ServiceEntry>> {
        let at = self
            .services
            .binary_search_by(|entry| (*entry.name).cmp(name));
        at.ok().map(|at| &self.services[at])
    }

    /// The port that a [`ServicePort`] of another directory names.
    pub fn service_port(&self, name: &str, port: u16) -> Option<&Arc<ServicePort>> {
        let service = name.strip_suffix(&port.to_string())?.strip_suffix(':')?;
        self.service(service)?.port(port)
    }

    /// The workload named `uid`.
    pub fn workload(&self, uid: &str) -> Option<&Arc<WorkloadEntry>> {
        self.workloads_by_uid.get(uid)
    }

    /// Every service, in order of name.
    pub fn services(&self) -> &[Arc<ServiceEntry>] {
        &self.services
    }

    /// Every workload, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        self.workloads_by_uid.values()
    }
}

/// Whether what may be asked about by `lookup` is held.
fn is_held(scope: &Scope, lookup: impl FnOnce() -> Lookup) -> bool {
    scope.is_everything() || scope.covers(&lookup())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{service, workload};

    fn resources(known: &[&str]) -> Resources {
        let known = known.iter().map(|text| Lookup::parse(text).unwrap());
        Resources {
            services: [("demo/orders".to_owned(), Arc::new(service()))].into(),
            workloads: [("demo/orders-1".to_owned(), Arc::new(workload()))].into(),
            scope: Scope::Named(Arc::new(known.collect::<BTreeSet<_>>())),
            ..Resources::default()
        }
    }

    fn build(resources: &Resources, before: &Directory) -> Directory {
        let domain = TrustDomain::new("td").unwrap();
        Directory::build(&domain, "demo", resources, before).unwrap()
    }

    #[test]
    fn only_what_is_known_by_name_leads_anywhere_and_the_rest_is_not_taken_for_outside() {
        let at = |directory: &Directory, address: &str| match directory
            .by_address(address.parse().unwrap())
        {
            Destination::Service(_) => "service",
            Destination::UnknownPort(_) => "unknown port",
            Destination::Workload(_) => "workload",
            Destination::Outside => "outside",
            Destination::Unresolved => "unresolved",
        };
        let named = build(&resources(&["orders", "/10.1.0.1"]), &Directory::default());
        assert!(named.by_host("orders").is_some());
        assert!(named.by_host("orders.demo").is_none() && !named.is_everything());
        assert_eq!(at(&named, "10.1.0.1:80"), "service");
        assert_eq!(at(&named, "10.1.0.1:81"), "unknown port");
        assert_eq!(
            at(&named, "10.0.0.1:80"),
            "unresolved",
            "held and not known"
        );
        assert_eq!(at(&named, "10.9.0.9:80"), "unresolved");
        let everything = Resources {
            scope: Scope::Everything,
            ..resources(&[])
        };
        let everything = build(&everything, &named);
        assert!(everything.by_host("orders.demo").is_some() && everything.is_everything());
        assert_eq!(at(&everything, "10.0.0.1:80"), "workload");
        assert_eq!(at(&everything, "10.9.0.9:80"), "outside");
        let last_known = Resources {
            scope: Scope::LastKnown,
            ..resources(&[])
        };
        let last_known = build(&last_known, &everything);
        assert!(last_known.by_host("orders.demo").is_some() && !last_known.is_everything());
        assert_eq!(at(&last_known, "10.0.0.1:80"), "workload");
        assert_eq!(at(&last_known, "10.9.0.9:80"), "unresolved");
        assert!(last_known.named().is_empty());
        assert_eq!(at(&Directory::default(), "10.9.0.9:80"), "unresolved");
    }

    #[test]
    fn use_is_told_once_and_goes_over_to_the_directories_that_follow() {
        let known = resources(&["orders", "/10.0.0.1"]);
        let first = build(&known, &Directory::default());
        let port = Arc::clone(first.by_host("orders").unwrap().port(80).unwrap());
        let orders = HashSet::from([(ResourceType::Service, Arc::from("demo/orders"))]);
        let second = build(&known, &first);
        assert_eq!(second.take_used(), orders);
        assert!(second.take_used().is_empty());
        // By a connection that found its port in the first.
        port.used.set();
        assert_eq!(second.take_used(), orders);
        second.by_address("10.0.0.1:1".parse().unwrap());
        let workload = (ResourceType::Workload, Arc::from("demo/orders-1"));
        assert_eq!(second.take_used(), HashSet::from([workload]));
    }
}
