//! From documents to resources: what there is to send, and who may see it.
//!
//! Each resource is serialized once; every stream shares the bytes. The version is a digest of them, so that it is the
//! same after a restart and a client that reconnects is sent only what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_manifest::Resource;
use mesh_proto::{Any, ResourceType, TypedResource, mesh};

use crate::store::View;

/// One resource, ready to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name on the stream.
    pub name: String,
    /// Digest of the content.
    pub version: String,
    /// The content, serialized once.
    pub any: Any,
    /// Other names it can be subscribed to by.
    pub aliases: Vec<String>,
    /// Whom it may select, for policies; `None`: everybody.
    pub selects: Option<Selects>,
}

/// Whom a policy selects.
#[derive(Debug, PartialEq, Eq)]
pub struct Selects {
    namespace: String,
    labels: BTreeMap<String, String>,
    mesh_wide: bool,
}

/// A registered workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// `namespace/name`.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Its identity.
    pub id: SpiffeId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Entry {
    /// True if a sidecar of `workload` may have the resource.
    pub fn visible_to(&self, workload: &Registered) -> bool {
        self.selects.as_ref().is_none_or(|s| {
            (s.mesh_wide || s.namespace == workload.namespace)
                && s.labels
                    .iter()
                    .all(|(k, v)| workload.labels.get(k) == Some(v))
        })
    }
}

/// Every resource at one revision.
#[derive(Debug, Default)]
pub struct World {
    /// The store's revision.
    pub revision: u64,
    resources: BTreeMap<ResourceType, BTreeMap<String, Arc<Entry>>>,
    aliases: BTreeMap<(ResourceType, String), String>,
    workloads: BTreeMap<String, Arc<Registered>>,
}

impl World {
    /// Builds the resources of a view; entries that did not change are shared with `previous`.
    pub fn build(view: &View, domain: &TrustDomain, root: &[u8], previous: &Self) -> Self {
        let mut world = Self {
            revision: view.revision,
            ..Self::default()
        };
        let documents = || view.documents.values().map(|s| &s.document.resource);
        let mut defaults = documents()
            .find_map(|r| match r {
                Resource::MeshDefaults(d) => Some(d.clone()),
                _ => None,
            })
            .unwrap_or_default();
        domain.as_str().clone_into(&mut defaults.trust_domain);
        if defaults.root_namespace.is_empty() {
            "postern-system".clone_into(&mut defaults.root_namespace);
        }
        let root_namespace = defaults.root_namespace.clone();
        let scope = |namespace: &str, labels: &BTreeMap<String, String>| Selects {
            namespace: namespace.to_owned(),
            labels: labels.clone(),
            mesh_wide: namespace == root_namespace && labels.is_empty(),
        };
        world.add(&defaults, vec![], None, previous);
        let bundle = mesh::TrustBundle {
            trust_domain: domain.as_str().to_owned(),
            x509_authorities: vec![root.to_vec()],
            sequence: 1,
        };
        world.add(&bundle, vec![], None, previous);
        let services: Vec<_> = documents()
            .filter_map(|r| match r {
                Resource::Service { service, selector } => Some((service, selector)),
                _ => None,
            })
            .collect();
        for resource in documents() {
            match resource {
                Resource::MeshDefaults(_) => {}
                Resource::Service { service, .. } => {
                    let aliases = service.addresses.iter().filter_map(|a| alias(a)).collect();
                    let mut service = service.clone();
                    for host in default_hosts(&service.name, &service.namespace) {
                        if !service.hosts.contains(&host) {
                            service.hosts.push(host);
                        }
                    }
                    world.add(&service, aliases, None, previous);
                }
                Resource::Workload(workload) => {
                    let workload = with_services(workload, &services);
                    let aliases = workload.addresses.iter().filter_map(|a| alias(a)).collect();
                    if let Some(registered) = registered(&workload, domain) {
                        world
                            .workloads
                            .insert(workload.uid.clone(), Arc::new(registered));
                    }
                    world.add(&workload, aliases, None, previous);
                }
                Resource::AuthorizationPolicy(policy) => {
                    let scope = scope(&policy.namespace, &policy.selector);
                    world.add(policy, vec![], Some(scope), previous);
                }
                Resource::PeerAuthentication(policy) => {
                    let scope = scope(&policy.namespace, &policy.selector);
                    world.add(policy, vec![], Some(scope), previous);
                }
            }
        }
        world
    }

    fn add<M: TypedResource>(
        &mut self,
        message: &M,
        aliases: Vec<String>,
        selects: Option<Selects>,
        previous: &Self,
    ) {
        let name = message.resource_name();
        let any = message.to_any();
        let version: String = digest(&SHA256, &any.value).as_ref()[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        for alias in &aliases {
            self.aliases.insert((M::TYPE, alias.clone()), name.clone());
        }
        let entry = Entry {
            name: name.clone(),
            version,
            any,
            aliases,
            selects,
        };
        let entry = match previous.get(M::TYPE, &name) {
            Some(held) if **held == entry => Arc::clone(held),
            _ => Arc::new(entry),
        };
        self.resources
            .entry(M::TYPE)
            .or_default()
            .insert(name, entry);
    }

    /// Every resource of a type.
    pub fn all(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Entry>> {
        self.resources
            .get(&kind)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// A resource by name or alias.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Entry>> {
        let resources = self.resources.get(&kind)?;
        resources
            .get(name)
            .or_else(|| resources.get(self.aliases.get(&(kind, name.to_owned()))?))
    }

    /// A registered workload.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Registered>> {
        self.workloads.get(uid)
    }

    /// Every registered workload.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Registered>> {
        self.workloads.values()
    }
}

fn registered(workload: &mesh::Workload, domain: &TrustDomain) -> Option<Registered> {
    // Workloads of other trust domains are destinations, not members: they get nothing from this authority.
    if !workload.trust_domain.is_empty() && workload.trust_domain != domain.as_str() {
        return None;
    }
    Some(Registered {
        uid: workload.uid.clone(),
        namespace: workload.namespace.clone(),
        id: SpiffeId::workload(domain, &workload.namespace, &workload.service_account).ok()?,
        labels: workload.labels.clone(),
    })
}

fn with_services(
    workload: &mesh::Workload,
    services: &[(&mesh::Service, &BTreeMap<String, String>)],
) -> mesh::Workload {
    let mut workload = workload.clone();
    workload.services = services
        .iter()
        .filter(|(service, selector)| {
            // An empty selector selects nobody: "all workloads" is hardly ever what was meant.
            service.namespace == workload.namespace
                && !selector.is_empty()
                && selector
                    .iter()
                    .all(|(k, v)| workload.labels.get(k) == Some(v))
        })
        .map(|(service, _)| mesh::ServiceMembership {
            service: format!("{}/{}", service.namespace, service.name),
            ports: service
                .ports
                .iter()
                .map(|p| mesh::PortMapping {
                    service_port: p.port,
                    target_port: if p.target_port == 0 {
                        p.port
                    } else {
                        p.target_port
                    },
                })
                .collect(),
        })
        .collect();
    workload
}

fn default_hosts(name: &str, namespace: &str) -> [String; 4] {
    [
        name.to_owned(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ]
}

fn alias(address: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Some(format!("/{}", std::net::Ipv4Addr::from(v4)));
    }
    let v6 = <[u8; 16]>::try_from(address).ok()?;
    Some(format!("/{}", std::net::Ipv6Addr::from(v6)))
}
