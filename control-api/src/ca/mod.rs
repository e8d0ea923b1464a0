//! The certificate authority: signs SVIDs for identities that were proven.
//!
//! Of a request only the public key is used. The certificate is built from scratch, so that nothing a caller asks for can
//! get into it; a request that asks for anything is refused with the reason. Who may have which identity is not decided
//! here.

mod authorities;
mod authority;
mod leaf;
mod request;
mod root;

pub use authorities::{Authorities, Phase, State, StepError};
pub use authority::{Authority, BACKDATE, Issued, Serial};
pub(crate) use authority::{hex, pem, unhex};
pub use request::{MAX_REQUEST, RequestError, RequestedKey};

use std::path::PathBuf;

use crate::files::FileError;

/// Why the authority cannot be opened or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the authority cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the authority does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// The signed certificate cannot be used.
    #[error("the certificate made is not usable: {0}")]
    Identity(#[from] mesh_auth::tls::IdentityError),
    /// The operating system has no randomness.
    #[error("cannot sign: no randomness")]
    Randomness,
    /// What leads from the root before to this one cannot be read.
    #[error("the recorded bridge between two roots is damaged: restore the store from a backup")]
    Bridge,
    /// The authority's own certificate has ended.
    #[error("the authority's certificate has expired: replace ca.pem and ca.key")]
    Expired,
}
