//! JWT-SVIDs: tokens that say a workload's identity to whoever trusts the mesh's keys.
//!
//! [`keys`] owns the signing keys and their rotation, [`token`] is the shape of what is signed, [`discovery`] says to
//! OpenID Connect clients where the keys are.

pub mod discovery;
pub mod keys;
pub mod token;

pub use keys::JwtKeys;
