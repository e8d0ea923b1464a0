//! Keys of token issuers: fetched in the background, kept through outages, published to the sidecars that need them.
//!
//! One task per issuer, so that a slow or broken one delays no other. What an issuer answers replaces what is held only if
//! it is a usable key set; the last good one stays in force, also over a restart, and its age is a metric.

mod discovery;
mod jwks;
mod keeper;
mod schedule;
mod service;

pub use jwks::{JwksError, Keys, read};
pub use keeper::{Keeper, Refetched, State};
pub use schedule::Intervals;
pub use service::KeySetApi;
