//! The client's side of delta xDS as a state machine without I/O.
//!
//! Owns which version of which resource is held, and which was rejected. Promises: a good resource is applied though its
//! neighbour is bad; a rejected one leaves the version before it in force; nothing is acknowledged before it was applied;
//! a trust bundle never goes back; a policy that cannot be read, of which no earlier version is held, is not forgotten
//! ([`Resources::unreadable`]). Does not know sockets, timers or snapshots: the caller builds one and says whether it
//! could.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_auth::TrustDomain;
use mesh_proto::ResourceType;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::envoy::config::core::v3 as core;

use super::demand::{self, Demand};
use super::resource::{self, Item};
use crate::lookups::{Found, Lookup, Subscribe};
use crate::snapshot::Resources;

mod by_name;
mod nack;
mod stage;

use by_name::is_by_name;
use nack::{answer, rejection, rejection_of};
use stage::{Admitted, Staged};

pub use by_name::Wanted;
pub use nack::{Answer, Rejection};

/// A version of a resource that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The server's version.
    pub version: String,
    /// The serialized message as it came, so that a newer program finds fields that this one does not know.
    pub value: Bytes,
}

#[derive(Debug, Default)]
struct TypeState {
    held: BTreeMap<String, Held>,
    rejected: BTreeMap<String, Rejection>,
    /// A response came on this stream, whole.
    answered: bool,
    /// What the parts of it named that came so far.
    touched: BTreeSet<String>,
    /// A response came in the life of this process.
    synced: bool,
}

/// What is held, in the form that outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// The destinations in use, where services and workloads are subscribed to by name; `None`: all of them are held.
    pub used: Option<Vec<Lookup>>,
    /// Resources in force.
    pub resources: Vec<(ResourceType, String, Held)>,
    /// Highest trust bundle sequence seen, by trust domain.
    pub sequences: BTreeMap<String, u64>,
    /// Store revision they are of.
    pub revision: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Client {
    workload: String,
    trust_domain: TrustDomain,
    types: BTreeMap<ResourceType, TypeState>,
    resources: Arc<Resources>,
    sequences: BTreeMap<String, u64>,
    /// What is subscribed to by name; `None`: everything.
    demand: Option<Demand>,
    /// Without demand: every service and workload was held once.
    holds_everything: bool,
    /// The same of an earlier process: believed when there is nothing better.
    held_everything: bool,
    /// With demand: services and workloads of an earlier process that held everything. Believed when there is nothing better.
    aside: Vec<(ResourceType, String, Held, Item)>,
    /// Without demand: what is not held may be in the mesh by now.
    doubts: bool,
    /// Without demand: services and workloads that were refused, with the names they go by.
    unreadable: BTreeMap<(ResourceType, String), Vec<String>>,
    /// Destinations that were settled and not told to who asked.
    settled: Vec<(Lookup, Found)>,
    unsaved: bool,
}

impl Client {
    /// Holds nothing.
    pub fn new(workload: &str, trust_domain: TrustDomain, subscribe: Subscribe) -> Self {
        Self {
            demand: match subscribe {
                Subscribe::All => None,
                Subscribe::Used => Some(Demand::new(workload)),
            },
            holds_everything: false,
            held_everything: false,
            aside: Vec::new(),
            doubts: false,
            unreadable: BTreeMap::new(),
            settled: Vec::new(),
            unsaved: false,
            workload: workload.to_owned(),
            trust_domain,
            types: ResourceType::ALL
                .into_iter()
                .map(|t| (t, TypeState::default()))
                .collect(),
            resources: Arc::default(),
            sequences: BTreeMap::new(),
        }
    }

