//! The control API: certificate authority, registry, policy store, delta-xDS server and administration.
//!
//! One process, one embedded store. Writes go through [`registry`], which commits them to the [`store`] and publishes an
//! immutable world; [`xds`] gives each sidecar what it may see of it; [`issuance`] has the [`ca`] sign for identities that
//! were proven. Every caller is known by [`listener`] before anything is answered.

pub mod args;
pub mod program;

pub mod listener;

pub mod admin;
pub mod certificates;
pub mod reports;
pub mod xds;

pub mod attest;
pub mod federation;
pub mod issuance;
pub mod jwt;
pub mod keysets;
pub mod registry;
pub mod rotation;
pub mod status;
pub mod trust;

pub mod ca;
pub mod fetch;
pub mod store;

pub mod clock;
pub mod files;
pub mod metrics;
pub mod operator_files;
pub mod propagation;
pub mod throttle;
