//! Bundles of other trust domains as they were fetched last: what goes on while a source cannot be reached.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{StoreError, decode, encode, failed};

const BUNDLES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("foreign_bundles");

/// The last good answer of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    /// The bundle, SPIFFE bundle format.
    pub document: String,
    /// When the source confirmed it last, Unix seconds.
    pub fetched_at: i64,
}

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(BUNDLES).map(drop).map_err(failed)
}

/// Every record, by trust domain.
///
/// # Errors
/// The store failed, or a record is damaged.
pub fn load(read: &ReadTransaction) -> Result<BTreeMap<String, BundleRecord>, StoreError> {
    let table = read.open_table(BUNDLES).map_err(failed)?;
    let mut records = BTreeMap::new();
    for entry in table.iter().map_err(failed)? {
        let (domain, bytes) = entry.map_err(failed)?;
        let record = decode(domain.value(), bytes.value())?;
        records.insert(domain.value().to_owned(), record);
    }
    Ok(records)
}

/// Records an answer.
///
/// # Errors
/// The store failed.
pub fn put(
    write: &WriteTransaction,
    domain: &str,
    record: &BundleRecord,
) -> Result<(), StoreError> {
    let mut table = write.open_table(BUNDLES).map_err(failed)?;
    table
        .insert(domain, encode(record)?.as_slice())
        .map(drop)
        .map_err(failed)
}

/// Forgets the bundle of a trust domain that no document names any more.
///
/// # Errors
/// The store failed.
pub fn remove(write: &WriteTransaction, domain: &str) -> Result<(), StoreError> {
    let mut table = write.open_table(BUNDLES).map_err(failed)?;
    table.remove(domain).map(drop).map_err(failed)
}
