//! Connections kept for reuse, per worker: mTLS to peers, plaintext to the application.

pub mod app;
pub mod balance;
pub mod clear;
pub mod client;
pub mod direct;
pub mod mesh;
pub mod warm;
