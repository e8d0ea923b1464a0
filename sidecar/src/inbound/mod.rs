//! Traffic to the application: from peers over mTLS, and captured plaintext where the port's mode permits it.
//!
//! `mesh` accepts on the mesh port, `plain` on the inbound capture port; both end in `request` (HTTP, through the one
//! `gate`) or a tunnel (opaque bytes), after the decision.

pub mod decide;
pub mod gate;
pub mod introspect;
pub mod key_misses;
pub mod lifetime;
pub mod mesh;
pub mod plain;
pub mod request;
mod shadow;
pub mod source;
mod timing;
pub mod token;
mod upgrade;
