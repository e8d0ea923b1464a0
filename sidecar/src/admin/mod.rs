//! What people and orchestrators ask a sidecar over HTTP: is it ready, what does it hold, what does it count.

pub mod readiness;

pub use readiness::Readiness;
