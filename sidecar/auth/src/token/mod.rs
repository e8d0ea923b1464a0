//! Tokens that speak for a request's subject.
//!
//! A [`VerifiedToken`] is a token that was verified: its constructors are verification, an introspection answer, and
//! one that says in its name that nothing was verified.

mod verified;

pub use verified::{Fingerprint, VerifiedToken};
