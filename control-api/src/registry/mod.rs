//! The registry: documents in, resources out.
//!
//! Owns the order of things that makes a revision true: compute, commit, publish. What is published is an immutable
//! [`World`]; whoever reads it never waits for a writer.

mod build;
mod conflict;
mod history;
mod keys;
mod world;

pub use build::{Inputs, Prior, build};
pub use conflict::Base;
pub use history::{Difference, RolledBack};
pub use keys::{KeySets, KeySource};
pub use world::{Entry, Key, Registered, Stored, Table, World};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use mesh_auth::TrustDomain;
use mesh_manifest::{Document, Kind, Resource};
use mesh_proto::{ResourceType, mesh};
use prost::Message as _;
use tokio::sync::watch;

use crate::ca::hex;
use crate::store::documents::{self, Change, DocumentRecord, PublishedRecord, Revision};
use crate::store::keysets::{self, KeySetRecord};
use crate::store::{Store, StoreError, failed};

/// Author of what the control API changes by itself.
const SELF: &str = "control-api";

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such document.
    #[error("{kind} {namespace}/{name} does not exist{}", deleted.as_deref().unwrap_or_default())]
    NotFound {
        /// Kind.
        kind: Kind,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// When and by whom it was deleted, if it ever was there.
        deleted: Option<String>,
    },
    /// Somebody else changed it meanwhile.
    #[error(
        "{subject} was {what} in revision {changed} by {author}, after revision {base} that this edit started from; \
         get it again, repeat the edit, and apply that"
    )]
    Conflict {
        /// The document.
        subject: String,
        /// `changed` or `deleted`.
        what: &'static str,
        /// The revision that did.
        changed: u64,
        /// By whom.
        author: String,
        /// What the edit started from.
        base: u64,
    },
    /// A revision was named that is not there yet.
    #[error("{subject}: revision {base} does not exist; the latest is {latest}")]
    FutureBase {
        /// Who named it.
        subject: String,
        /// What was named.
        base: u64,
        /// The latest.
        latest: u64,
    },
    /// The store moved on.
    #[error(
        "the latest revision is {latest}, not {expected}: somebody else changed something; look at `meshctl history`"
    )]
    Moved {
        /// What was expected.
        expected: u64,
        /// The latest.
        latest: u64,
    },
    /// An earlier revision cannot be had.
    #[error("{0}")]
    Revision(String),
    /// An earlier document does not parse any more.
    #[error(
        "{document} of revision {revision} is refused by this version: {reason}; nothing was changed"
    )]
    Unreadable {
        /// The document.
        document: String,
        /// The revision.
        revision: u64,
        /// What is wrong.
        reason: String,
    },
    /// The mesh demands that somebody answers for every policy.
    #[error(
        "AuthorizationPolicy {policy}: spec.owner is missing{}; the mesh's defaults say strictPolicies: true: name who \
         answers for it (in Istio's API the annotation postern.dev/owner)",
        match more { 0 => String::new(), more => format!(", and in {more} more") }
    )]
    Ownerless {
        /// `namespace/name` of the first without one.
        policy: String,
        /// How many more there are.
        more: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Refuses policies without owner where the mesh's defaults do.
fn demand_owners<'a>(
    resources: impl Iterator<Item = &'a Resource> + Clone,
) -> Result<(), RegistryError> {
    let strict = resources
        .clone()
        .any(|resource| matches!(resource, Resource::MeshDefaults(d) if d.strict_policies));
    let mut ownerless = resources.filter_map(|resource| match resource {
        Resource::AuthorizationPolicy(policy) if policy.owner.is_empty() => Some(policy),
        _ => None,
    });
    match ownerless.next() {
        Some(policy) if strict => Err(RegistryError::Ownerless {
            policy: format!("{}/{}", policy.namespace, policy.name),
            more: ownerless.count(),
        }),
        _ => Ok(()),
    }
}

/// What documents hold.
fn held(documents: &BTreeMap<Key, Arc<Stored>>) -> impl Iterator<Item = &Resource> + Clone {
    documents.values().map(|stored| &stored.document.resource)
}

