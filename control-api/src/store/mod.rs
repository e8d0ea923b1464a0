//! The store: one embedded transactional file with documents, join tokens and what was issued.
//!
//! Every write is one durable transaction; a crash leaves the last committed state. There is one writer: a second process
//! is refused by the file's lock. What the records mean is decided elsewhere.

pub mod bundles;
pub mod documents;
pub mod history;
pub mod issued;
pub mod jwt_keys;
pub mod keysets;
pub mod roots;
pub mod seen;
pub mod tokens;

use std::fmt::Display;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Numbers of the store as a whole.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Texts of the store as a whole.
const FACTS: TableDefinition<'_, &str, &str> = TableDefinition::new("facts");
const FORMAT: &str = "format";
const TRUST_DOMAIN: &str = "trust_domain";
const ROOT: &str = "root_sha256";
/// Layout of the tables; a program refuses one that it does not know.
const CURRENT_FORMAT: u64 = 1;
/// Name of the file in the data directory.
const FILE: &str = "store.redb";
const CACHE: usize = 32 << 20;

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("{}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A transaction failed; nothing of it was kept.
    #[error("the store failed, nothing was written: {0}")]
    Transaction(String),
    /// A stored record does not parse.
    #[error("record '{key}' of the store is damaged: {reason}; restore the file from a backup")]
    Damaged {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// An error of the database as ours.
pub(crate) fn failed(error: impl Display) -> StoreError {
    StoreError::Transaction(error.to_string())
}

/// The store.
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// True if there is a store in `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Opens the store of `trust_domain` in `dir`, making it if it is not there. Every page's checksum is verified.
    ///
    /// # Errors
    /// Names the file: in use by another process, damaged, of another trust domain, or written by a newer program.
    pub fn open(dir: &Path, trust_domain: &str) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let refuse = |reason: String| StoreError::Open {
            path: path.clone(),
            reason,
        };
        // The database would take an empty file for a new one.
        if std::fs::metadata(&path).is_ok_and(|m| m.len() == 0) {
            return Err(refuse(
                "the store is empty, cut off by a full disk or a crash of the machine: restore it from a backup, or \
                 remove the whole data directory to start afresh"
                    .into(),
            ));
        }
        if !path.exists() {
            Self::make(dir, &path, trust_domain)?;
        }
        let store = Self {
            database: open_database(&path).map_err(refuse)?,
            path: path.clone(),
        };
        store.take_possession(trust_domain)?;
        Ok(store)
    }

    /// Makes a store beside its place and moves it there complete: a crash leaves none, never half of one.
    fn make(dir: &Path, path: &Path, trust_domain: &str) -> Result<(), StoreError> {
        let beside = dir.join(format!("{FILE}.{}.new", std::process::id()));
        let failed = |error: std::io::Error| StoreError::Open {
            path: path.to_owned(),
            reason: format!("cannot be made: {error}"),
        };
        let _ = std::fs::remove_file(&beside);
        let store = Self {
            database: open_database(&beside).map_err(|reason| StoreError::Open {
                path: beside.clone(),
                reason,
            })?,
            path: beside.clone(),
        };
        store.take_possession(trust_domain)?;
        drop(store);
        // A link, not a rename: the store of a process that was faster is not replaced.
        match std::fs::hard_link(&beside, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        std::fs::remove_file(&beside).map_err(failed)?;
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the tables of a new store; checks that an existing one is ours.
    fn take_possession(&self, trust_domain: &str) -> Result<(), StoreError> {
        let refuse = |reason: String| {
            Err(StoreError::Open {
                path: self.path.clone(),
                reason,
            })
        };
        self.write(|write| {
            documents::make_tables(write)?;
            bundles::make_table(write)?;
            history::make_tables(write)?;
            tokens::make_table(write)?;
            issued::make_tables(write)?;
            jwt_keys::make_table(write)?;
            keysets::make_table(write)?;
            roots::make_table(write)?;
            seen::make_table(write)?;
            let mut meta = write.open_table(META).map_err(failed)?;
            let mut facts = write.open_table(FACTS).map_err(failed)?;
            let format = redb::ReadableTable::get(&meta, FORMAT)
                .map_err(failed)?
                .map(|v| v.value());
            match format {
                None => {
                    meta.insert(FORMAT, CURRENT_FORMAT).map_err(failed)?;
                    facts.insert(TRUST_DOMAIN, trust_domain).map_err(failed)?;
                    return Ok(());
                }
                Some(CURRENT_FORMAT) => {}
                Some(other) => {
                    return refuse(format!(
                        "has format {other}; this program knows {CURRENT_FORMAT}: start the version that wrote it"
                    ));
                }
            }
            let held = redb::ReadableTable::get(&facts, TRUST_DOMAIN)
                .map_err(failed)?
                .map(|v| v.value().to_owned())
                .unwrap_or_default();
            if held != trust_domain {
                return refuse(format!(
                    "belongs to trust domain '{held}', not '{trust_domain}': correct --trust-domain or --data-dir"
                ));
            }
            Ok(())
        })
    }

    /// Runs `change` in a transaction that is durable when this returns, or leaves no trace.
    ///
    /// # Errors
    /// What `change` says, or that the transaction failed.
    pub fn write<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        // One write transaction at a time: concurrent ones queue here and see the result of the one before.
        let write = self.database.begin_write().map_err(failed)?;
        let result = change(&write)?;
        write.commit().map_err(failed)?;
        Ok(result)
    }

    /// Runs `look` on a consistent state.
    ///
    /// # Errors
    /// What `look` says, or that the store cannot be read.
    pub fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        look(&self.database.begin_read().map_err(failed)?)
    }
}

fn open_database(path: &Path) -> Result<Database, String> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("cannot be opened: {error}"))?;
    let open = || {
        Builder::new()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)
    };
    // The database promises an error for a damaged file; a panic must not take its place all the same.
    match std::panic::catch_unwind(open) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(
            "another control-api is using this data directory; there can be one writer only: stop it first".into(),
        ),
        Ok(Err(DatabaseError::UpgradeRequired(version))) => Err(format!(
            "written in an older file format ({version}): start the version that wrote it"
        )),
        Ok(Err(DatabaseError::Storage(redb::StorageError::Io(error))))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            Err(format!("cannot be opened: {error}"))
        }
        Ok(Err(error)) => Err(damaged(&error)),
        Err(_) => Err(damaged(&"the file makes no sense")),
    }
}

fn damaged(reason: &dyn Display) -> String {
    format!(
        "the store is damaged ({reason}): restore it from a backup; it was not changed by this attempt to start"
    )
}

/// A record as it is stored.
pub(crate) fn encode(record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(failed)
}

/// A record as it was stored.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Damaged {
        key: key.to_owned(),
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests;
