//! From documents to resources. Pure.
//!
//! A resource keeps the revision that last changed its content; one whose content is what it was before is shared with
//! the world before, bytes and all.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use mesh_auth::revocation::{self, Revocations};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_manifest::{Resource, Scope};
use mesh_proto::alias::default_hosts;
use mesh_proto::mesh::revocation::Subject;
use mesh_proto::{Any, ResourceType, TypedResource, mesh};

use super::keys::{self, KeySets, KeySource};
use super::world::{Changes, Entry, Key, Registered, Stored, Table, World};
use crate::ca::{BACKDATE, hex};
use crate::store::documents::PublishedRecord;

/// Namespace whose policies hold for the whole mesh, where the mesh's defaults name none.
const ROOT_NAMESPACE: &str = "postern-system";

/// What a world is made of.
pub struct Inputs<'a> {
    /// Documents by kind, namespace and name.
    pub documents: BTreeMap<Key, Arc<Stored>>,
    /// The mesh's trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The trust bundles, by trust domain. Their sequence is not looked at: it is the revision that last changed them.
    pub bundles: &'a [mesh::TrustBundle],
    /// Keys of token issuers.
    pub key_sets: &'a KeySets,
}

/// What was there before.
pub enum Prior<'a> {
    /// A world.
    World(&'a World),
    /// The versions that an earlier process published, by `Kind/name`.
    Records(&'a BTreeMap<String, PublishedRecord>),
}

impl Prior<'_> {
    fn entry(&self, kind: ResourceType, name: &str) -> Option<&Arc<Entry>> {
        match self {
            Self::World(world) => world.table(kind).get(name),
            Self::Records(_) => None,
        }
    }

    /// The revision of a resource with this content.
    fn revision(&self, kind: ResourceType, name: &str, content: &[u8; 32]) -> Option<u64> {
        match self {
            Self::World(world) => {
                let entry = world.table(kind).get(name)?;
                (entry.digest == *content).then_some(entry.revision)
            }
            Self::Records(records) => {
                let record = records.get(&format!("{}/{name}", kind.kind()))?;
                (record.digest == hex(content)).then_some(record.revision)
            }
        }
    }

    fn changes(&self, kind: ResourceType) -> Changes {
        match self {
            Self::World(world) => world.table(kind).changes.clone(),
            Self::Records(_) => Changes::default(),
        }
    }
}

/// Builds the world at `revision`.
pub fn build(inputs: Inputs<'_>, prior: &Prior<'_>, revision: u64) -> World {
    let mut builder = Builder {
        prior,
        revision,
        tables: BTreeMap::new(),
        workloads: BTreeMap::new(),
        revoked: Vec::new(),
        key_sources: BTreeMap::new(),
    };
    let resources = || inputs.documents.values().map(|s| &s.document.resource);
    let mut defaults = resources()
        .find_map(|r| match r {
            Resource::MeshDefaults(defaults) => Some(defaults.clone()),
            _ => None,
        })
        .unwrap_or_default();
    inputs
        .trust_domain
        .as_str()
        .clone_into(&mut defaults.trust_domain);
    if defaults.root_namespace.is_empty() {
        ROOT_NAMESPACE.clone_into(&mut defaults.root_namespace);
    }
    builder.add(&defaults, vec![], None);
    for bundle in inputs.bundles {
        builder.add_bundle(bundle);
    }
    builder.add_key_sets(
        keys::sources(resources(), &defaults.root_namespace),
        inputs.key_sets,
    );
    let services = Services::index(resources());
    let mut kept = Kept::of(prior, &inputs.documents);
    for (key, stored) in &inputs.documents {
        let resource = &stored.document.resource;
        let scope = Scope::of(resource, &defaults.root_namespace);
        match resource {
            Resource::MeshDefaults(_) | Resource::Federation(_) => {}
            Resource::Revocation(revocation) => builder.add_revocation(revocation),
            Resource::Service { service, .. } => builder.add_service(service),
            Resource::Workload(workload) => {
                let same = kept.as_mut().and_then(|kept| kept.world(key, stored));
                if !same.is_some_and(|before| builder.keep_workload(before, workload)) {
                    builder.add_workload(workload, &services, inputs.trust_domain);
                }
            }
            Resource::AuthorizationPolicy(policy) => builder.add(policy, vec![], scope),
            Resource::RequestAuthentication(policy) => builder.add(policy, vec![], scope),
            Resource::PeerAuthentication(policy) => builder.add(policy, vec![], scope),
            Resource::LatencyBudget(budget) => builder.add(budget, vec![], scope),
        }
    }
    builder.finish(inputs.documents)
}

struct Builder<'a> {
    prior: &'a Prior<'a>,
    revision: u64,
    tables: BTreeMap<ResourceType, Table>,
    workloads: BTreeMap<String, Arc<Registered>>,
    revoked: Vec<revocation::Entry>,
    key_sources: BTreeMap<String, KeySource>,
}

