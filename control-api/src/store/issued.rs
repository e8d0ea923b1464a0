//! What was issued: serial numbers, for whom, and which key speaks for which identity.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{META, StoreError, decode, encode, failed};

const ISSUED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("issued");
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// How many were issued: of two in one second the later one has the higher number.
const COUNT: &str = "issued";
/// When another authority's word was believed last, Unix seconds.
const OTHERS_BELIEVED: &str = "other_authorities_believed";
/// How long after its end a certificate is remembered, seconds.
const KEPT: i64 = 7 * 86_400;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// Workload, `namespace/name`.
    pub workload: String,
    /// Identity.
    pub spiffe_id: String,
    /// When, Unix seconds.
    pub issued_at: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the root that it leads to, hexadecimal; empty in records from before roots could change.
    #[serde(default)]
    pub root: String,
    /// What is issued on the strength of this certificate ends no later, Unix seconds: it was itself issued on the strength
    /// of another authority's certificate, which ended then. 0: no bound. `None` in records from before that was noted.
    #[serde(default)]
    pub bound: Option<i64>,
}

/// A record as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    record: IssuedRecord,
    /// Its number; 0 in records from before they were counted.
    #[serde(default)]
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    spiffe_id: String,
    not_after: i64,
}

pub(super) fn make_tables(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(ISSUED).map_err(failed)?;
    write.open_table(KEYS).map_err(failed)?;
    Ok(())
}

/// True if a certificate with this serial number was issued.
///
/// # Errors
/// The store failed.
pub fn is_used(write: &WriteTransaction, serial: &str) -> Result<bool, StoreError> {
    let issued = write.open_table(ISSUED).map_err(failed)?;
    Ok(issued.get(serial).map_err(failed)?.is_some())
}

/// The identity that a key (SHA-256 of its SubjectPublicKeyInfo, hexadecimal) speaks for.
///
/// # Errors
/// The store failed.
pub fn identity_of_key(write: &WriteTransaction, key: &str) -> Result<Option<String>, StoreError> {
    let keys = write.open_table(KEYS).map_err(failed)?;
    let bytes = keys.get(key).map_err(failed)?;
    let record: Option<KeyRecord> = bytes.map(|b| decode(key, b.value())).transpose()?;
    Ok(record.map(|r| r.spiffe_id))
}

/// Records a certificate and the key in it.
///
/// # Errors
/// The store failed.
pub fn record(
    write: &WriteTransaction,
    serial: &str,
    key: &str,
    record: &IssuedRecord,
) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    let number = meta.get(COUNT).map_err(failed)?.map_or(0, |n| n.value()) + 1;
    meta.insert(COUNT, number).map_err(failed)?;
    let kept = Kept {
        record: record.clone(),
        number,
    };
    let mut issued = write.open_table(ISSUED).map_err(failed)?;
    issued
        .insert(serial, encode(&kept)?.as_slice())
        .map_err(failed)?;
    let mut keys = write.open_table(KEYS).map_err(failed)?;
    let owner = KeyRecord {
        spiffe_id: record.spiffe_id.clone(),
        not_after: record.not_after,
    };
    keys.insert(key, encode(&owner)?.as_slice())
        .map_err(failed)?;
    Ok(())
}

/// Notes that what another authority signs is believed, `now`.
///
/// # Errors
/// The store failed.
pub fn note_others(write: &WriteTransaction, now: i64) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    let now = u64::try_from(now).unwrap_or_default();
    meta.insert(OTHERS_BELIEVED, now).map_err(failed)?;
    Ok(())
}

/// Whether what another authority signed was ever believed.
///
/// # Errors
/// The store failed.
pub fn others_were_believed(read: &ReadTransaction) -> Result<bool, StoreError> {
    let meta = read.open_table(META).map_err(failed)?;
    Ok(meta.get(OTHERS_BELIEVED).map_err(failed)?.is_some())
}

/// The record of a certificate.
///
/// # Errors
/// The store failed.
pub fn get(read: &ReadTransaction, serial: &str) -> Result<Option<IssuedRecord>, StoreError> {
    let issued = read.open_table(ISSUED).map_err(failed)?;
    let bytes = issued.get(serial).map_err(failed)?;
    bytes.map(|b| decode(serial, b.value())).transpose()
}

/// The last certificate issued to each workload.
///
/// # Errors
/// The store failed.
pub fn latest(read: &ReadTransaction) -> Result<BTreeMap<String, IssuedRecord>, StoreError> {
    let mut latest: BTreeMap<String, Kept> = BTreeMap::new();
    for entry in read
        .open_table(ISSUED)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (serial, bytes) = entry.map_err(failed)?;
        let kept: Kept = decode(serial.value(), bytes.value())?;
        let order = |kept: &Kept| (kept.record.issued_at, kept.number);
        match latest.get(&kept.record.workload) {
            Some(held) if order(held) >= order(&kept) => {}
            _ => drop(latest.insert(kept.record.workload.clone(), kept)),
        }
    }
    let records = latest
        .into_iter()
        .map(|(workload, kept)| (workload, kept.record));
    Ok(records.collect())
}

/// End of the last certificate issued to each workload, Unix seconds.
///
/// # Errors
/// The store failed.
pub fn last_ends(read: &ReadTransaction) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut ends = BTreeMap::new();
    for entry in read
        .open_table(ISSUED)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (serial, bytes) = entry.map_err(failed)?;
        let record: IssuedRecord = decode(serial.value(), bytes.value())?;
        let end = ends.entry(record.workload).or_insert(record.not_after);
        *end = record.not_after.max(*end);
    }
    Ok(ends)
}

/// Forgets certificates that ended long ago, and keys without any other.
///
/// # Errors
/// The store failed.
pub fn forget_old(write: &WriteTransaction, now: i64) -> Result<(), StoreError> {
    let mut issued = write.open_table(ISSUED).map_err(failed)?;
    issued
        .retain(|_, bytes| {
            serde_json::from_slice::<IssuedRecord>(bytes)
                .is_ok_and(|r| r.not_after.saturating_add(KEPT) > now)
        })
        .map_err(failed)?;
    let mut keys = write.open_table(KEYS).map_err(failed)?;
    keys.retain(|_, bytes| {
        serde_json::from_slice::<KeyRecord>(bytes)
            .is_ok_and(|r| r.not_after.saturating_add(KEPT) > now)
    })
    .map_err(failed)
}