    /// Takes over, `now`, what an earlier process held. Returns what of it is no longer acceptable.
    pub fn restore(&mut self, export: Export, now: i64) -> Vec<Rejection> {
        let mut resources = Resources {
            revision: export.revision,
            spoken_of: export.sequences.keys().cloned().collect(),
            ..Resources::default()
        };
        let mut refused = Vec::new();
        let was_everything = export.used.is_none();
        self.held_everything = self.demand.is_none() && was_everything;
        if let Some(demand) = &mut self.demand {
            demand.restore(export.used.unwrap_or_default(), now);
        }
        for (kind, name, held) in export.resources {
            match Item::parse(kind, &name, &held.value, &self.trust_domain) {
                Ok(item) => {
                    let demand = self.demand.as_mut().filter(|_| is_by_name(kind));
                    if demand.is_some_and(|d| !d.restored(kind, &name, &item.aliases())) {
                        if was_everything {
                            self.aside.push((kind, name, held, item));
                        }
                        continue;
                    }
                    item.put(&mut resources);
                    self.state(kind).held.insert(name, held);
                }
                Err(reason) => {
                    if kind == ResourceType::AuthorizationPolicy {
                        resources.unreadable.insert(name.clone(), held.value);
                    }
                    // What it was may be at any address.
                    self.held_everything &= !is_by_name(kind);
                    refused.push(rejection(kind, name, held.version, reason));
                }
            }
        }
        self.sequences = export.sequences;
        if let Some(demand) = &mut self.demand {
            demand.restored_all();
        }
        resources.scope = self.scope();
        self.resources = Arc::new(resources);
        refused
    }

    /// What is held, to be written down.
    pub fn export(&self) -> Export {
        let resources = self.types.iter().flat_map(|(kind, state)| {
            state
                .held
                .iter()
                .map(|(name, held)| (*kind, name.clone(), held.clone()))
        });
        // Without a version: the server has nothing that it would take for current.
        let unreadable = self.resources.unreadable.iter().map(|(name, value)| {
            let held = Held {
                version: String::new(),
                value: value.clone(),
            };
            (ResourceType::AuthorizationPolicy, name.clone(), held)
        });
        Export {
            used: self.demand.as_ref().map(Demand::used),
            resources: resources.chain(unreadable).collect(),
            sequences: self.sequences.clone(),
            revision: self.resources.revision,
        }
    }

