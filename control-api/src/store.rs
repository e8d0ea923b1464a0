//! The store: documents, join tokens and issued certificates in one embedded transactional file.
//!
//! Every write is one durable transaction that increases the store-wide revision; what is published afterwards is an
//! immutable [`View`]. A crash leaves the last committed state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mesh_manifest::{Document, Kind};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
pub(crate) const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("join_tokens");
pub(crate) const ISSUED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("issued");
const REVISION: &str = "revision";

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("{}: cannot open the store: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A transaction failed; nothing of it was kept.
    #[error("the store failed, nothing was written: {0}")]
    Transaction(String),
    /// A stored record does not parse.
    #[error("{}: record '{key}' is damaged: {reason}; restore the file from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such document.
    #[error("{kind} {namespace}/{name} does not exist")]
    NotFound {
        /// Kind.
        kind: Kind,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
}

pub(crate) fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Transaction(error.to_string())
}

/// Kind, namespace, name.
pub type Key = (Kind, String, String);

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

#[derive(Serialize, Deserialize)]
struct Record {
    revision: u64,
    changed_at: i64,
    author: String,
    document: String,
}

/// Everything at one revision.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The revision.
    pub revision: u64,
    /// Documents by kind, namespace and name.
    pub documents: BTreeMap<Key, Arc<Stored>>,
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
}

/// The store.
pub struct Store {
    pub(crate) database: Database,
    path: PathBuf,
    views: watch::Sender<Arc<View>>,
    /// Writers take turns from reading the view to publishing the next.
    writer: Mutex<()>,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there.
    ///
    /// # Errors
    /// Names the file: in use by another process, or damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("store.redb");
        let database = Database::create(&path).map_err(|error| StoreError::Open {
            path: path.clone(),
            reason: match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    "another control-api is using it; there can be one writer only".to_owned()
                }
                error => format!("{error}; if the file is damaged, restore it from a backup"),
            },
        })?;
        let write = database.begin_write().map_err(failed)?;
        {
            write.open_table(META).map_err(failed)?;
            write.open_table(DOCUMENTS).map_err(failed)?;
            write.open_table(TOKENS).map_err(failed)?;
            write.open_table(ISSUED).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        let view = load(&database, &path)?;
        Ok(Self {
            database,
            path,
            views: watch::Sender::new(Arc::new(view)),
            writer: Mutex::new(()),
        })
    }

    /// The current view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Views as they are published.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores documents, all or none.
    ///
    /// # Errors
    /// The transaction failed; nothing was kept.
    pub fn apply(
        &self,
        documents: Vec<Document>,
        author: &str,
        now: i64,
    ) -> Result<(u64, Vec<Outcome>), StoreError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let mut view = (*self.view()).clone();
        let mut outcomes = Vec::with_capacity(documents.len());
        let revision = view.revision + 1;
        let mut records = Vec::new();
        for document in documents {
            let key = document.key();
            let outcome = match view.documents.get(&key) {
                Some(stored) if stored.document == document => Outcome::Unchanged,
                Some(_) => Outcome::Changed,
                None => Outcome::Created,
            };
            outcomes.push(outcome);
            if outcome != Outcome::Unchanged {
                let record = Record {
                    revision,
                    changed_at: now,
                    author: author.to_owned(),
                    document: document.to_json().to_string(),
                };
                records.push((
                    record_key(&key),
                    serde_json::to_vec(&record).map_err(failed)?,
                ));
                view.documents.insert(
                    key,
                    Arc::new(Stored {
                        document,
                        revision,
                        changed_at: now,
                        author: author.to_owned(),
                    }),
                );
            }
        }
        if records.is_empty() {
            return Ok((view.revision, outcomes));
        }
        self.commit(revision, |table| {
            for (key, record) in &records {
                table
                    .insert(key.as_str(), record.as_slice())
                    .map_err(failed)?;
            }
            Ok(())
        })?;
        view.revision = revision;
        self.views.send_replace(Arc::new(view));
        Ok((revision, outcomes))
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// It is not there, or the transaction failed.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<u64, StoreError> {
        let _turn = self.writer.lock().map_err(failed)?;
        let mut view = (*self.view()).clone();
        let key = (kind, namespace.to_owned(), name.to_owned());
        if view.documents.remove(&key).is_none() {
            return Err(StoreError::NotFound {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        let revision = view.revision + 1;
        self.commit(revision, |table| {
            table.remove(record_key(&key).as_str()).map_err(failed)?;
            Ok(())
        })?;
        view.revision = revision;
        self.views.send_replace(Arc::new(view));
        Ok(revision)
    }

    fn commit(
        &self,
        revision: u64,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut documents = write.open_table(DOCUMENTS).map_err(failed)?;
            change(&mut documents)?;
            write
                .open_table(META)
                .map_err(failed)?
                .insert(REVISION, revision)
                .map_err(failed)?;
        }
        write.commit().map_err(failed)
    }
}

fn record_key((kind, namespace, name): &Key) -> String {
    format!("{}/{namespace}/{name}", kind.as_str())
}

fn load(database: &Database, path: &Path) -> Result<View, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let revision = read
        .open_table(META)
        .map_err(failed)?
        .get(REVISION)
        .map_err(failed)?
        .map_or(0, |v| v.value());
    let mut documents = BTreeMap::new();
    for entry in read
        .open_table(DOCUMENTS)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (key, value) = entry.map_err(failed)?;
        let damaged = |reason: String| StoreError::Damaged {
            path: path.to_owned(),
            key: key.value().to_owned(),
            reason,
        };
        let record: Record =
            serde_json::from_slice(value.value()).map_err(|e| damaged(e.to_string()))?;
        let document =
            mesh_manifest::from_json(&record.document).map_err(|e| damaged(e.to_string()))?;
        documents.insert(
            document.key(),
            Arc::new(Stored {
                document,
                revision: record.revision,
                changed_at: record.changed_at,
                author: record.author,
            }),
        );
    }
    Ok(View {
        revision,
        documents,
    })
}
