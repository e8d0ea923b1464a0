//! Discovery: delta xDS, each sidecar given what it may see.
//!
//! The protocol is a state machine without I/O ([`state`], made of one [`subscription`] per type); [`server`] puts a
//! stream around it.

mod nack;
pub mod server;
pub mod state;
mod subscription;