    /// The resources in force.
    pub fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }

    /// Kinds that were never answered in the life of this process, or have to be answered again.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = self.types.iter().filter(|(kind, state)| {
            !state.synced || (self.doubts && is_by_name(**kind) && !state.answered)
        });
        missing.map(|(kind, _)| kind.kind()).collect()
    }

    /// Takes silence for consent: a server may leave a subscription unanswered where the versions claimed are current.
    /// Returns what `build` made, if something else is known by that.
    pub fn assume_current<S>(
        &mut self,
        build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> Option<S> {
        for state in self.types.values_mut() {
            state.synced = true;
        }
        self.doubts = false;
        self.aside = Vec::new();
        self.show_scope(build)
    }

    /// Every resource that was refused and is not held in that version.
    pub fn rejections(&self) -> Vec<Rejection> {
        let all = self
            .types
            .values()
            .flat_map(|state| state.rejected.values());
        all.cloned().collect()
    }

    /// The first requests of a new stream: a wildcard per type, or the names of what is used, with the versions in force. A policy that cannot be read is
    /// claimed without a version, so that the server sends it again or says that it is gone.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut node = Some(core::Node {
            id: self.workload.clone(),
            user_agent_name: "postern-sidecar".into(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").into(),
            )),
            ..core::Node::default()
        });
        let mut requests = Vec::with_capacity(self.types.len());
        for kind in ResourceType::ALL {
            let mut versions = BTreeMap::new();
            if kind == ResourceType::AuthorizationPolicy {
                let unreadable = self.resources.unreadable.keys();
                versions.extend(unreadable.map(|name| (name.clone(), String::new())));
            }
            let demand = self.demand.as_mut().filter(|_| is_by_name(kind));
            let names = demand.map_or_else(|| vec!["*".into()], |demand| demand.open(kind));
            let state = self.state(kind);
            state.answered = false;
            state.touched.clear();
            if names.is_empty() {
                // A request without names would ask for everything. There is nothing to wait for.
                state.synced = true;
                continue;
            }
            let held = state.held.iter();
            versions.extend(held.map(|(name, held)| (name.clone(), held.version.clone())));
            requests.push(DeltaDiscoveryRequest {
                type_url: kind.type_url().into(),
                resource_names_subscribe: names,
                initial_resource_versions: versions,
                node: node.take(),
                ..DeltaDiscoveryRequest::default()
            });
        }
        requests
    }

    /// Applies one response. `build` makes a snapshot of a set of resources or says why it cannot; the last one that it
    /// made is returned and must be in force before the answer is sent.
    pub fn receive<S>(
        &mut self,
        response: DeltaDiscoveryResponse,
        mut build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> (Answer, Option<S>) {
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            let name = String::new();
            let unknown = rejection_of(
                "unknown",
                name,
                String::new(),
                "unknown resource type".into(),
            );
            return (
                answer(&response.type_url, response.nonce, vec![unknown], false),
                None,
            );
        };
        // Only a number is a revision; other servers put other things there. A `+` behind it: more has to come until it is held.
        let version = &response.system_version_info;
        let is_whole = !version.ends_with('+');
        let revision = version.parse().unwrap_or(self.resources.revision);
        let nonce = response.nonce.clone();
        for name in &response.removed_resources {
            self.state(kind).rejected.remove(name);
        }
        let removed = response.removed_resources.clone();
        let mut staged = self.stage(kind, response);
        let changes: Vec<_> = staged
            .changes
            .iter()
            .map(|change| demand::Change {
                name: change.name.clone(),
                aliases: Some(change.item.aliases()),
            })
            .collect();
        let touched: BTreeSet<String> = staged
            .rejected
            .iter()
            .map(|r| r.name.clone())
            .chain(staged.changes.iter().map(|c| c.name.clone()))
            .collect();
        let mut refused = std::mem::take(&mut staged.refused);
        let (rejected, changed, snapshot) = self.apply(kind, revision, staged, &mut build);
        self.state(kind).synced |= is_whole;
        let is_held = |name: &String| {
            let state = self.types.get(&kind);
            state.is_some_and(|state| state.held.contains_key(name))
        };
        let is_rejected: BTreeSet<&str> = rejected.iter().map(|r| &*r.name).collect();
        let (bad, mut changes): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| is_rejected.contains(&*change.name));
        let bad_names: Vec<_> = is_rejected.iter().map(|name| (*name).to_owned()).collect();
        refused.extend(
            bad.into_iter()
                .filter_map(|bad| Some((bad.name, bad.aliases?))),
        );
        let gone = removed.iter().filter(|name| !is_held(name));
        changes.extend(gone.map(|name| demand::Change {
            name: name.clone(),
            aliases: None,
        }));
        self.note_unreadable(kind, refused, changes.iter().map(|change| &change.name));
        self.forget_stale_rejections(kind, touched, is_whole);
        let snapshot = self
            .note_demand(kind, (changes, &bad_names, &removed, is_whole), build)
            .or(snapshot);
        if !self.aside.is_empty() && self.missing().is_empty() {
            self.aside = Vec::new();
        }
        let rejected = self.note_rejections(kind, rejected);
        (answer(kind.type_url(), nonce, rejected, changed), snapshot)
    }

    fn state(&mut self, kind: ResourceType) -> &mut TypeState {
        self.types.entry(kind).or_default()
    }

    /// The policies that cannot be read after `staged`, provided that its changes can be applied. One is gone only when the
    /// server says so: it was claimed when the stream was opened.
    fn unreadable(&self, staged: &Staged) -> BTreeMap<String, Bytes> {
        let state = self.types.get(&ResourceType::AuthorizationPolicy);
        let mut unreadable = self.resources.unreadable.clone();
        let readable = staged.changes.iter().map(|change| &change.name);
        for name in staged.removed.iter().chain(readable) {
            unreadable.remove(name);
        }
        for (name, value) in &staged.unreadable {
            let held = state.is_some_and(|state| state.held.contains_key(name));
            let changed = staged.changes.iter().any(|change| change.name == *name);
            if !changed && (!held || staged.removed.contains(name)) {
                unreadable.insert(name.clone(), value.clone());
            }
        }
        unreadable
    }

    /// Applies as much of `staged` as a snapshot can be built of.
    fn apply<S>(
        &mut self,
        kind: ResourceType,
        revision: u64,
        mut staged: Staged,
        mut build: impl FnMut(&Arc<Resources>) -> Result<S, String>,
    ) -> (Vec<Rejection>, bool, Option<S>) {
        let mut base = (*self.resources).clone();
        base.revision = revision;
        if kind == ResourceType::AuthorizationPolicy {
            base.unreadable = self.unreadable(&staged);
        }
        let removed: Vec<String> = staged
            .removed
            .into_iter()
            .filter(|name| {
                self.types
                    .get(&kind)
                    .is_some_and(|s| s.held.contains_key(name))
            })
            .collect();
        for name in &removed {
            resource::take(&mut base, kind, name);
        }
        let mut changed = base.unreadable != self.resources.unreadable;
        if removed.is_empty()
            && staged.changes.is_empty()
            && revision == self.resources.revision
            && !changed
        {
            return (staged.rejected, false, None);
        }
        let mut admitted = Admitted {
            resources: Arc::new(base),
            snapshot: None,
            refused: BTreeMap::new(),
        };
        admitted.admit(&staged.changes, &mut build);
        if kind == ResourceType::AuthorizationPolicy {
            let policies = &admitted.resources.policies;
            let refused = staged.changes.iter().filter(|change| {
                admitted.refused.contains_key(&change.name) && !policies.contains_key(&change.name)
            });
            let refused: Vec<_> = refused
                .map(|c| (c.name.clone(), c.held.value.clone()))
                .collect();
            if !refused.is_empty() {
                Arc::make_mut(&mut admitted.resources)
                    .unreadable
                    .extend(refused);
                admitted.snapshot = None;
                changed = true;
            }
        }
        if admitted.snapshot.is_none() {
            // Not one change could be applied; the removals may still do.
            match build(&admitted.resources) {
                Ok(snapshot) => admitted.snapshot = Some(snapshot),
                Err(reason) => {
                    let names = removed
                        .into_iter()
                        .chain(staged.changes.into_iter().map(|c| c.name));
                    let whole =
                        names.map(|name| rejection(kind, name, String::new(), reason.clone()));
                    staged.rejected.extend(whole);
                    return (staged.rejected, false, None);
                }
            }
        }
        let state = self.types.entry(kind).or_default();
        for name in &removed {
            changed |= state.held.remove(name).is_some();
        }
        for change in staged.changes {
            if let Some(reason) = admitted.refused.remove(&change.name) {
                staged
                    .rejected
                    .push(rejection(kind, change.name, change.held.version, reason));
                continue;
            }
            if let Item::Bundle(bundle) = &change.item {
                self.sequences
                    .insert(bundle.trust_domain.clone(), bundle.sequence);
            }
            state.rejected.remove(&change.name);
            state.held.insert(change.name, change.held);
            changed = true;
        }
        self.resources = admitted.resources;
        (staged.rejected, changed, admitted.snapshot)
    }

    /// On a new stream the server sends again what was rejected and still exists; what it does not send is gone.
    fn forget_stale_rejections(
        &mut self,
        kind: ResourceType,
        touched: BTreeSet<String>,
        is_whole: bool,
    ) {
        let state = self.state(kind);
        if state.answered {
            return;
        }
        state.touched.extend(touched);
        if is_whole {
            state.answered = true;
            let touched = std::mem::take(&mut state.touched);
            state.rejected.retain(|name, _| touched.contains(name));
            self.unreadable
                .retain(|(of, name), _| *of != kind || touched.contains(name));
        }
    }

    fn note_rejections(&mut self, kind: ResourceType, rejected: Vec<Rejection>) -> Vec<Rejection> {
        let state = self.state(kind);
        let mut noted = Vec::with_capacity(rejected.len());
        for mut rejection in rejected {
            if let Some(before) = state.rejected.get(&rejection.name)
                && before.version == rejection.version
            {
                rejection.repeats = before.repeats.saturating_add(1);
            }
            state
                .rejected
                .insert(rejection.name.clone(), rejection.clone());
            noted.push(rejection);
        }
        noted
    }
}

#[cfg(test)]
#[path = "xds_tests.rs"]
mod tests;
