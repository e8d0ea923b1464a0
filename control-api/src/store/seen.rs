//! When each workload's sidecar was connected last.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};

use super::{StoreError, failed};

const SEEN: TableDefinition<'_, &str, i64> = TableDefinition::new("seen");

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(SEEN).map_err(failed)?;
    Ok(())
}

/// By workload, Unix seconds.
///
/// # Errors
/// The store failed.
pub fn all(read: &ReadTransaction) -> Result<BTreeMap<String, i64>, StoreError> {
    let table = read.open_table(SEEN).map_err(failed)?;
    let mut seen = BTreeMap::new();
    for entry in table.iter().map_err(failed)? {
        let (workload, at) = entry.map_err(failed)?;
        seen.insert(workload.value().to_owned(), at.value());
    }
    Ok(seen)
}

/// Makes the table say `seen` and nothing else.
///
/// # Errors
/// The store failed.
pub fn replace(write: &WriteTransaction, seen: &BTreeMap<String, i64>) -> Result<(), StoreError> {
    let mut table = write.open_table(SEEN).map_err(failed)?;
    table
        .retain(|workload, _| seen.contains_key(workload))
        .map_err(failed)?;
    for (workload, at) in seen {
        table.insert(workload.as_str(), *at).map_err(failed)?;
    }
    Ok(())
}
