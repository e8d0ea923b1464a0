//! Join tokens: one-time secrets, each bound to a workload and its identity.
//!
//! Of the secret only a digest is kept. Using one up is part of the transaction that records the certificate issued for
//! it, so that of any number of concurrent uses one succeeds, also when the process dies in between.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use mesh_auth::Secret;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, decode, encode, failed};
use crate::ca::hex;

const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("join_tokens");
/// Lifetime where none was asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// Longest lifetime.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
/// How long a token that can no longer be used is still listed, seconds.
const KEPT: i64 = 7 * 86_400;
/// Tokens at the same time; far more than sidecars can be waiting for.
const MAX_TOKENS: u64 = 100_000;

/// Why a token cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing that was made here.
    #[error("the join token is not known: make one with `meshctl token create`")]
    Unknown,
    /// Used, expired or revoked.
    #[error(
        "join token {id} for '{workload}' is {state}: make another with `meshctl token create {workload}`"
    )]
    State {
        /// Public id.
        id: String,
        /// Workload it is bound to.
        workload: String,
        /// What became of it.
        state: State,
    },
    /// Too many tokens.
    #[error("there are {MAX_TOKENS} join tokens already: wait until some expire")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What can become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be used.
    Unused,
    /// It was used.
    Used,
    /// Its time is over.
    Expired,
    /// An operator made it unusable.
    Revoked,
}

impl State {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Public id.
    pub id: String,
    /// Workload it is bound to, `namespace/name`.
    pub workload: String,
    /// Identity it is bound to.
    pub spiffe_id: String,
    /// End, Unix seconds.
    pub expires_at: i64,
    /// When it was made, Unix seconds.
    pub created_at: i64,
    /// Serial number of the certificate it was used for.
    pub used_for: Option<String>,
    /// An operator made it unusable.
    pub revoked: bool,
    secret_sha256: String,
}

impl Token {
    /// What has become of it.
    pub fn state(&self, now: i64) -> State {
        if self.used_for.is_some() {
            State::Used
        } else if self.revoked {
            State::Revoked
        } else if now >= self.expires_at {
            State::Expired
        } else {
            State::Unused
        }
    }
}

pub(super) fn make_table(write: &WriteTransaction) -> Result<(), StoreError> {
    write.open_table(TOKENS).map(drop).map_err(failed)
}

/// Makes a token. The text is what the sidecar presents, and is shown once.
///
/// # Errors
/// There are too many, or the store failed.
pub fn create(
    store: &Store,
    workload: &str,
    spiffe_id: &str,
    ttl: Duration,
    now: i64,
) -> Result<(Token, Secret<String>), TokenError> {
    let random =
        |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).map_err(|_| failed("no randomness"));
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    random(&mut id)?;
    random(&mut secret)?;
    let secret = Secret::new(hex(&secret));
    let ttl = i64::try_from(ttl.min(MAX_TTL).as_secs()).unwrap_or(i64::MAX);
    let token = Token {
        id: hex(&id),
        workload: workload.to_owned(),
        spiffe_id: spiffe_id.to_owned(),
        expires_at: now.saturating_add(ttl),
        created_at: now,
        used_for: None,
        revoked: false,
        secret_sha256: fingerprint(secret.expose()),
    };
    store.write(|write| {
        let mut tokens = write.open_table(TOKENS).map_err(failed)?;
        if redb::ReadableTableMetadata::len(&tokens).map_err(failed)? >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        tokens
            .insert(token.id.as_str(), encode(&token)?.as_slice())
            .map_err(failed)?;
        Ok(())
    })?;
    let text = Secret::new(format!("{}.{}", token.id, secret.expose()));
    Ok((token, text))
}

/// Every token, by time of creation.
///
/// # Errors
/// The store failed.
pub fn list(store: &Store) -> Result<Vec<Token>, StoreError> {
    store.read(|read| {
        let mut tokens = Vec::new();
        for entry in read
            .open_table(TOKENS)
            .map_err(failed)?
            .iter()
            .map_err(failed)?
        {
            let (key, value) = entry.map_err(failed)?;
            tokens.push(decode::<Token>(key.value(), value.value())?);
        }
        tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(tokens)
    })
}

/// Makes a token unusable; false if there is none with this id.
///
/// # Errors
/// The store failed.
pub fn revoke(store: &Store, id: &str) -> Result<bool, StoreError> {
    store.write(|write| {
        let mut tokens = write.open_table(TOKENS).map_err(failed)?;
        let Some(mut token) = get(&tokens, id)? else {
            return Ok(false);
        };
        token.revoked = true;
        tokens
            .insert(id, encode(&token)?.as_slice())
            .map_err(failed)?;
        Ok(true)
    })
}

/// Checks a presented token without using it.
///
/// # Errors
/// It cannot be used.
pub fn check(read: &ReadTransaction, presented: &str, now: i64) -> Result<Token, TokenError> {
    let tokens = read.open_table(TOKENS).map_err(failed)?;
    usable(&tokens, presented, now)
}

/// Uses a presented token up for the certificate `serial`.
///
/// # Errors
/// It cannot be used.
pub fn consume(
    write: &WriteTransaction,
    presented: &str,
    serial: &str,
    now: i64,
) -> Result<Token, TokenError> {
    let mut tokens = write.open_table(TOKENS).map_err(failed)?;
    let mut token = usable(&tokens, presented, now)?;
    token.used_for = Some(serial.to_owned());
    tokens
        .insert(token.id.as_str(), encode(&token)?.as_slice())
        .map_err(failed)?;
    Ok(token)
}

/// Forgets tokens that could not be used for long.
///
/// # Errors
/// The store failed.
pub fn forget_old(write: &WriteTransaction, now: i64) -> Result<(), StoreError> {
    let mut tokens = write.open_table(TOKENS).map_err(failed)?;
    tokens
        .retain(|_, bytes| {
            serde_json::from_slice::<Token>(bytes)
                .is_ok_and(|token| token.expires_at.saturating_add(KEPT) > now)
        })
        .map_err(failed)
}

fn get(
    tokens: &impl ReadableTable<&'static str, &'static [u8]>,
    id: &str,
) -> Result<Option<Token>, StoreError> {
    let bytes = tokens.get(id).map_err(failed)?;
    bytes.map(|bytes| decode(id, bytes.value())).transpose()
}

fn usable(
    tokens: &impl ReadableTable<&'static str, &'static [u8]>,
    presented: &str,
    now: i64,
) -> Result<Token, TokenError> {
    let (id, secret) = presented.split_once('.').ok_or(TokenError::Unknown)?;
    let token = get(tokens, id)?.ok_or(TokenError::Unknown)?;
    let shown = fingerprint(secret);
    if verify_slices_are_equal(token.secret_sha256.as_bytes(), shown.as_bytes()).is_err() {
        return Err(TokenError::Unknown);
    }
    match token.state(now) {
        State::Unused => Ok(token),
        state => Err(TokenError::State {
            id: token.id,
            workload: token.workload,
            state,
        }),
    }
}

fn fingerprint(secret: &str) -> String {
    hex(digest(&SHA256, secret.as_bytes()).as_ref())
}
