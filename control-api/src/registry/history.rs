//! Earlier revisions: who changed what, what was different, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Base, Outcome, Registry, RegistryError, Stored, demand_owners, held, record_key};
use crate::store::documents::Change;
use crate::store::failed;
use crate::store::history::{self, HistoryError};

/// A document that two revisions have differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Kind, namespace, name.
    pub key: (String, String, String),
    /// The document at the first revision, JSON; `None`: it was not there.
    pub before: Option<String>,
    /// The document at the second revision.
    pub after: Option<String>,
}

/// What a rollback did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    /// Revision after it.
    pub revision: u64,
    /// `Kind/namespace/name` with what happened to it: `created`, `changed`, `deleted`.
    pub documents: BTreeMap<String, String>,
}

impl Registry {
    /// The last `limit` revisions before `before` (0: the latest), newest first.
    ///
    /// # Errors
    /// The store failed.
    pub fn history(&self, before: u64, limit: usize) -> Result<Vec<(u64, Change)>, RegistryError> {
        Ok(self
            .store
            .read(|read| history::changes(read, before, limit))?)
    }

    /// The documents that differ between two revisions, by kind, namespace and name.
    ///
    /// # Errors
    /// One of the revisions is not remembered, or the store failed.
    pub fn difference(&self, from: u64, to: u64) -> Result<Vec<Difference>, RegistryError> {
        let states = self
            .store
            .read(|read| Ok(history::states(read, &[from, to])))??;
        let [before, after] = &states[..] else {
            return Ok(Vec::new());
        };
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        Ok(keys
            .into_iter()
            .filter_map(|key| {
                let (before, after) = (before.get(key), after.get(key));
                let [before, after] = [before, after].map(|r| r.map(|r| r.document.clone()));
                let mut parts = key.splitn(3, '/').map(str::to_owned);
                (before != after).then(|| Difference {
                    key: (
                        parts.next().unwrap_or_default(),
                        parts.next().unwrap_or_default(),
                        parts.next().unwrap_or_default(),
                    ),
                    before,
                    after,
                })
            })
            .collect())
    }

    /// Makes the documents what they were at `revision`, as a new revision, all or none. With `dry_run` only says what
    /// that would change. `expected` must be the latest.
    ///
    /// # Errors
    /// The revision is not remembered, holds a document that this program refuses, somebody else wrote since
    /// `expected`, or the store failed. Nothing is changed then.
    pub fn rollback(
        &self,
        revision: u64,
        expected: Base,
        dry_run: bool,
        author: &str,
        now: i64,
    ) -> Result<RolledBack, RegistryError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let world = self.world();
        if let Base::Revision(expected) = expected
            && expected != world.revision
        {
            return Err(RegistryError::Moved {
                expected,
                latest: world.revision,
            });
        }
        let state = self
            .store
            .read(|read| Ok(history::states(read, &[revision])))??
            .pop()
            .unwrap_or_default();
        let number = world.revision + 1;
        let mut next = BTreeMap::new();
        let mut records = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (key, record) in state {
            let document = mesh_manifest::from_json(&record.document).map_err(|error| {
                RegistryError::Unreadable {
                    document: key.clone(),
                    revision,
                    reason: error.to_string(),
                }
            })?;
            let outcome = Outcome::of(&world, &document);
            let id = document.key();
            if outcome == Outcome::Unchanged
                && let Some(stored) = world.documents.get(&id)
            {
                next.insert(id, Arc::clone(stored));
                continue;
            }
            let stored = Stored {
                document,
                revision: number,
                changed_at: now,
                author: author.to_owned(),
            };
            named.insert(key.clone(), outcome.as_str().to_owned());
            records.insert(key, Some(stored.record()));
            next.insert(id, Arc::new(stored));
        }
        for key in world
            .documents
            .keys()
            .filter(|key| !next.contains_key(*key))
        {
            named.insert(record_key(key), "deleted".to_owned());
            records.insert(record_key(key), None);
        }
        demand_owners(held(&next))?;
        if dry_run || records.is_empty() {
            return Ok(RolledBack {
                revision: world.revision,
                documents: named,
            });
        }
        let change = Change {
            at: now,
            author: author.to_owned(),
            documents: named.clone(),
            note: format!("rollback to revision {revision}"),
        };
        self.advance(&world, next, records, change)?;
        Ok(RolledBack {
            revision: number,
            documents: named,
        })
    }
}

impl From<HistoryError> for RegistryError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Store(error) => Self::Store(error),
            error => Self::Revision(error.to_string()),
        }
    }
}
