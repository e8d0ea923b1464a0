//! The rules in real network namespaces: what the kernel holds, and where real connections end up.
//!
//! Needs root or unprivileged user namespaces, the `ip` program (iproute2) and `nft` (nftables) to compare with.

// Helpers outside of test functions unwrap as well: a panic with the error is what a failing test should show.
#![allow(clippy::unwrap_used)]

mod inbound;
mod lifecycle;
mod outbound;
mod script;
mod support;
mod unprivileged;
