//! The state of one discovery stream: requests and worlds go in, responses come out. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

pub use super::subscription::Rejected;
use super::subscription::Subscription;
use crate::registry::{Registered, World};

/// Answers about unknown types that wait to be sent.
const MAX_UNKNOWN: usize = 16;

/// Why a stream has to be ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too many names.
    #[error("resource_names_subscribe: more than 10000 names of one type; subscribe to `*`")]
    TooManyNames,
    /// A name longer than any.
    #[error("resource_names_subscribe: a name is longer than 600 bytes")]
    NameTooLong,
    /// A flood of types that do not exist.
    #[error("type_url: too many types that are not known here")]
    UnknownTypes,
}

/// The state of one stream.
#[derive(Debug)]
pub struct State {
    workload: Arc<Registered>,
    types: BTreeMap<ResourceType, Subscription>,
    unknown: VecDeque<DeltaDiscoveryResponse>,
    last_nonce: u64,
    acked_revision: u64,
    enforced_revision: u64,
}

impl State {
    /// A stream of `workload` that has asked for nothing.
    pub fn new(workload: Arc<Registered>) -> Self {
        Self {
            workload,
            types: BTreeMap::new(),
            unknown: VecDeque::new(),
            last_nonce: 0,
            acked_revision: 0,
            enforced_revision: 0,
        }
    }

    /// The workload as it is registered now: its labels may have changed, and with them what it may see.
    pub fn set_workload(&mut self, workload: Arc<Registered>) {
        if *self.workload != *workload {
            self.types.values_mut().for_each(Subscription::unsettle);
        }
        self.workload = workload;
    }

    /// Takes a request. Returns how many resources it rejects.
    ///
    /// # Errors
    /// The stream has to be ended.
    pub fn request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        now: i64,
    ) -> Result<usize, StreamError> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return self.request_unknown(request).map(|()| 0);
        };
        let subscription = self
            .types
            .entry(kind)
            .or_insert_with(|| Subscription::open(kind, request));
        let rejected = subscription.answer(request, now);
        subscription.change(request)?;
        Ok(rejected)
    }

    /// Of a type that does not exist there is nothing: said once per subscription, so that no client waits for it.
    fn request_unknown(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), StreamError> {
        if !request.response_nonce.is_empty() && request.resource_names_subscribe.is_empty() {
            return Ok(());
        }
        if self.unknown.len() >= MAX_UNKNOWN {
            return Err(StreamError::UnknownTypes);
        }
        let named = request.resource_names_subscribe.iter();
        let held = request.initial_resource_versions.keys();
        self.last_nonce += 1;
        self.unknown.push_back(DeltaDiscoveryResponse {
            type_url: request.type_url.clone(),
            removed_resources: named.filter(|n| *n != "*").chain(held).cloned().collect(),
            nonce: self.last_nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        });
        Ok(())
    }

    /// The next responses: one per type that owes something and waits for no answer.
    pub fn responses(&mut self, world: &World) -> Vec<DeltaDiscoveryResponse> {
        let mut responses: Vec<_> = self.unknown.drain(..).collect();
        for (kind, subscription) in &mut self.types {
            let nonce = || {
                self.last_nonce += 1;
                self.last_nonce.to_string()
            };
            responses.extend(subscription.respond(
                world.table(*kind),
                world.revision,
                &self.workload,
                nonce,
            ));
        }
        self.note_progress(world.revision);
        responses
    }

    /// As [`Self::responses`], of one type only.
    pub fn responses_of(
        &mut self,
        kind: ResourceType,
        world: &World,
    ) -> Option<DeltaDiscoveryResponse> {
        let nonce = || {
            self.last_nonce += 1;
            self.last_nonce.to_string()
        };
        let response = self.types.get_mut(&kind)?.respond(
            world.table(kind),
            world.revision,
            &self.workload,
            nonce,
        );
        self.note_enforcement(world.revision);
        response
    }

    fn note_enforcement(&mut self, revision: u64) {
        let Some(revocations) = self.types.get(&ResourceType::Revocation) else {
            return;
        };
        if revocations.is_settled(revision) {
            let reached = reached(revision, revocations.rejected().map(|(_, r)| r));
            self.enforced_revision = self.enforced_revision.max(reached);
        }
    }

    fn note_progress(&mut self, revision: u64) {
        self.note_enforcement(revision);
        if self.types.is_empty() || !self.types.values().all(|s| s.is_settled(revision)) {
            return;
        }
        let reached = reached(revision, self.rejected().map(|(_, _, r)| r));
        self.acked_revision = self.acked_revision.max(reached);
    }

    /// Highest revision of which this client holds everything that it asked for.
    pub fn acked_revision(&self) -> u64 {
        self.acked_revision
    }

    /// Highest revision whose revocations this client enforces: a sidecar acknowledges them when nothing that they forbid
    /// is open any more.
    pub fn enforced_revision(&self) -> u64 {
        self.enforced_revision
    }

    /// The version of a resource that the client has acknowledged and holds.
    pub fn acknowledged(&self, kind: ResourceType, name: &str) -> Option<u64> {
        self.types.get(&kind)?.acknowledged(name)
    }

    /// What the client rejected and does not hold.
    pub fn rejected(&self) -> impl Iterator<Item = (ResourceType, &str, &Rejected)> {
        self.types.iter().flat_map(|(kind, subscription)| {
            subscription
                .rejected()
                .map(|(name, rejected)| (*kind, name.as_ref(), rejected))
        })
    }
}

/// What was rejected is not held: the revision that brought it is not reached.
fn reached<'a>(revision: u64, rejected: impl Iterator<Item = &'a Rejected>) -> u64 {
    rejected
        .map(|r| r.version.parse::<u64>().map_or(0, |v| v.saturating_sub(1)))
        .fold(revision, u64::min)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
