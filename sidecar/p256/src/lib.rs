//! ECDSA over P-256 with SHA-256, verification only, by keys that come again (FIPS 186-5 §6.4.2).
//!
//! A library that meets a key for the first time has to compute with what it was given. Of a key that is known beforehand
//! (a trust root, an issuer's, a peer's that comes again) multiples can be kept, as they are of the generator, and a
//! verification is then a quarter of the work. [`PreparedKey`] is such a key.
//!
//! Only what is public comes here: keys to verify with, digests and signatures. The time that it takes depends on them, and
//! nothing in this crate may be used with a secret; so a multiplication by a number is not to be had from outside.
//!
//! Strict: a point is on the curve and uncompressed, `r` and `s` are between 1 and n - 1. Sums are right for all points,
//! for the owner of a key chooses which are added.

mod ecdsa;
mod field;
mod inverse;
mod limbs;
#[cfg(test)]
mod oracle;
mod point;
mod scalar;
mod table;

pub use ecdsa::{InvalidPoint, PreparedKey};