impl Builder<'_> {
    fn add<M: TypedResource>(&mut self, message: &M, aliases: Vec<String>, selects: Option<Scope>) {
        self.add_for(message, aliases, selects.map(|s| vec![s]));
    }

    fn add_for<M: TypedResource>(
        &mut self,
        message: &M,
        aliases: Vec<String>,
        selects: Option<Vec<Scope>>,
    ) {
        let any = message.to_any();
        let content = sha256(&any.value);
        let name = message.resource_name();
        let revision = self.prior.revision(M::TYPE, &name, &content);
        self.put(M::TYPE, name, any, content, revision, aliases, selects);
    }

    /// A bundle's sequence is the revision that last changed its content, and no part of what makes it change.
    fn add_bundle(&mut self, bundle: &mesh::TrustBundle) {
        let mut bundle = mesh::TrustBundle {
            sequence: 0,
            ..bundle.clone()
        };
        let content = sha256(&bundle.to_any().value);
        let name = bundle.resource_name();
        let revision = self
            .prior
            .revision(ResourceType::TrustBundle, &name, &content);
        bundle.sequence = revision.unwrap_or(self.revision);
        let any = bundle.to_any();
        self.put(
            ResourceType::TrustBundle,
            name,
            any,
            content,
            revision,
            vec![],
            None,
        );
    }

    /// What is written is the moment of issue; what certificates show is a `notBefore` that the authority sets back.
    fn add_revocation(&mut self, written: &mesh::Revocation) {
        let mut revocation = written.clone();
        if let Some(Subject::IssuedBefore(before)) = &mut revocation.subject {
            before.not_before = before.not_before.saturating_sub(BACKDATE).max(1);
        }
        // What does not parse was refused when it was written.
        self.revoked
            .extend(revocation::Entry::parse(&revocation).ok());
        self.add(&revocation, vec![], None);
    }

    /// Those that were fetched; what no document names any more is not there.
    fn add_key_sets(
        &mut self,
        sources: BTreeMap<String, (KeySource, Vec<Scope>)>,
        fetched: &KeySets,
    ) {
        for (name, (source, selects)) in sources {
            if let Some(key_set) = fetched.get(&name) {
                self.add_for(&**key_set, vec![], Some(selects));
            }
            self.key_sources.insert(name, source);
        }
    }

    fn add_service(&mut self, service: &mesh::Service) {
        let mut service = service.clone();
        let (name, namespace) = (&service.name, &service.namespace);
        let defaults = [name.clone()]
            .into_iter()
            .chain(default_hosts(name, namespace));
        for host in defaults {
            if !service.hosts.contains(&host) {
                service.hosts.push(host);
            }
        }
        self.add(&service, service.aliases(), None);
    }

    fn add_workload(
        &mut self,
        workload: &mesh::Workload,
        services: &Services<'_>,
        domain: &TrustDomain,
    ) {
        let mut workload = workload.clone();
        workload.services = services.of(&workload);
        // Workloads of other trust domains are destinations, not members: they get nothing from this authority.
        let is_own = workload.trust_domain.is_empty() || workload.trust_domain == domain.as_str();
        if is_own
            && let Ok(id) =
                SpiffeId::workload(domain, &workload.namespace, &workload.service_account)
        {
            let registered = Registered {
                uid: workload.uid.clone(),
                namespace: workload.namespace.clone(),
                id,
                labels: workload.labels.clone(),
            };
            self.workloads
                .insert(workload.uid.clone(), Arc::new(registered));
        }
        self.add(&workload, workload.aliases(), None);
    }

    /// Takes over what became of a workload in a world where nothing was different for it.
    fn keep_workload(&mut self, before: &World, workload: &mesh::Workload) -> bool {
        let name = workload.resource_name();
        let Some(entry) = before.table(ResourceType::Workload).get(&name) else {
            return false;
        };
        if let Some((uid, registered)) = before.workloads.get_key_value(&workload.uid) {
            self.workloads.insert(uid.clone(), Arc::clone(registered));
        }
        self.insert(Arc::clone(entry));
        true
    }

    #[allow(clippy::too_many_arguments)] // One resource's parts, from three places that compute them differently.
    fn put(
        &mut self,
        kind: ResourceType,
        name: String,
        any: Any,
        digest: [u8; 32],
        revision: Option<u64>,
        aliases: Vec<String>,
        selects: Option<Vec<Scope>>,
    ) {
        let entry = match self.prior.entry(kind, &name) {
            Some(held) if revision.is_some() && held.selects == selects => Arc::clone(held),
            _ => Arc::new(Entry {
                kind,
                name: name.into(),
                revision: revision.unwrap_or(self.revision),
                any,
                aliases,
                selects,
                digest,
            }),
        };
        self.insert(entry);
    }

    fn insert(&mut self, entry: Arc<Entry>) {
        let table = self.tables.entry(entry.kind).or_default();
        for alias in &entry.aliases {
            table
                .aliases
                .entry(alias.clone())
                .or_default()
                .push(Arc::clone(&entry.name));
        }
        table.entries.insert(Arc::clone(&entry.name), entry);
    }

    fn finish(mut self, documents: BTreeMap<Key, Arc<Stored>>) -> World {
        for kind in ResourceType::ALL {
            let table = self.tables.entry(kind).or_default();
            table.changes = self.prior.changes(kind);
            match self.prior {
                Prior::World(before) => {
                    for name in changed(before.table(kind), table) {
                        table.changes.push(self.revision, name);
                    }
                }
                Prior::Records(_) => table.changes.complete_after = self.revision,
            }
        }
        World {
            revision: self.revision,
            documents,
            tables: self.tables,
            workloads: self.workloads,
            revocations: Revocations::new(self.revoked),
            key_sources: self.key_sources,
        }
    }
}

