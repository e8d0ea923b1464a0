//! Key sets of token issuers as they were fetched last: what goes on while an issuer cannot be reached.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{StoreError, decode, encode, failed};

const KEY_SETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("key_sets");

/// The last good answer of one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySetRecord {
    /// Resource name.
    pub name: String,
    /// Its keys, a JWK Set.
    pub jwks: String,
    /// When these keys were seen first, Unix seconds.
    pub since: i64,
    /// When it confirmed them last, Unix seconds.
    pub fetched_at: i64,
}

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(KEY_SETS).map(drop).map_err(failed)
}

/// Every record, by resource name.
///
/// # Errors
/// The store failed.
pub fn load(read: &ReadTransaction) -> Result<BTreeMap<String, KeySetRecord>, StoreError> {
    let table = read.open_table(KEY_SETS).map_err(failed)?;
    let mut records = BTreeMap::new();
    for entry in table.iter().map_err(failed)? {
        let (name, bytes) = entry.map_err(failed)?;
        records.insert(
            name.value().to_owned(),
            decode(name.value(), bytes.value())?,
        );
    }
    Ok(records)
}

/// Records an answer.
///
/// # Errors
/// The store failed.
pub fn put(write: &WriteTransaction, record: &KeySetRecord) -> Result<(), StoreError> {
    let mut table = write.open_table(KEY_SETS).map_err(failed)?;
    table
        .insert(record.name.as_str(), encode(record)?.as_slice())
        .map(drop)
        .map_err(failed)
}

/// Forgets what no document names any more.
///
/// # Errors
/// The store failed.
pub fn retain(write: &WriteTransaction, is_named: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let mut table = write.open_table(KEY_SETS).map_err(failed)?;
    table.retain(|name, _| is_named(name)).map_err(failed)
}
