//! What people and orchestrators ask a sidecar over HTTP: is it ready, what does it hold, what does it count.
//!
//! Three surfaces: everything on loopback (admin), readiness alone and metrics alone for the outside. None of them tells
//! a secret; the admin surface additionally refuses whoever came through a browser or from another machine.

pub mod readiness;

pub mod dump;
mod metrics;
pub mod routes;
pub mod server;

pub use readiness::Readiness;
pub use routes::{AdminState, Surface};
pub use server::{BindError, bind, serve};
