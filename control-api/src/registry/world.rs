//! Everything there is to send at one revision, indexed the way streams ask for it. Immutable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesh_auth::SpiffeId;
use mesh_auth::revocation::{Revocations, Revoked};
use mesh_auth::svid::VerifiedPeer;
use mesh_manifest::Scope;
use mesh_manifest::{Document, Kind};
use mesh_proto::{Any, ResourceType};
use tonic::Status;

use super::keys::KeySource;

/// Kind, namespace, name.
pub type Key = (Kind, String, String);

/// Changes of one type that are remembered, for streams that are a few revisions behind.
const REMEMBERED: usize = 4_096;

/// A document with its history.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The document.
    pub document: Document,
    /// Revision that last changed it.
    pub revision: u64,
    /// When, Unix seconds.
    pub changed_at: i64,
    /// By whom.
    pub author: String,
}

/// One resource, serialized once for every stream.
#[derive(Debug)]
pub struct Entry {
    /// Type.
    pub kind: ResourceType,
    /// Name on the stream.
    pub name: Arc<str>,
    /// Revision that last changed its content: its version.
    pub revision: u64,
    /// The content.
    pub any: Any,
    /// Other names it can be subscribed to by.
    pub aliases: Vec<String>,
    /// Whom it selects, for policies: any of these; `None`: everybody may have it.
    pub selects: Option<Vec<Scope>>,
    /// SHA-256 of the content.
    pub digest: [u8; 32],
}

impl Entry {
    /// True if the sidecar of `workload` may have it.
    pub fn is_visible_to(&self, workload: &Registered) -> bool {
        self.selects.as_ref().is_none_or(|any| {
            any.iter()
                .any(|s| s.selects(&workload.namespace, &workload.labels))
        })
    }

    /// Where the store keeps its version.
    pub fn record_key(&self) -> String {
        format!("{}/{}", self.kind.kind(), self.name)
    }
}

/// A workload of the own trust domain.
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

/// The resources of one type.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) entries: BTreeMap<Arc<str>, Arc<Entry>>,
    pub(super) aliases: BTreeMap<String, Vec<Arc<str>>>,
    pub(super) changes: Changes,
}

/// Which names changed at which revision, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) recent: VecDeque<(u64, Arc<str>)>,
    /// Every change after this revision is remembered.
    pub(super) complete_after: u64,
}

impl Changes {
    pub(super) fn push(&mut self, revision: u64, name: Arc<str>) {
        self.recent.push_back((revision, name));
        while self.recent.len() > REMEMBERED
            && let Some((dropped, _)) = self.recent.pop_front()
        {
            self.complete_after = dropped;
        }
    }
}

impl Table {
    /// Every resource, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// A resource by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// The resources that go by a name or alias. Several workloads can share an address.
    pub fn find(&self, name: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let by_alias = self.aliases.get(name).into_iter().flatten();
        self.entries
            .get(name)
            .into_iter()
            .chain(by_alias.filter_map(|name| self.entries.get(name)))
    }

    /// The names that changed, came or went after `revision`; `None` if that is longer ago than is remembered.
    pub fn changed_after(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<str>>> {
        (revision >= self.changes.complete_after).then(|| {
            self.changes
                .recent
                .iter()
                .rev()
                .take_while(move |(at, _)| *at > revision)
                .map(|(_, name)| name)
        })
    }
}

fn refused(id: &SpiffeId, revoked: Option<&Revoked>) -> Result<(), Status> {
    match revoked {
        None => Ok(()),
        Some(mark) => Err(Status::permission_denied(format!(
            "peer_revoked: '{id}' is revoked by '{}'",
            mark.name
        ))),
    }
}

/// Everything at one revision.
#[derive(Debug, Default)]
pub struct World {
    /// The store's revision.
    pub revision: u64,
    /// Documents by kind, namespace and name.
    pub documents: BTreeMap<Key, Arc<Stored>>,
    pub(super) tables: BTreeMap<ResourceType, Table>,
    pub(super) workloads: BTreeMap<String, Arc<Registered>>,
    /// What is no longer believed.
    pub revocations: Revocations,
    pub(super) key_sources: BTreeMap<String, KeySource>,
}

static NOTHING: Table = Table {
    entries: BTreeMap::new(),
    aliases: BTreeMap::new(),
    changes: Changes {
        recent: VecDeque::new(),
        complete_after: 0,
    },
};

impl World {
    /// The resources of a type.
    pub fn table(&self, kind: ResourceType) -> &Table {
        self.tables.get(&kind).unwrap_or(&NOTHING)
    }

    /// Every resource.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.tables
            .values()
            .flat_map(|table| table.entries.values().map(|e| &**e))
    }

    /// Refuses a peer whose certificate or identity is revoked.
    ///
    /// # Errors
    /// Names the entry.
    pub fn refuse_revoked(&self, peer: &VerifiedPeer, now: i64) -> Result<(), Status> {
        refused(peer.id(), self.revocations.of(peer, now))
    }

    /// Refuses an identity that is revoked as a whole.
    ///
    /// # Errors
    /// Names the entry.
    pub fn refuse_revoked_identity(&self, id: &SpiffeId, now: i64) -> Result<(), Status> {
        refused(id, self.revocations.of_identity(id, now))
    }

    /// A registered workload.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Registered>> {
        self.workloads.get(uid)
    }

    /// Where the documents have keys of token issuers fetched, by the name of the key set.
    pub fn key_sources(&self) -> &BTreeMap<String, KeySource> {
        &self.key_sources
    }

    /// Every registered workload.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Registered>> {
        self.workloads.values()
    }
}