/// What became of an applied document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was different before.
    Changed,
    /// It was the same before.
    Unchanged,
}

impl Outcome {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }

    fn of(world: &World, document: &Document) -> Self {
        match world.documents.get(&document.key()) {
            Some(stored) if stored.document == *document => Self::Unchanged,
            Some(_) => Self::Changed,
            None => Self::Created,
        }
    }
}

/// The owner of the documents.
pub struct Registry {
    store: Arc<Store>,
    trust_domain: TrustDomain,
    /// What is published beside what documents say.
    bundles: Mutex<Vec<mesh::TrustBundle>>,
    worlds: watch::Sender<Arc<World>>,
    /// Keys of token issuers, as they were fetched last.
    key_sets: Mutex<Arc<KeySets>>,
    /// Writers take turns from reading the world to publishing the next.
    writer: Mutex<()>,
}

impl Registry {
    /// Opens the registry of a store. `bundles` are the trust bundles, the own one among them.
    ///
    /// # Errors
    /// The store failed, or a record is damaged.
    pub fn open(
        store: Arc<Store>,
        trust_domain: TrustDomain,
        bundles: Vec<mesh::TrustBundle>,
        now: i64,
    ) -> Result<Self, StoreError> {
        let loaded = store.read(documents::load)?;
        let fetched = store.read(keysets::load)?;
        let key_sets = fetched
            .into_iter()
            .map(|(name, record)| (name, Arc::new(key_set(&record))))
            .collect();
        let mut stored = BTreeMap::new();
        for (key, record) in loaded.documents {
            let document =
                mesh_manifest::from_json(&record.document).map_err(|e| StoreError::Damaged {
                    key,
                    reason: e.to_string(),
                })?;
            let entry = Stored {
                revision: record.revision,
                changed_at: record.changed_at,
                author: record.author,
                document,
            };
            stored.insert(entry.document.key(), Arc::new(entry));
        }
        let registry = Self {
            store,
            trust_domain,
            bundles: Mutex::new(bundles),
            worlds: watch::Sender::new(Arc::default()),
            key_sets: Mutex::new(Arc::new(key_sets)),
            writer: Mutex::new(()),
        };
        // What is computed may differ from what was published: another root, or a program that computes more.
        let next = loaded.revision + 1;
        let world = registry.build(stored, &Prior::Records(&loaded.published), next)?;
        let there: BTreeSet<String> = world.entries().map(Entry::record_key).collect();
        let gone = loaded.published.keys().filter(|key| !there.contains(*key));
        let published = published(&world, next, gone.cloned());
        if published.is_empty() {
            registry.worlds.send_replace(Arc::new(World {
                revision: loaded.revision,
                ..world
            }));
        } else {
            let revision = Revision {
                number: next,
                documents: BTreeMap::new(),
                published,
                change: change(BTreeMap::new(), SELF, now),
            };
            registry.commit(world, &revision)?;
        }
        Ok(registry)
    }

    /// The current world.
    pub fn world(&self) -> Arc<World> {
        Arc::clone(&self.worlds.borrow())
    }

    /// Worlds as they are published. A slow reader sees the latest, not each.
    pub fn watch(&self) -> watch::Receiver<Arc<World>> {
        self.worlds.subscribe()
    }

