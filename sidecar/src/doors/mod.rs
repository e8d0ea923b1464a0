//! The doors that other SPIFFE software knocks on: the SPIFFE Workload API and Envoy's secret discovery service, on one
//! Unix socket beside the application.
//!
//! Everything runs on the control thread, and everything is bounded: connections, streams, messages and their pace, so
//! that nobody who may open the socket gets more out of it than his own disappointment. The application gets a certificate
//! and key of its own for the workload's identity ([`app_identity`]): the sidecar's key never leaves the sidecar.

mod authority;

pub mod admission;
pub mod socket;

pub mod app_identity;
pub mod jwt_svids;
pub mod material;

mod status;
mod structure;

pub mod sds;
pub mod workload_api;

mod run;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod testing;

pub use run::{Doors, describe_metrics, run};
