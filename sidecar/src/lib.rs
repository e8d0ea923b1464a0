//! The data plane: one process beside each workload.
//!
//! In the order in which a connection meets them: capture redirects the application's traffic to the listeners of a
//! worker; [`outbound`] finds the destination in the [`snapshot`] and carries requests over the pooled mTLS connections
//! of [`pool`]; [`inbound`] authenticates the peer, decides, and forwards to the application; [`http`] and [`tunnel`]
//! move the bytes. [`control`] keeps the snapshot and the certificate fresh on a thread of its own, where [`doors`]
//! hand the same identity to the application; [`admin`] and [`telemetry`] tell people about it.

pub mod args;
pub mod capture_cli;
pub mod program;

pub mod worker;

pub mod inbound;
pub mod outbound;

pub mod http;
pub mod pool;
pub mod tunnel;

pub mod directory;
pub mod key_requests;
pub mod ledger;
pub mod lookups;
pub mod mailbox;
pub mod snapshot;
mod stand_in;
mod wall_clock;

pub mod admin;
pub mod control;
pub mod doors;
pub mod telemetry;
#[cfg(test)]
mod testing;
