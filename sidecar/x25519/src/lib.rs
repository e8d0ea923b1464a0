//! X25519 key shares, each for one agreement (RFC 7748 §6.1).

mod library;
mod share;

pub use share::{KeyShare, NoRandomness, prepare};
