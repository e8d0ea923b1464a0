//! One type on one stream: what is asked for, what the client holds, what it rejected.
//!
//! At most one response is unanswered. The next is computed from the newest world when the answer has come: a slow client
//! costs a bounded amount of memory, and a burst of changes reaches it as one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::nack::Reasons;
use super::state::StreamError;
use crate::registry::{Entry, Registered, Table};

/// Bytes of resources after which a response is closed; the rest follows when it is answered.
const FULL: usize = 3 << 20;
/// Names that one type can be asked for by one stream.
const MAX_NAMES: usize = 10_000;
/// Longest name.
const MAX_NAME: usize = 600;
/// A version that no resource has: what a client claims to hold, and we have never sent.
const FOREIGN: u64 = 0;

/// A rejected resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Version that was rejected; empty for a removal.
    pub version: String,
    /// The client's reason.
    pub reason: String,
    /// When, Unix seconds.
    pub at: i64,
}

#[derive(Debug)]
struct Pending {
    nonce: String,
    /// Resources with their version; `None`: removed.
    sent: Vec<(Arc<str>, Option<u64>)>,
}

#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    wildcard: bool,
    /// Names and aliases asked for one by one.
    asked: BTreeSet<String>,
    /// Names to send whatever the client holds.
    again: BTreeSet<String>,
    /// Names asked for of which the client knows that there is nothing.
    absent: BTreeSet<String>,
    /// What the client was sent last, or said that it holds, by name.
    held: HashMap<Arc<str>, u64>,
    rejected: BTreeMap<Arc<str>, Rejected>,
    pending: Option<Pending>,
    /// The first response is owed even if there is nothing to say: clients wait for it.
    greeted: bool,
    /// The last response said that more of the same follows.
    is_partial: bool,
    /// Revision up to which nothing is owed; `None`: look at everything.
    settled: Option<u64>,
}

impl Subscription {
    /// Opened by its first request.
    pub(super) fn open(kind: ResourceType, first: &DeltaDiscoveryRequest) -> Self {
        let held = first
            .initial_resource_versions
            .iter()
            .map(|(name, version)| (Arc::from(name.as_str()), version.parse().unwrap_or(FOREIGN)))
            .collect();
        Self {
            kind,
            // Nothing named in the first request: everything is meant.
            wildcard: first.resource_names_subscribe.is_empty(),
            asked: BTreeSet::new(),
            again: BTreeSet::new(),
            absent: BTreeSet::new(),
            held,
            rejected: BTreeMap::new(),
            pending: None,
            greeted: false,
            is_partial: false,
            settled: None,
        }
    }

    /// Subscriptions change whatever the nonce of the request is.
    pub(super) fn change(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), StreamError> {
        let first = !self.greeted && self.pending.is_none() && self.asked.is_empty();
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            if name.len() > MAX_NAME {
                return Err(StreamError::NameTooLong);
            }
            if self.asked.len() >= MAX_NAMES && !self.asked.contains(name) {
                return Err(StreamError::TooManyNames);
            }
            self.asked.insert(name.clone());
            // Subscribed to again: sent again, even if nothing changed. The first request says what is held instead.
            if !first {
                self.again.insert(name.clone());
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else if self.asked.remove(name) {
                self.absent.remove(name);
                self.again.remove(name);
                // Still wanted as one of all: the client may have dropped it and is told what there is.
                if self.wildcard {
                    self.again.insert(name.clone());
                }
            }
        }
        let changed = !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        if changed {
            self.settled = None;
        }
        Ok(())
    }

    /// ACK or NACK of the unanswered response; another nonce answers nothing. Returns how many resources were rejected.
    pub(super) fn answer(&mut self, request: &DeltaDiscoveryRequest, now: i64) -> usize {
        let answers = self
            .pending
            .as_ref()
            .is_some_and(|p| p.nonce == request.response_nonce);
        if !answers {
            return 0;
        }
        let sent = self.pending.take().map(|p| p.sent).unwrap_or_default();
        let reasons = request
            .error_detail
            .as_ref()
            .map(|detail| Reasons::parse(&detail.message));
        let mut count = 0;
        for (name, version) in sent {
            match reasons.as_ref().and_then(|r| r.of(&name)) {
                None => drop(self.rejected.remove(&name)),
                Some(reason) => {
                    count += 1;
                    let rejected = Rejected {
                        version: version.map(|v| v.to_string()).unwrap_or_default(),
                        reason: reason.to_owned(),
                        at: now,
                    };
                    self.rejected.insert(name, rejected);
                }
            }
        }
        count
    }

    /// The version of a resource that the client has acknowledged and holds.
    pub(super) fn acknowledged(&self, name: &str) -> Option<u64> {
        let pending = self.pending.iter().flat_map(|p| &p.sent);
        let is_open = pending.into_iter().any(|(sent, _)| **sent == *name);
        let held = self.held.get(name).copied();
        held.filter(|_| !is_open && !self.rejected.contains_key(name))
    }

