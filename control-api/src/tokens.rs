//! Join tokens: one-time secrets bound to a workload and its identity.
//!
//! A token is `<id>.<secret>`; only a digest of the secret is stored. It is used up in the same transaction that records
//! the certificate issued for it, so that of many concurrent uses one succeeds, whatever crashes when.

use aws_lc_rs::digest::{SHA256, digest};
use redb::{ReadableDatabase as _, ReadableTable as _};
use serde::{Deserialize, Serialize};

use crate::ca::Issued;
use crate::store::{ISSUED, Store, StoreError, TOKENS, failed};
use mesh_auth::Secret;

/// Default lifetime of a token, seconds.
pub const DEFAULT_TTL: u32 = 600;

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Token {
    /// Public id.
    pub id: String,
    /// Workload it is bound to.
    pub workload: String,
    /// Identity it is bound to.
    pub spiffe_id: String,
    /// Expiry, Unix seconds.
    pub expires_at: i64,
    /// When it was made, Unix seconds.
    pub created_at: i64,
    /// Serial of the certificate issued for it.
    pub used_for: Option<String>,
    /// Revoked by an operator.
    pub revoked: bool,
    secret_sha256: String,
}

impl Token {
    /// `unused`, `used`, `expired` or `revoked`.
    pub fn state(&self, now: i64) -> &'static str {
        match self {
            Self {
                used_for: Some(_), ..
            } => "used",
            Self { revoked: true, .. } => "revoked",
            Self { expires_at, .. } if *expires_at <= now => "expired",
            _ => "unused",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct IssueRecord {
    workload: String,
    spiffe_id: String,
    not_after: i64,
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours.
    #[error("the join token is unknown")]
    Unknown,
    /// Used, expired or revoked.
    #[error(
        "the join token '{id}' is {state}; make a new one with `meshctl token create {workload}`"
    )]
    State {
        /// Public id.
        id: String,
        /// Its state.
        state: &'static str,
        /// Its workload.
        workload: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn random_hex(bytes: usize) -> Result<String, StoreError> {
    let mut buffer = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut buffer).map_err(|_| failed("no randomness"))?;
    Ok(hex(&buffer))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes a token; the secret is returned once.
///
/// # Errors
/// The store failed.
pub fn create(
    store: &Store,
    workload: &str,
    spiffe_id: &str,
    ttl: u32,
    now: i64,
) -> Result<(Token, Secret<String>), StoreError> {
    let secret = random_hex(32)?;
    let token = Token {
        id: random_hex(6)?,
        workload: workload.to_owned(),
        spiffe_id: spiffe_id.to_owned(),
        expires_at: now + i64::from(if ttl == 0 { DEFAULT_TTL } else { ttl }),
        created_at: now,
        used_for: None,
        revoked: false,
        secret_sha256: hex(digest(&SHA256, secret.as_bytes()).as_ref()),
    };
    put(store, &token)?;
    let text = format!("{}.{secret}", token.id);
    Ok((token, Secret::new(text)))
}

fn put(store: &Store, token: &Token) -> Result<(), StoreError> {
    let write = store.database.begin_write().map_err(failed)?;
    let bytes = serde_json::to_vec(token).map_err(failed)?;
    write
        .open_table(TOKENS)
        .map_err(failed)?
        .insert(token.id.as_str(), bytes.as_slice())
        .map_err(failed)?;
    write.commit().map_err(failed)
}

/// Every token, by time of creation.
///
/// # Errors
/// The store failed.
pub fn list(store: &Store) -> Result<Vec<Token>, StoreError> {
    let read = store.database.begin_read().map_err(failed)?;
    let mut tokens = Vec::new();
    for entry in read
        .open_table(TOKENS)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (_, value) = entry.map_err(failed)?;
        tokens.push(serde_json::from_slice::<Token>(value.value()).map_err(failed)?);
    }
    tokens.sort_by_key(|t| t.created_at);
    Ok(tokens)
}

/// Makes a token unusable; false if there is none with this id.
///
/// # Errors
/// The store failed.
pub fn revoke(store: &Store, id: &str) -> Result<bool, StoreError> {
    match list(store)?.into_iter().find(|t| t.id == id) {
        Some(mut token) => {
            token.revoked = true;
            put(store, &token)?;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Uses a token up: `sign` is called inside the transaction, and its certificate recorded with the use.
///
/// # Errors
/// The token is not usable, or signing or the store failed; the token is then as it was.
pub fn redeem<E: From<TokenError>>(
    store: &Store,
    presented: &str,
    now: i64,
    sign: impl FnOnce(&Token) -> Result<Issued, E>,
) -> Result<(Token, Issued), E> {
    let fail = |error: StoreError| E::from(TokenError::Store(error));
    let Some((id, secret)) = presented.split_once('.') else {
        return Err(TokenError::Unknown.into());
    };
    // One write transaction at a time: concurrent uses queue here and see the first one's result.
    let write = store.database.begin_write().map_err(|e| fail(failed(e)))?;
    let result = (|| {
        let mut tokens = write.open_table(TOKENS).map_err(|e| fail(failed(e)))?;
        let token: Option<Token> = tokens
            .get(id)
            .map_err(|e| fail(failed(e)))?
            .and_then(|v| serde_json::from_slice(v.value()).ok());
        let expected = hex(digest(&SHA256, secret.as_bytes()).as_ref());
        let mut token = token
            .filter(|t| {
                aws_lc_rs::constant_time::verify_slices_are_equal(
                    t.secret_sha256.as_bytes(),
                    expected.as_bytes(),
                )
                .is_ok()
            })
            .ok_or(TokenError::Unknown)?;
        let state = token.state(now);
        if state != "unused" {
            return Err(TokenError::State {
                id: token.id.clone(),
                state,
                workload: token.workload.clone(),
            }
            .into());
        }
        let issued = sign(&token)?;
        token.used_for = Some(issued.serial.clone());
        let bytes = serde_json::to_vec(&token).map_err(|e| fail(failed(e)))?;
        tokens
            .insert(id, bytes.as_slice())
            .map_err(|e| fail(failed(e)))?;
        let record = record(&token.workload, &token.spiffe_id, &issued).map_err(fail)?;
        write
            .open_table(ISSUED)
            .map_err(|e| fail(failed(e)))?
            .insert(issued.serial.as_str(), record.as_slice())
            .map_err(|e| fail(failed(e)))?;
        Ok((token, issued))
    })();
    match result {
        Ok(done) => {
            write.commit().map_err(|e| fail(failed(e)))?;
            Ok(done)
        }
        Err(error) => Err(error),
    }
}

fn record(workload: &str, spiffe_id: &str, issued: &Issued) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&IssueRecord {
        workload: workload.to_owned(),
        spiffe_id: spiffe_id.to_owned(),
        not_after: issued.not_after,
    })
    .map_err(failed)
}

/// Records a certificate that was issued for a renewal.
///
/// # Errors
/// The store failed.
pub fn record_renewal(
    store: &Store,
    workload: &str,
    spiffe_id: &str,
    issued: &Issued,
) -> Result<(), StoreError> {
    let write = store.database.begin_write().map_err(failed)?;
    let bytes = record(workload, spiffe_id, issued)?;
    write
        .open_table(ISSUED)
        .map_err(failed)?
        .insert(issued.serial.as_str(), bytes.as_slice())
        .map_err(failed)?;
    write.commit().map_err(failed)
}

/// Expiry of the last certificate issued to each workload, Unix seconds.
///
/// # Errors
/// The store failed.
pub fn last_expiries(store: &Store) -> Result<std::collections::BTreeMap<String, i64>, StoreError> {
    let read = store.database.begin_read().map_err(failed)?;
    let mut expiries = std::collections::BTreeMap::new();
    for entry in read
        .open_table(ISSUED)
        .map_err(failed)?
        .iter()
        .map_err(failed)?
    {
        let (_, value) = entry.map_err(failed)?;
        let record: IssueRecord = serde_json::from_slice(value.value()).map_err(failed)?;
        let expiry = expiries.entry(record.workload).or_insert(0);
        *expiry = record.not_after.max(*expiry);
    }
    Ok(expiries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn issued() -> Issued {
        Issued {
            chain: vec![],
            serial: "01".into(),
            not_after: 100,
        }
    }

    #[test]
    fn of_a_hundred_concurrent_uses_exactly_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let (_, secret) = create(&store, "ns/a", "spiffe://td/a", 0, 0).unwrap();
        let threads: Vec<_> = (0..100)
            .map(|_| {
                let (store, text) = (Arc::clone(&store), secret.expose().clone());
                std::thread::spawn(move || {
                    redeem(&store, &text, 1, |_| Ok::<_, TokenError>(issued())).is_ok()
                })
            })
            .collect();
        let successes = threads
            .into_iter()
            .filter(|_| true)
            .map(|t| t.join().unwrap())
            .filter(|ok| *ok)
            .count();
        assert_eq!(successes, 1);
    }

    #[test]
    fn a_token_that_is_expired_revoked_forged_or_whose_signing_failed_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let sign = |_: &Token| Ok::<_, TokenError>(issued());
        let (token, secret) = create(&store, "ns/a", "spiffe://td/a", 10, 0).unwrap();
        let forged = format!("{}.{}", token.id, "0".repeat(64));
        for bad in ["", "x", "x.y", forged.as_str()] {
            assert!(
                matches!(redeem(&store, bad, 1, sign), Err(TokenError::Unknown)),
                "{bad}"
            );
        }
        assert!(
            redeem(&store, secret.expose(), 10, sign)
                .unwrap_err()
                .to_string()
                .contains("expired")
        );
        let refused = redeem(&store, secret.expose(), 1, |_| {
            Err::<Issued, _>(TokenError::Unknown)
        });
        assert!(
            refused.is_err(),
            "a failed signing does not use the token up"
        );
        redeem(&store, secret.expose(), 1, sign).unwrap();
        assert!(
            redeem(&store, secret.expose(), 1, sign)
                .unwrap_err()
                .to_string()
                .contains("used")
        );
        let (token, secret) = create(&store, "ns/a", "spiffe://td/a", 10, 0).unwrap();
        assert!(revoke(&store, &token.id).unwrap() && !revoke(&store, "nobody").unwrap());
        assert!(
            redeem(&store, secret.expose(), 1, sign)
                .unwrap_err()
                .to_string()
                .contains("revoked")
        );
    }
}
