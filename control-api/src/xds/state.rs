//! What one stream is subscribed to, holds, and has rejected (xDS incremental protocol).
//!
//! A pure state machine: requests and worlds go in, responses come out. At most one response per type is unanswered, so
//! that a slow client costs a bounded amount of memory and a burst of changes reaches it as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use crate::registry::{Entry, Registered, World};

/// Bytes of resources per response, roughly.
const MAX_RESPONSE: usize = 2 << 20;
/// Names one stream may subscribe to per type.
const MAX_NAMES: usize = 100_000;

/// A rejected resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Version that was rejected.
    pub version: String,
    /// The client's reason.
    pub reason: String,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Version of each resource the client was sent or said it has; empty for "does not exist".
    held: BTreeMap<String, String>,
    rejected: BTreeMap<String, Rejected>,
    /// Nonce and content of the unanswered response.
    pending: Option<(String, Vec<(String, String)>)>,
    answered_once: bool,
    seen: bool,
}

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too many names.
    #[error("more than {MAX_NAMES} names subscribed to")]
    TooManyNames,
}

/// The state of one stream.
#[derive(Debug)]
pub struct State {
    workload: Arc<Registered>,
    types: BTreeMap<ResourceType, Subscription>,
    next_nonce: u64,
    acked_revision: u64,
}

impl State {
    /// A stream of `workload` that has subscribed to nothing.
    pub fn new(workload: Arc<Registered>) -> Self {
        Self {
            workload,
            types: BTreeMap::new(),
            next_nonce: 1,
            acked_revision: 0,
        }
    }

    /// The workload's registration changed (labels, for one).
    pub fn set_workload(&mut self, workload: Arc<Registered>) {
        self.workload = workload;
    }

    /// Takes a request. Unknown types are ignored, as the protocol asks.
    ///
    /// # Errors
    /// The stream has to be ended.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), StreamError> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(());
        };
        let subscription = self.types.entry(kind).or_default();
        if !subscription.seen {
            subscription.seen = true;
            subscription.wildcard = request.resource_names_subscribe.is_empty();
            subscription
                .held
                .extend(request.initial_resource_versions.clone());
        }
        subscription.answer(request);
        for name in &request.resource_names_subscribe {
            if name == "*" {
                subscription.wildcard = true;
            } else {
                if subscription.names.len() >= MAX_NAMES {
                    return Err(StreamError::TooManyNames);
                }
                subscription.names.insert(name.clone());
                // Subscribed again: sent again, even if unchanged.
                if request.initial_resource_versions.is_empty() {
                    subscription.held.remove(name);
                }
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                subscription.wildcard = false;
            } else {
                subscription.names.remove(name);
            }
        }
        let (wildcard, names) = (subscription.wildcard, &subscription.names);
        if !wildcard {
            subscription.held.retain(|name, _| names.contains(name));
        }
        Ok(())
    }

    /// The next responses, one per type that has something to say and nothing unanswered.
    pub fn responses(&mut self, world: &World) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in ResourceType::ALL {
            let Some(subscription) = self.types.get_mut(&kind) else {
                continue;
            };
            if subscription.pending.is_some() {
                continue;
            }
            let mut response = DeltaDiscoveryResponse {
                system_version_info: world.revision.to_string(),
                type_url: kind.type_url().to_owned(),
                ..Default::default()
            };
            let sent = subscription.difference(kind, world, &self.workload, &mut response);
            if response.resources.is_empty()
                && response.removed_resources.is_empty()
                && subscription.answered_once
            {
                continue;
            }
            subscription.answered_once = true;
            response.nonce = self.next_nonce.to_string();
            self.next_nonce += 1;
            subscription.pending = Some((response.nonce.clone(), sent));
            responses.push(response);
        }
        if responses.is_empty() && self.types.values().all(|s| s.pending.is_none()) {
            self.acked_revision = world.revision;
        }
        responses
    }

    /// Highest revision of which everything was answered.
    pub fn acked_revision(&self) -> u64 {
        self.acked_revision
    }

    /// What the client rejected and does not hold.
    pub fn rejected(&self) -> impl Iterator<Item = (ResourceType, &String, &Rejected)> {
        self.types
            .iter()
            .flat_map(|(kind, s)| s.rejected.iter().map(|(name, r)| (*kind, name, r)))
    }
}

impl Subscription {
    /// ACK or NACK of the unanswered response; a stale nonce answers nothing.
    fn answer(&mut self, request: &DeltaDiscoveryRequest) {
        let Some((nonce, _)) = &self.pending else {
            return;
        };
        if *nonce != request.response_nonce {
            return;
        }
        let Some((_, sent)) = self.pending.take() else {
            return;
        };
        let reasons = request
            .error_detail
            .as_ref()
            .map(|e| (reasons_by_name(&e.message), e.message.clone()));
        for (name, version) in sent {
            let reason = match &reasons {
                None => None,
                Some((Some(by_name), _)) => by_name.get(&name).cloned(),
                // Not in our format: the whole response was rejected.
                Some((None, message)) => Some(message.clone()),
            };
            match reason {
                Some(reason) if !version.is_empty() => {
                    self.rejected.insert(name, Rejected { version, reason });
                }
                _ => {
                    self.rejected.remove(&name);
                }
            }
        }
    }

    fn difference(
        &mut self,
        kind: ResourceType,
        world: &World,
        workload: &Registered,
        response: &mut DeltaDiscoveryResponse,
    ) -> Vec<(String, String)> {
        let mut wanted: BTreeMap<&str, Option<&Arc<Entry>>> = BTreeMap::new();
        if self.wildcard {
            for entry in world.all(kind).filter(|e| e.visible_to(workload)) {
                wanted.insert(&entry.name, Some(entry));
            }
        }
        for name in &self.names {
            let entry = world.get(kind, name).filter(|e| e.visible_to(workload));
            wanted.insert(name, entry);
        }
        let mut sent = Vec::new();
        let mut bytes = 0;
        for (name, entry) in &wanted {
            let version = entry.map_or("", |e| e.version.as_str());
            if self.held.get(*name).is_some_and(|held| held == version) {
                continue;
            }
            if bytes > MAX_RESPONSE {
                break;
            }
            match entry {
                Some(entry) => {
                    bytes += entry.any.value.len() + name.len() + 64;
                    response.resources.push(Resource {
                        name: entry.name.clone(),
                        version: entry.version.clone(),
                        resource: Some(entry.any.clone()),
                        aliases: entry.aliases.clone(),
                        ttl: None,
                    });
                }
                None => response.removed_resources.push((*name).to_owned()),
            }
            sent.push(((*name).to_owned(), version.to_owned()));
        }
        let gone: Vec<String> = self
            .held
            .keys()
            .filter(|name| !wanted.contains_key(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.held.remove(&name);
            self.rejected.remove(&name);
            sent.push((name.clone(), String::new()));
            response.removed_resources.push(name);
        }
        for (name, version) in &sent {
            if wanted.contains_key(name.as_str()) {
                self.held.insert(name.clone(), version.clone());
            }
        }
        sent
    }
}

/// Our sidecars NACK with `[{"name": ..., "reason": ...}]`: the rest of the response is held.
fn reasons_by_name(message: &str) -> Option<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Entry {
        name: String,
        reason: String,
    }
    let entries: Vec<Entry> = serde_json::from_str(message).ok()?;
    Some(entries.into_iter().map(|e| (e.name, e.reason)).collect())
}
