//! Why resources make no snapshot.

use mesh_auth::revocation::RevocationError;

use crate::directory::DirectoryError;

/// Why a snapshot could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A trust bundle does not parse.
    #[error("trust bundle '{name}': {reason}")]
    Bundle {
        /// The trust domain.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A revocation is malformed.
    #[error("revocation '{name}': {error}")]
    Revocation {
        /// Its name.
        name: String,
        /// What is wrong.
        error: RevocationError,
    },
    /// The policies do not compile.
    #[error("authorization policy: {0}")]
    Policy(#[from] mesh_auth::policy::PolicyError),
    /// The token rules do not compile.
    #[error("request authentication: {0}")]
    Tokens(#[from] mesh_auth::token::TokenPolicyError),
    /// A latency budget makes no sense, or is one too many.
    #[error("latency budget '{name}': {reason}")]
    Budget {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A workload or service is malformed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The identity cannot be used.
    #[error("identity: {0}")]
    Identity(String),
}