    /// What [`Self::apply`] would do.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn dry_run(
        &self,
        mut documents: Vec<Document>,
        base: Base,
    ) -> Result<(u64, Vec<Outcome>), RegistryError> {
        let world = self.world();
        self.check_bases(&world, &mut documents, base)?;
        let there = world.documents.iter();
        let there = there.map(|(key, stored)| (key.clone(), &stored.document.resource));
        let mut next: BTreeMap<Key, &Resource> = there.collect();
        next.extend(documents.iter().map(|d| (d.key(), &d.resource)));
        demand_owners(next.values().copied())?;
        let outcomes = documents.iter().map(|d| Outcome::of(&world, d)).collect();
        Ok((world.revision, outcomes))
    }

    /// Stores documents, all or none. Returns the revision after it. What the edit started from is said by `base`, and
    /// by each document's `metadata.resourceVersion`.
    ///
    /// # Errors
    /// A document was changed after what the edit started from, a policy lacks the owner that the mesh demands, or the store
    /// failed; nothing was kept.
    pub fn apply(
        &self,
        mut documents: Vec<Document>,
        base: Base,
        author: &str,
        now: i64,
    ) -> Result<(u64, Vec<Outcome>), RegistryError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let world = self.world();
        self.check_bases(&world, &mut documents, base)?;
        let revision = world.revision + 1;
        let mut next = world.documents.clone();
        let mut outcomes = Vec::with_capacity(documents.len());
        let mut records = BTreeMap::new();
        let mut named = BTreeMap::new();
        for document in documents {
            let outcome = Outcome::of(&world, &document);
            outcomes.push(outcome);
            if outcome == Outcome::Unchanged {
                continue;
            }
            let key = document.key();
            let stored = Stored {
                document,
                revision,
                changed_at: now,
                author: author.to_owned(),
            };
            records.insert(record_key(&key), Some(stored.record()));
            named.insert(record_key(&key), outcome.as_str().to_owned());
            next.insert(key, Arc::new(stored));
        }
        if records.is_empty() {
            return Ok((world.revision, outcomes));
        }
        demand_owners(held(&next))?;
        self.advance(&world, next, records, change(named, author, now))?;
        Ok((revision, outcomes))
    }

    /// Deletes a document. Returns the revision after it.
    ///
    /// # Errors
    /// It is not there, was changed after `base`, or the store failed.
    pub fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        base: Base,
        author: &str,
        now: i64,
    ) -> Result<u64, RegistryError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let world = self.world();
        let key = (kind, namespace.to_owned(), name.to_owned());
        let record = record_key(&key);
        let mut next = world.documents.clone();
        self.check_base(&world, &key, base)?;
        if next.remove(&key).is_none() {
            let tombstone = self
                .store
                .read(|read| documents::tombstone(read, &record))?;
            return Err(RegistryError::NotFound {
                kind,
                namespace: key.1,
                name: key.2,
                deleted: tombstone.map(|t| {
                    format!(
                        ": it was deleted by {} in revision {}",
                        t.author, t.revision
                    )
                }),
            });
        }
        let named = BTreeMap::from([(record.clone(), "deleted".to_owned())]);
        let records = BTreeMap::from([(record, None)]);
        self.advance(&world, next, records, change(named, author, now))?;
        Ok(world.revision + 1)
    }

    /// The bundle of a trust domain as it is published, with its sequence.
    pub fn bundle(&self, trust_domain: &str) -> Option<mesh::TrustBundle> {
        let world = self.world();
        let entry = world.table(ResourceType::TrustBundle).get(trust_domain)?;
        mesh::TrustBundle::decode(&*entry.any.value).ok()
    }

    /// Publishes other trust bundles. Returns the revision in which they are in force.
    ///
    /// # Errors
    /// The store failed; the bundles before are still published.
    pub fn set_bundles(
        &self,
        bundles: Vec<mesh::TrustBundle>,
        author: &str,
        now: i64,
    ) -> Result<u64, StoreError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let before = std::mem::replace(&mut *self.bundles.lock().map_err(failed)?, bundles);
        let world = self.world();
        if *self.bundles.lock().map_err(failed)? == before {
            return Ok(world.revision);
        }
        let documents = world.documents.clone();
        let named = BTreeMap::from([("TrustBundle".to_owned(), "changed".to_owned())]);
        match self.advance(
            &world,
            documents,
            BTreeMap::new(),
            change(named, author, now),
        ) {
            Ok(()) => Ok(world.revision + 1),
            Err(error) => {
                *self.bundles.lock().map_err(failed)? = before;
                Err(error)
            }
        }
    }

    /// Stores an issuer's keys and publishes them where they changed. Returns the revision after it, and true if they did.
    ///
    /// # Errors
    /// The store failed; nothing was kept.
    pub fn set_keys(&self, record: &KeySetRecord, now: i64) -> Result<(u64, bool), StoreError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let world = self.world();
        let mut record = record.clone();
        let mut held = self.key_sets.lock().map_err(failed)?;
        let before = held.get(&record.name).filter(|h| h.jwks == record.jwks);
        // Confirmed keys are the same resource, not a newer one.
        record.since = before.map_or(record.fetched_at, |h| h.fetched_at);
        let changed = before.is_none();
        self.store.write(|write| keysets::put(write, &record))?;
        if !changed {
            return Ok((world.revision, false));
        }
        Arc::make_mut(&mut held).insert(record.name.clone(), Arc::new(key_set(&record)));
        drop(held);
        let named = BTreeMap::new();
        self.advance(
            &world,
            world.documents.clone(),
            BTreeMap::new(),
            change(named, SELF, now),
        )?;
        Ok((world.revision + 1, true))
    }

    /// Forgets the keys of issuers that no document names any more.
    ///
    /// # Errors
    /// The store failed.
    pub fn forget_keys(&self) -> Result<(), StoreError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let world = self.world();
        let named = world.key_sources();
        let mut held = self.key_sets.lock().map_err(failed)?;
        if held.keys().all(|name| named.contains_key(name)) {
            return Ok(());
        }
        Arc::make_mut(&mut held).retain(|name, _| named.contains_key(name));
        self.store
            .write(|write| keysets::retain(write, |name| named.contains_key(name)))
    }

    fn advance(
        &self,
        world: &Arc<World>,
        documents: BTreeMap<Key, Arc<Stored>>,
        records: BTreeMap<String, Option<DocumentRecord>>,
        change: Change,
    ) -> Result<(), StoreError> {
        let number = world.revision + 1;
        let next = self.build(documents, &Prior::World(world), number)?;
        let revision = Revision {
            number,
            documents: records,
            published: published(&next, number, gone(world, &next)),
            change,
        };
        self.commit(next, &revision)
    }

    fn commit(&self, world: World, revision: &Revision) -> Result<(), StoreError> {
        self.store
            .write(|write| documents::write(write, revision))?;
        self.worlds.send_replace(Arc::new(world));
        Ok(())
    }

    fn build(
        &self,
        documents: BTreeMap<Key, Arc<Stored>>,
        prior: &Prior<'_>,
        revision: u64,
    ) -> Result<World, StoreError> {
        let bundles = self.bundles.lock().map_err(failed)?;
        let key_sets = Arc::clone(&*self.key_sets.lock().map_err(failed)?);
        let inputs = Inputs {
            documents,
            trust_domain: &self.trust_domain,
            bundles: &bundles,
            key_sets: &key_sets,
        };
        Ok(build(inputs, prior, revision))
    }
}

