//! Records of documents, of the resources made of them, and of who changed what.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{META, StoreError, decode, encode, failed, history};

const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
const DELETED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deleted");
const PUBLISHED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("published");
pub(super) const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const REVISION: &str = "revision";
/// Revisions of which the store remembers who changed what.
const REMEMBERED: u64 = 10_000;

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRecord {
    /// Revision that last changed it.
    pub revision: u64,
    /// When, Unix seconds.
    pub changed_at: i64,
    /// By whom.
    pub author: String,
    /// The document, JSON.
    pub document: String,
}

/// The trace of a deleted document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Revision that deleted it.
    pub revision: u64,
    /// When, Unix seconds.
    pub deleted_at: i64,
    /// By whom.
    pub author: String,
}

/// The version of a resource on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRecord {
    /// Revision that last changed it.
    pub revision: u64,
    /// SHA-256 of its content, hexadecimal.
    pub digest: String,
}

/// What one revision changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, Unix seconds.
    pub at: i64,
    /// By whom.
    pub author: String,
    /// `Kind/namespace/name`, with what happened to it: `created`, `changed`, `deleted`.
    pub documents: BTreeMap<String, String>,
    /// What kind of change it was, where that says more; empty for an ordinary one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// One revision, to be written.
#[derive(Debug)]
pub struct Revision {
    /// The revision.
    pub number: u64,
    /// Documents by `Kind/namespace/name`; `None`: deleted.
    pub documents: BTreeMap<String, Option<DocumentRecord>>,
    /// Resources by `Kind/name`; `None`: gone.
    pub published: BTreeMap<String, Option<PublishedRecord>>,
    /// Who and what.
    pub change: Change,
}

/// Everything that a restart needs.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The last revision.
    pub revision: u64,
    /// Documents by `Kind/namespace/name`.
    pub documents: BTreeMap<String, DocumentRecord>,
    /// Resources by `Kind/name`.
    pub published: BTreeMap<String, PublishedRecord>,
}

pub(super) fn make_tables(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(DOCUMENTS).map_err(failed)?;
    write.open_table(DELETED).map_err(failed)?;
    write.open_table(PUBLISHED).map_err(failed)?;
    write.open_table(CHANGES).map_err(failed)?;
    Ok(())
}

/// Reads everything.
///
/// # Errors
/// The store cannot be read, or a record is damaged.
pub fn load(read: &ReadTransaction) -> Result<Loaded, StoreError> {
    let meta = read.open_table(META).map_err(failed)?;
    let revision = meta.get(REVISION).map_err(failed)?.map_or(0, |v| v.value());
    Ok(Loaded {
        revision,
        documents: records(read, DOCUMENTS)?,
        published: records(read, PUBLISHED)?,
    })
}

fn records<T: serde::de::DeserializeOwned>(
    read: &ReadTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
) -> Result<BTreeMap<String, T>, StoreError> {
    let mut records = BTreeMap::new();
    for entry in read
        .open_table(table)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (key, value) = entry.map_err(failed)?;
        records.insert(key.value().to_owned(), decode(key.value(), value.value())?);
    }
    Ok(records)
}

/// Writes one revision.
///
/// # Errors
/// The store failed, or `revision` is not the one after the last: somebody else wrote.
pub fn write(write: &WriteTransaction, revision: &Revision) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    let before = meta
        .insert(REVISION, revision.number)
        .map_err(failed)?
        .map_or(0, |v| v.value());
    if before + 1 != revision.number {
        return Err(StoreError::Transaction(format!(
            "revision {} cannot follow {before}",
            revision.number
        )));
    }
    let mut documents = write.open_table(DOCUMENTS).map_err(failed)?;
    let mut deleted = write.open_table(DELETED).map_err(failed)?;
    let mut replaced = BTreeMap::new();
    for (key, record) in &revision.documents {
        let held = documents.get(key.as_str()).map_err(failed)?;
        let held = held.map(|bytes| decode(key, bytes.value())).transpose()?;
        replaced.insert(key.as_str(), held);
        if let Some(record) = record {
            documents
                .insert(key.as_str(), encode(record)?.as_slice())
                .map_err(failed)?;
            deleted.remove(key.as_str()).map_err(failed)?;
        } else {
            documents.remove(key.as_str()).map_err(failed)?;
            let tombstone = Tombstone {
                revision: revision.number,
                deleted_at: revision.change.at,
                author: revision.change.author.clone(),
            };
            deleted
                .insert(key.as_str(), encode(&tombstone)?.as_slice())
                .map_err(failed)?;
        }
    }
    let mut published = write.open_table(PUBLISHED).map_err(failed)?;
    for (key, record) in &revision.published {
        match record {
            Some(record) => published
                .insert(key.as_str(), encode(record)?.as_slice())
                .map_err(failed)?,
            None => published.remove(key.as_str()).map_err(failed)?,
        };
    }
    let mut changes = write.open_table(CHANGES).map_err(failed)?;
    changes
        .insert(revision.number, encode(&revision.change)?.as_slice())
        .map_err(failed)?;
    let oldest = revision.number.saturating_sub(REMEMBERED);
    changes.retain_in(..oldest, |_, _| false).map_err(failed)?;
    drop(meta);
    history::keep(write, revision.number, &replaced, oldest)?;
    // One tombstone may go with each revision, so that they never grow beyond the remembered ones by much.
    deleted
        .retain(|_, bytes| {
            serde_json::from_slice::<Tombstone>(bytes).is_ok_and(|t| t.revision >= oldest)
        })
        .map_err(failed)
}

/// The trace of a deleted document.
///
/// # Errors
/// The store cannot be read.
pub fn tombstone(read: &ReadTransaction, key: &str) -> Result<Option<Tombstone>, StoreError> {
    let deleted = read.open_table(DELETED).map_err(failed)?;
    let bytes = deleted.get(key).map_err(failed)?;
    bytes.map(|bytes| decode(key, bytes.value())).transpose()
}

/// What one revision changed; `None` for one that is not remembered.
///
/// # Errors
/// The store cannot be read.
pub fn change(read: &ReadTransaction, revision: u64) -> Result<Option<Change>, StoreError> {
    let changes = read.open_table(CHANGES).map_err(failed)?;
    let bytes = changes.get(revision).map_err(failed)?;
    bytes
        .map(|bytes| decode(&revision.to_string(), bytes.value()))
        .transpose()
}
