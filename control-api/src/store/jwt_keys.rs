//! Keys that JWT-SVIDs are signed with.

use mesh_auth::Secret;
use redb::{ReadTransaction, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::{StoreError, decode, encode, failed};
use crate::ca::{hex, unhex};

const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jwt_keys");

/// A signing key.
pub struct JwtKeyRecord {
    /// Key ID.
    pub kid: String,
    /// When it starts to sign, Unix seconds; it is published before.
    pub signs_from: i64,
    /// The private key, PKCS#8.
    pub pkcs8: Secret<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    signs_from: i64,
    pkcs8: String,
}

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(KEYS).map(drop).map_err(failed)
}

/// Every key, the one that starts to sign first before the others.
///
/// # Errors
/// The store failed, or a record is damaged.
pub fn load(read: &ReadTransaction) -> Result<Vec<JwtKeyRecord>, StoreError> {
    let mut keys = Vec::new();
    for entry in read
        .open_table(KEYS)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (kid, bytes) = entry.map_err(failed)?;
        let mut stored: Stored = decode(kid.value(), bytes.value())?;
        let pkcs8 = unhex(&stored.pkcs8).ok_or_else(|| StoreError::Damaged {
            key: kid.value().to_owned(),
            reason: "the key is not hexadecimal".into(),
        });
        stored.pkcs8.zeroize();
        keys.push(JwtKeyRecord {
            kid: kid.value().to_owned(),
            signs_from: stored.signs_from,
            pkcs8: Secret::new(pkcs8?),
        });
    }
    keys.sort_by(|a, b| (a.signs_from, &a.kid).cmp(&(b.signs_from, &b.kid)));
    Ok(keys)
}

/// Adds a key.
///
/// # Errors
/// The store failed.
pub fn add(write: &WriteTransaction, key: &JwtKeyRecord) -> Result<(), StoreError> {
    let mut stored = Stored {
        signs_from: key.signs_from,
        pkcs8: hex(key.pkcs8.expose()),
    };
    let bytes = encode(&stored).map(Secret::new);
    stored.pkcs8.zeroize();
    let mut keys = write.open_table(KEYS).map_err(failed)?;
    keys.insert(key.kid.as_str(), bytes?.expose().as_slice())
        .map_err(failed)?;
    Ok(())
}

/// Removes a key; nothing happens if it is not there.
///
/// # Errors
/// The store failed.
pub fn remove(write: &WriteTransaction, kid: &str) -> Result<(), StoreError> {
    let mut keys = write.open_table(KEYS).map_err(failed)?;
    keys.remove(kid).map(drop).map_err(failed)
}
