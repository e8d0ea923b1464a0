//! Keeps key and certificate over a restart, only in a directory that the operator names for it.
//!
//! The directory should be memory-backed (tmpfs): a key that touches a disk can be recovered from it. The file is readable
//! by its owner alone and refused when damaged.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_auth::Secret;
use prost::Message;
use rustls_pki_types::CertificateDer;
use zeroize::{Zeroize, Zeroizing};

use super::sealed_file::{self, Kind, SealedError};

const FILE_NAME: &str = "identity.sealed";
const KIND: Kind = Kind {
    magic: *b"PSTNKEY\n",
    version: 1,
};
/// Filesystems that live in memory: tmpfs and ramfs.
const MEMORY_BACKED: [u32; 2] = [0x0102_1994, 0x8584_58f6];

#[derive(Clone, PartialEq, ::prost::Message)]
struct StoredIdentity {
    #[prost(string, tag = "1")]
    workload: String,
    #[prost(int64, tag = "2")]
    issued_at: i64,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    chain: Vec<Vec<u8>>,
}

/// A key with its certificate chain, as kept.
pub struct Kept {
    /// PKCS#8.
    pub key: Secret<Vec<u8>>,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it was issued, Unix seconds.
    pub issued_at: i64,
}

/// The directory for one workload's key.
#[derive(Debug, Clone)]
pub struct KeyStore {
    path: PathBuf,
    workload: String,
}

impl KeyStore {
    /// Uses `directory`, made (mode 0700) if it is not there. Says in the log if it is not memory-backed.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path, workload: &str) -> Result<Self, SealedError> {
        sealed_file::make_directory(directory)?;
        if !is_memory_backed(directory) {
            tracing::warn!(
                directory = %directory.display(),
                "the key directory is not on a memory-backed filesystem (tmpfs): the private key will be on a disk"
            );
        }
        Ok(Self {
            path: directory.join(FILE_NAME),
            workload: workload.to_owned(),
        })
    }

    /// Keeps a key and its chain. Blocks on the filesystem.
    ///
    /// # Errors
    /// Names the file and the step that failed.
    pub fn save(&self, kept: &Kept) -> Result<(), SealedError> {
        let mut stored = StoredIdentity {
            workload: self.workload.clone(),
            issued_at: kept.issued_at,
            key: kept.key.expose().clone(),
            chain: kept.chain.iter().map(|der| der.to_vec()).collect(),
        };
        let payload = Zeroizing::new(stored.encode_to_vec());
        stored.key.zeroize();
        sealed_file::write(&self.path, KIND, &payload)
    }

    /// What was kept last; `None` when there is nothing usable, after saying why in the log.
    pub fn load(&self) -> Option<Kept> {
        let payload = match sealed_file::read(&self.path, KIND) {
            Ok(payload) => payload?,
            Err(error) => {
                tracing::error!(%error, "the kept key cannot be used; a join token is needed");
                if matches!(error, SealedError::Corrupt { .. }) {
                    self.forget();
                }
                return None;
            }
        };
        match StoredIdentity::decode(payload.as_slice()) {
            Ok(stored) if stored.workload == self.workload => Some(Kept {
                key: Secret::new(stored.key),
                chain: stored.chain.into_iter().map(CertificateDer::from).collect(),
                issued_at: stored.issued_at,
            }),
            Ok(mut other) => {
                other.key.zeroize();
                tracing::error!(
                    file = %self.path.display(), belongs_to = other.workload,
                    "the kept key belongs to another workload; a join token is needed"
                );
                None
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the kept key cannot be used");
                self.forget();
                None
            }
        }
    }

    /// Removes a file that cannot be used: a damaged key is of no use to anybody who may look at it.
    fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove the damaged key file");
        }
    }
}

fn is_memory_backed(directory: &Path) -> bool {
    let Ok(statistics) = rustix::fs::statfs(directory) else {
        return false;
    };
    // The type of `f_type` differs between architectures; the magic numbers are 32 bits wide on all of them.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast
    )]
    let magic = statistics.f_type as u32;
    MEMORY_BACKED.contains(&magic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn kept() -> Kept {
        Kept {
            key: Secret::new(b"a key".to_vec()),
            chain: vec![CertificateDer::from(b"leaf".to_vec())],
            issued_at: 17,
        }
    }

    #[test]
    fn what_is_kept_comes_back_for_the_same_workload_only_and_is_private() {
        let dir = tempfile::tempdir().expect("dir");
        let inner = dir.path().join("keys");
        let store = KeyStore::open(&inner, "demo/web-1").expect("store");
        assert!(store.load().is_none());
        store.save(&kept()).expect("save");
        let back = store.load().expect("kept");
        assert_eq!(back.key.expose(), b"a key");
        assert_eq!((back.chain.len(), back.issued_at), (1, 17));
        assert!(
            KeyStore::open(&inner, "demo/other")
                .expect("store")
                .load()
                .is_none()
        );
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&store.path), 0o600);
    }

    #[test]
    fn a_damaged_key_file_is_removed_and_not_used() {
        let dir = tempfile::tempdir().expect("dir");
        let store = KeyStore::open(dir.path(), "demo/web-1").expect("store");
        store.save(&kept()).expect("save");
        let mut bytes = fs::read(&store.path).expect("bytes");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&store.path, bytes).expect("write");
        assert!(store.load().is_none());
        assert!(!store.path.exists());
    }
}
