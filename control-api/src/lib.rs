//! The control API: certificate authority, registry, policy store, delta-xDS server and administration.
//!
//! One process, one embedded store. Writes go through [`store`], which publishes an immutable view; [`registry`] turns
//! the view into resources; [`xds`] gives each sidecar what it may see; [`ca`] signs for identities that were proven.

pub mod args;
pub mod program;

pub mod admin;
pub mod certificates;
pub mod listener;
pub mod status;
pub mod xds;

pub mod registry;

pub mod ca;
pub mod store;
pub mod tokens;
