//! The rules in real network namespaces: what the kernel holds, and where real connections end up.
//!
//! Needs root or unprivileged user namespaces, the `ip` program (iproute2) and `nft` (nftables) to compare with.

mod inbound;
mod lifecycle;
mod outbound;
mod script;
mod support;
mod unprivileged;
