//! Tokens that speak for a request's subject: found, verified, held to their caller.
//!
//! An own verifier, because the well-kept libraries accept what must not be accepted here (unknown `crit`, `b64`, tokens
//! without `exp`, members given twice) or bring a second TLS stack; it is tested differentially against one of them.
//! Signatures are aws-lc-rs's. The algorithm belongs to the key, never to the token; `none` and HMAC do not exist.
//!
//! What a token costs is bounded by its rule and not by what it says: its length is judged before anything is read or
//! allocated, decoding allocates three quarters of that length, claims hold at most 2,048 values 16 deep, and at most
//! four keys are tried (`tests/allocation.rs` counts). Headers that verified tokens had are not parsed again.
//!
//! A [`VerifiedToken`] is a token that was verified: its constructors are verification, an introspection answer, and
//! one that says in its name that nothing was verified. Where further work plugs in: introspection answers go through
//! [`Provider::accept_introspected`]; [`RevokedTokens`] are asked at every use, beside [`Verified::check_time`]; the end of streams asks [`Verified::stream_end`].

mod places;

mod compact;

mod algorithm;
mod keys;

mod binding;
mod checks;

mod compile;
mod jwt_svid;
mod policy;
mod provider;
pub(crate) mod revoked;
mod verified;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use binding::Caller;
pub use checks::Profile;
pub use compact::HeaderMemo;
pub use compile::{TokenPolicyError, key_set_name, validate, validate_key_set};
pub use jwt_svid::{JwtSvidVerifier, VerifiedJwtSvid};
pub use keys::{Ignored, KeySetError, Keys, MAX_KEY_SET_BYTES};
pub use places::{Found, Presented};
pub use policy::{Outcome, Refusal, TokenPolicy};
pub use provider::{Provider, StreamEnd, Verified};
pub use revoked::RevokedTokens;
pub use verified::{Fingerprint, VerifiedToken};
