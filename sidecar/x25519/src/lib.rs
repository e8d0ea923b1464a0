//! X25519 key shares, each for one agreement (RFC 7748 §6.1), and the agreement.
//!
//! Each handshake has a key pair of its own, so that what is forward secret stays so; but nothing says that a pair is made
//! when it is needed. Where the processor multiplies eight numbers at once (AVX-512 with IFMA), eight pairs take little
//! longer than one takes a library. A thread makes eight, and again when it has given them away one by one, each to one
//! handshake. What waits is in memory, as a secret in use is, and wiped as that is: [`KeyShare::agree`] takes the share. The
//! agreement has one point to multiply, the peer's, and there it is the four products of a step that are made at once.
//!
//! Nothing secret decides a branch or an address, here (`eight` says why, place by place) or in the library, aws-lc, that does
//! all of it on other processors.
//!
//! This crate does no TLS and keeps nothing for longer than one agreement.

#[cfg_attr(not(target_arch = "x86_64"), path = "none.rs")]
mod eight;
mod library;
mod share;

pub use share::{KeyShare, NoRandomness, prepare};
