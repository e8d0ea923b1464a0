//! Which authority signs, which one is to come, which one goes: the state of a change of roots.

use redb::{ReadTransaction, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{FACTS, ROOT, StoreError, decode, encode, failed};

const ROOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("roots");
const CURRENT: &str = "current";
/// Name of the first authority's files.
pub const FIRST: &str = "ca";

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// SHA-256 of its root certificate, hexadecimal.
    pub sha256: String,
    /// Name of its files in the data directory, without extension.
    pub files: String,
    /// Since when it is in its present state, Unix seconds.
    pub since: i64,
    /// Its root's key and name, signed by the authority before it: DER, hexadecimal, with what leads on to that one's root.
    /// Empty: there is none.
    #[serde(default)]
    pub bridge: Vec<String>,
}

/// Every authority. `prepared` and `retiring` are never there at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsRecord {
    /// The one that signs.
    pub signing: RootRecord,
    /// Trusted, and to sign next.
    pub prepared: Option<RootRecord>,
    /// Still trusted, signs no more.
    pub retiring: Option<RootRecord>,
    /// Seconds over which certificates of the retiring one are to be replaced.
    #[serde(default)]
    pub spread: u32,
    /// Files of authorities that nobody trusts any more, to be removed.
    #[serde(default)]
    pub leftovers: Vec<String>,
}

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(ROOTS).map(drop).map_err(failed)
}

/// The state; `None` before the first start was complete.
///
/// # Errors
/// The store failed, or the record is damaged.
pub fn load(read: &ReadTransaction) -> Result<Option<RootsRecord>, StoreError> {
    let roots = read.open_table(ROOTS).map_err(failed)?;
    if let Some(bytes) = roots.get(CURRENT).map_err(failed)? {
        return decode(CURRENT, bytes.value()).map(Some);
    }
    // A store from before roots could change knows the one there was.
    let facts = read.open_table(FACTS).map_err(failed)?;
    let root = facts.get(ROOT).map_err(failed)?;
    Ok(root.map(|sha256| RootsRecord {
        signing: RootRecord {
            sha256: sha256.value().to_owned(),
            files: FIRST.to_owned(),
            since: 0,
            bridge: vec![],
        },
        prepared: None,
        retiring: None,
        spread: 0,
        leftovers: vec![],
    }))
}

/// Replaces the state.
///
/// # Errors
/// The store failed.
pub fn save(write: &WriteTransaction, record: &RootsRecord) -> Result<(), StoreError> {
    let mut roots = write.open_table(ROOTS).map_err(failed)?;
    roots
        .insert(CURRENT, encode(record)?.as_slice())
        .map_err(failed)?;
    Ok(())
}
