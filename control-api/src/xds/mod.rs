//! Delta xDS: one state machine per stream, and the gRPC service that drives it.

pub mod server;
pub mod state;
