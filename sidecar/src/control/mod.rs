//! The control thread's work: the certificate, the discovery stream, the snapshot in force, and the last good state.
//!
//! [`run`] owns all of it. Everything below is one future on one thread: certificates and the stream take turns, nothing
//! here is on the path of a request. Fails closed: until a certificate and a complete set of resources are held, the
//! snapshot in force refuses everything.

pub mod clock;

pub mod certificate;
pub mod keystore;
pub mod outside;
pub mod proof;

mod answers;
pub mod demand;
pub mod enforcement;
pub mod resource;
pub mod stream;
pub mod xds;

pub mod report;

pub mod persist;
pub mod sealed_file;
pub mod state_file;
mod turn;

pub mod backoff;
pub mod connect;
pub mod publisher;
mod refetch;
pub mod status;

mod run;

#[cfg(test)]
pub(crate) mod fake_api;
#[cfg(test)]
mod live_tests;

pub use clock::{Clock, SystemClock};
pub use enforcement::Enforcement;
pub use proof::Proofs;
pub use run::{ControlConfig, describe_metrics, run};
pub use status::ControlStatus;