/// Walks the documents of the world before beside those of the next, in the order of both.
struct Kept<'a> {
    before: &'a World,
    documents: Peekable<btree_map::Iter<'a, Key, Arc<Stored>>>,
}

impl<'a> Kept<'a> {
    /// `None` if a service is another one: what becomes of a workload depends on them.
    fn of(prior: &Prior<'a>, documents: &BTreeMap<Key, Arc<Stored>>) -> Option<Self> {
        let Prior::World(before) = prior else {
            return None;
        };
        services(documents)
            .eq(services(&before.documents))
            .then(|| Self {
                before,
                documents: before.documents.iter().peekable(),
            })
    }

    /// The world before if this very document was in it. Keys must be asked for in ascending order.
    fn world(&mut self, key: &Key, stored: &Arc<Stored>) -> Option<&'a World> {
        while self.documents.next_if(|(held, _)| *held < key).is_some() {}
        let (held, document) = self.documents.peek()?;
        (*held == key && Arc::ptr_eq(document, stored)).then_some(self.before)
    }
}

/// Which documents of services there are.
fn services(documents: &BTreeMap<Key, Arc<Stored>>) -> impl Iterator<Item = *const Stored> {
    documents
        .values()
        .filter(|stored| matches!(stored.document.resource, Resource::Service { .. }))
        .map(Arc::as_ptr)
}

/// Names whose entry came, went, or is another one: for its content, or for whom it selects.
fn changed(before: &Table, after: &Table) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    for (name, entry) in &after.entries {
        if !before
            .get(name)
            .is_some_and(|held| Arc::ptr_eq(held, entry))
        {
            names.insert(Arc::clone(name));
        }
    }
    for name in before.entries.keys() {
        if !after.entries.contains_key(name) {
            names.insert(Arc::clone(name));
        }
    }
    names
}

/// Services with a selector, by namespace and one of the selector's labels.
struct Services<'a>(HashMap<(&'a str, &'a str, &'a str), Vec<Selecting<'a>>>);

type Selecting<'a> = (&'a mesh::Service, &'a BTreeMap<String, String>);

impl<'a> Services<'a> {
    fn index(resources: impl Iterator<Item = &'a Resource>) -> Self {
        let mut services: HashMap<_, Vec<_>> = HashMap::new();
        for resource in resources {
            // An empty selector selects nobody: "all workloads" is hardly ever what was meant.
            if let Resource::Service { service, selector } = resource
                && let Some((key, value)) = selector.iter().next()
            {
                services
                    .entry((service.namespace.as_str(), key.as_str(), value.as_str()))
                    .or_default()
                    .push((service, selector));
            }
        }
        Self(services)
    }

    fn of(&self, workload: &mesh::Workload) -> Vec<mesh::ServiceMembership> {
        let mut memberships: Vec<_> = workload
            .labels
            .iter()
            .filter_map(|(k, v)| {
                self.0
                    .get(&(workload.namespace.as_str(), k.as_str(), v.as_str()))
            })
            .flatten()
            .filter(|(_, selector)| {
                selector
                    .iter()
                    .all(|(k, v)| workload.labels.get(k) == Some(v))
            })
            .map(|(service, _)| membership(service))
            .collect();
        memberships.sort_by(|a, b| a.service.cmp(&b.service));
        memberships
    }
}

fn membership(service: &mesh::Service) -> mesh::ServiceMembership {
    mesh::ServiceMembership {
        service: service.resource_name(),
        ports: service
            .ports
            .iter()
            .map(|port| mesh::PortMapping {
                service_port: port.port,
                target_port: if port.target_port == 0 {
                    port.port
                } else {
                    port.target_port
                },
            })
            .collect(),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

#[cfg(test)]
mod tests;