fn change(documents: BTreeMap<String, String>, author: &str, now: i64) -> Change {
    Change {
        at: now,
        author: author.to_owned(),
        documents,
        note: String::new(),
    }
}

impl Stored {
    fn record(&self) -> DocumentRecord {
        DocumentRecord {
            revision: self.revision,
            changed_at: self.changed_at,
            author: self.author.clone(),
            document: self.document.to_json().to_string(),
        }
    }
}

fn key_set(record: &KeySetRecord) -> mesh::KeySet {
    mesh::KeySet {
        name: record.name.clone(),
        jwks: record.jwks.clone(),
        fetched_at: record.since,
    }
}

fn record_key((kind, namespace, name): &Key) -> String {
    format!("{kind}/{namespace}/{name}")
}

/// Record keys of what is in `before` and not in `world`.
fn gone(before: &World, world: &World) -> impl Iterator<Item = String> {
    let gone = before
        .entries()
        .filter(|entry| world.table(entry.kind).get(&entry.name).is_none());
    gone.map(Entry::record_key)
}

/// The records of resources that `revision` changed, and of those that are gone.
fn published(
    world: &World,
    revision: u64,
    gone: impl Iterator<Item = String>,
) -> BTreeMap<String, Option<PublishedRecord>> {
    let changed = world.entries().filter(|entry| entry.revision == revision);
    let changed = changed.map(|entry| {
        let record = PublishedRecord {
            revision,
            digest: hex(&entry.digest),
        };
        (entry.record_key(), Some(record))
    });
    changed.chain(gone.map(|key| (key, None))).collect()
}
