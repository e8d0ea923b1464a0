//! The decisions of the mesh: who a peer is, whether it is to be believed, and what it may do.
//!
//! Pure functions of input, snapshot and time. Nothing here opens a socket, reads a clock, or waits; the sidecar
//! enforces with it, the control API validates with it, and policy tests run it offline: one engine.

mod reason;
mod secret;
mod spiffe;

pub mod address;
pub mod bundle;
mod der;
mod prepared;
pub mod revocation;
pub mod svid;
pub mod tls;

pub mod headers;
pub mod path;

pub mod claims;
pub mod token;

pub mod policy;

pub mod latency;

#[cfg(test)]
mod testing;

pub use reason::Reason;
pub use secret::Secret;
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