    /// Whom the stream belongs to has changed: look at everything again.
    pub(super) fn unsettle(&mut self) {
        self.settled = None;
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Nothing is unanswered, and nothing is owed up to `revision`.
    pub(super) fn is_settled(&self, revision: u64) -> bool {
        self.pending.is_none() && self.settled == Some(revision)
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = (&Arc<str>, &Rejected)> {
        self.rejected.iter()
    }

    /// The next response, if something is owed and nothing is unanswered.
    pub(super) fn respond(
        &mut self,
        table: &Table,
        revision: u64,
        workload: &Registered,
        nonce: impl FnOnce() -> String,
    ) -> Option<DeltaDiscoveryResponse> {
        if self.is_waiting() || self.settled == Some(revision) {
            return None;
        }
        let mut draft = Draft::default();
        if !self.catch_up(table, workload, &mut draft) {
            self.compare(table, workload, &mut draft);
        }
        let is_partial = draft.is_full();
        self.settled = (!is_partial).then_some(revision);
        if draft.sent.is_empty() && self.greeted && !self.is_partial {
            return None;
        }
        self.greeted = true;
        self.is_partial = is_partial;
        let nonce = nonce();
        self.pending = Some(Pending {
            nonce: nonce.clone(),
            sent: draft.sent,
        });
        Some(DeltaDiscoveryResponse {
            system_version_info: version_info(revision, is_partial),
            resources: draft.resources,
            type_url: self.kind.type_url().to_owned(),
            removed_resources: draft.removed,
            nonce,
            ..DeltaDiscoveryResponse::default()
        })
    }

    /// Looks only at what changed since nothing was owed. False where everything has to be looked at.
    fn catch_up(&mut self, table: &Table, workload: &Registered, draft: &mut Draft) -> bool {
        let names: Option<BTreeSet<&Arc<str>>> = self
            .settled
            .filter(|_| self.wildcard && self.asked.is_empty() && self.again.is_empty())
            .and_then(|revision| table.changed_after(revision))
            .map(Iterator::collect);
        let Some(names) = names else {
            return false;
        };
        for name in names {
            if draft.is_full() {
                break;
            }
            match table.get(name).filter(|e| e.is_visible_to(workload)) {
                Some(entry) => self.offer(entry, draft),
                None => self.withdraw(name, draft),
            }
        }
        true
    }

    /// Compares what the client should hold with what it holds.
    fn compare(&mut self, table: &Table, workload: &Registered, draft: &mut Draft) {
        let mut wanted: BTreeMap<&Arc<str>, &Arc<Entry>> = BTreeMap::new();
        let visible = |entry: &&Arc<Entry>| entry.is_visible_to(workload);
        if self.wildcard {
            wanted.extend(table.all().filter(visible).map(|e| (&e.name, e)));
        }
        let mut nothing = BTreeSet::new();
        for name in &self.asked {
            let before = wanted.len();
            wanted.extend(table.find(name).filter(visible).map(|e| (&e.name, e)));
            if wanted.len() == before && !table.find(name).any(|e| visible(&e)) {
                nothing.insert(name.clone());
            }
        }
        for name in std::mem::take(&mut self.again) {
            for entry in table.find(&name) {
                self.held.remove(&entry.name);
            }
            self.absent.remove(&name);
        }
        // Gone, or no longer what one of the names stands for, or no longer asked for: the client cannot tell the second by itself.
        let unwanted: BTreeSet<Arc<str>> = self
            .held
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in unwanted {
            self.withdraw(&name, draft);
        }
        self.absent.retain(|name| nothing.contains(name));
        for name in nothing {
            if self.absent.insert(name.clone()) && !draft.removed.contains(&name) {
                draft.remove(&Arc::from(name));
            }
        }
        for entry in wanted.into_values() {
            if draft.is_full() {
                break;
            }
            self.offer(entry, draft);
        }
    }

    fn offer(&mut self, entry: &Arc<Entry>, draft: &mut Draft) {
        if self.held.get(&entry.name) == Some(&entry.revision) {
            return;
        }
        self.held.insert(Arc::clone(&entry.name), entry.revision);
        draft.bytes += entry.any.value.len() + 2 * entry.name.len() + 64;
        draft
            .sent
            .push((Arc::clone(&entry.name), Some(entry.revision)));
        draft.resources.push(Resource {
            name: entry.name.as_ref().to_owned(),
            version: entry.revision.to_string(),
            resource: Some(entry.any.clone()),
            aliases: entry.aliases.clone(),
            ttl: None,
        });
    }

    fn withdraw(&mut self, name: &Arc<str>, draft: &mut Draft) {
        if self.held.remove(name).is_some() {
            draft.remove(name);
        }
    }
}

/// The revision that a response brings its client to; with a `+` where more has to come until it is there.
fn version_info(revision: u64, is_partial: bool) -> String {
    let more = if is_partial { "+" } else { "" };
    format!("{revision}{more}")
}

/// A response in the making.
#[derive(Default)]
struct Draft {
    resources: Vec<Resource>,
    removed: Vec<String>,
    sent: Vec<(Arc<str>, Option<u64>)>,
    bytes: usize,
}

impl Draft {
    fn is_full(&self) -> bool {
        self.bytes >= FULL
    }

    fn remove(&mut self, name: &Arc<str>) {
        self.bytes += name.len() + 8;
        self.removed.push(name.as_ref().to_owned());
        self.sent.push((Arc::clone(name), None));
    }
}
