//! What the documents were before each revision, so that an earlier state can be looked at and brought back.
//!
//! Every revision keeps the records that it replaced. The state at an earlier revision is the present one with those put
//! back, newest first; it exists as far as the chain goes without a gap.

use std::collections::BTreeMap;

use redb::{ReadTransaction, TableDefinition, WriteTransaction};

use super::documents::{self, Change, DocumentRecord};
use super::{META, StoreError, decode, encode, failed};

/// Records that a revision replaced, by revision; `null`: there was none.
const BEFORE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("before");
/// Sum of the sizes of what is in [`BEFORE`].
const BYTES: &str = "before_bytes";
/// Most that earlier records may take, bytes. The oldest go first.
const MAX_BYTES: u64 = 256 << 20;

/// The documents of one revision, by `Kind/namespace/name`.
pub type State = BTreeMap<String, DocumentRecord>;

/// Why an earlier state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is in the future.
    #[error("revision {asked} does not exist; the latest is {latest}")]
    Future {
        /// What was asked for.
        asked: u64,
        /// The latest.
        latest: u64,
    },
    /// It is too long ago.
    #[error("revision {asked} is no longer remembered; the oldest that is, is {oldest}")]
    Forgotten {
        /// What was asked for.
        asked: u64,
        /// The oldest state that can be had.
        oldest: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn make_tables(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(BEFORE).map_err(failed)?;
    Ok(())
}

/// Keeps what `revision` replaced, forgetting revisions before `oldest` and what is too much.
pub(super) fn keep(
    write: &WriteTransaction,
    revision: u64,
    replaced: &BTreeMap<&str, Option<DocumentRecord>>,
    oldest: u64,
) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    let mut before = write.open_table(BEFORE).map_err(failed)?;
    let mut bytes = redb::ReadableTable::get(&meta, BYTES)
        .map_err(failed)?
        .map_or(0, |v| v.value());
    let record = encode(replaced)?;
    bytes += record.len() as u64;
    before.insert(revision, record.as_slice()).map_err(failed)?;
    while let Some((first, size)) = oldest_of(&before)?
        && first < revision
        && (bytes > MAX_BYTES || first < oldest)
    {
        before.remove(first).map_err(failed)?;
        bytes = bytes.saturating_sub(size);
    }
    meta.insert(BYTES, bytes).map_err(failed)?;
    Ok(())
}

fn oldest_of(
    before: &impl redb::ReadableTable<u64, &'static [u8]>,
) -> Result<Option<(u64, u64)>, StoreError> {
    let first = before.first().map_err(failed)?;
    Ok(first.map(|(revision, record)| (revision.value(), record.value().len() as u64)))
}

/// The states at `revisions`, in their order.
///
/// # Errors
/// One of them does not exist or is not remembered, or the store failed.
pub fn states(read: &ReadTransaction, revisions: &[u64]) -> Result<Vec<State>, HistoryError> {
    let loaded = documents::load(read)?;
    let before = read.open_table(BEFORE).map_err(failed)?;
    let mut states: BTreeMap<u64, State> = BTreeMap::new();
    let mut state = loaded.documents;
    let mut at = loaded.revision;
    let mut wanted = revisions.to_vec();
    wanted.sort_unstable();
    for asked in wanted.into_iter().rev() {
        if asked > loaded.revision {
            let latest = loaded.revision;
            return Err(HistoryError::Future { asked, latest });
        }
        while at > asked {
            let record = before.get(at).map_err(failed)?;
            let Some(record) = record else {
                return Err(HistoryError::Forgotten { asked, oldest: at });
            };
            let replaced: BTreeMap<String, Option<DocumentRecord>> =
                decode(&format!("before {at}"), record.value())?;
            for (key, record) in replaced {
                match record {
                    Some(record) => state.insert(key, record),
                    None => state.remove(&key),
                };
            }
            at -= 1;
        }
        states.insert(asked, state.clone());
    }
    Ok(revisions
        .iter()
        .map(|revision| states.get(revision).cloned().unwrap_or_default())
        .collect())
}

/// The last `limit` revisions before `before` (0: the latest), newest first, with who changed what.
///
/// # Errors
/// The store cannot be read.
pub fn changes(
    read: &ReadTransaction,
    before: u64,
    limit: usize,
) -> Result<Vec<(u64, Change)>, StoreError> {
    let end = if before == 0 { u64::MAX } else { before };
    let changes = read.open_table(documents::CHANGES).map_err(failed)?;
    changes
        .range(..end)
        .map_err(failed)?
        .rev()
        .take(limit)
        .map(|entry| {
            let (revision, record) = entry.map_err(failed)?;
            let revision = revision.value();
            Ok((revision, decode(&revision.to_string(), record.value())?))
        })
        .collect()
}

/// Forgets what one revision replaced.
#[cfg(test)]
pub(super) fn forget(write: &WriteTransaction, revision: u64) -> Result<(), StoreError> {
    let mut before = write.open_table(BEFORE).map_err(failed)?;
    before.remove(revision).map_err(failed)?;
    Ok(())
}
