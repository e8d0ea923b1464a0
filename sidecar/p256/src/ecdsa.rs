//! Keys and the verification of signatures by them.

use std::fmt;
use std::sync::LazyLock;

use crate::field::Field;
use crate::limbs;
use crate::point::{Affine, GENERATOR, Jacobian};
use crate::scalar::{N, Scalar};
use crate::table::{Table, sum_of_products};

/// Of the generator, which every verification needs: 90 KB, made when the first key is prepared.
static GENERATOR_TABLE: LazyLock<Table<9>> = LazyLock::new(|| Table::new(GENERATOR));

/// What was given is no public key of P-256 in the uncompressed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPoint;

impl fmt::Display for InvalidPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an uncompressed point of P-256")
    }
}

impl std::error::Error for InvalidPoint {}

/// A public key, and multiples of it ([`PreparedKey::size`] says how large they are).
pub struct PreparedKey(Table<7>);

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedKey").finish_non_exhaustive()
    }
}

impl PreparedKey {
    /// Prepares a point in SEC 1 §2.3.3's uncompressed form: 65 bytes, the first of them 4.
    ///
    /// Takes as long as one or two verifications without a prepared key.
    ///
    /// # Errors
    /// Any other form, a coordinate that is not less than p, or a point that is not on the curve.
    pub fn new(point: &[u8]) -> Result<Self, InvalidPoint> {
        let (form, coordinates) = point.split_first().ok_or(InvalidPoint)?;
        let ([x, y], []) = coordinates.as_chunks::<32>() else {
            return Err(InvalidPoint);
        };
        if *form != 4 {
            return Err(InvalidPoint);
        }
        let element = |bytes| Field::new(&limbs::from_bytes(bytes)).ok_or(InvalidPoint);
        let point = Affine::new(element(x)?, element(y)?).ok_or(InvalidPoint)?;
        LazyLock::force(&GENERATOR_TABLE);
        Ok(Self(Table::new(point)))
    }

    /// True if `signature`, r and s of 32 bytes each (RFC 7518 §3.4), is one by this key of what has the SHA-256 `digest`.
    #[must_use]
    pub fn verifies(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        self.check(digest, signature).is_some()
    }

    fn check(&self, digest: &[u8; 32], signature: &[u8; 64]) -> Option<()> {
        let ([r, s], _) = signature.as_chunks::<32>() else {
            return None;
        };
        let r = limbs::from_bytes(r);
        let r_scalar = Scalar::nonzero(&r)?;
        let s = Scalar::nonzero(&limbs::from_bytes(s))?;
        let e = Scalar::reduced(&limbs::from_bytes(digest));
        let inverse = s.invert().to_montgomery();
        let u1 = e.multiply_reduced(&inverse);
        let u2 = r_scalar.multiply_reduced(&inverse);
        let sum = sum_of_products((u1.number(), &*GENERATOR_TABLE), (u2.number(), &self.0));
        has_x(&sum, &r).then_some(())
    }

    /// Bytes that its multiples occupy.
    pub fn size(&self) -> usize {
        self.0.size()
    }
}

/// True if the point is finite and its x is `r` modulo n. As x is less than p and p less than 2 n, it is r or r + n. That is
/// asked without division.
fn has_x(point: &Jacobian, r: &limbs::Limbs) -> bool {
    if point.z.is_zero() {
        return false;
    }
    let square = point.z.square();
    let is_x =
        |number: &limbs::Limbs| Field::new(number).is_some_and(|x| x.mul(&square) == point.x);
    if is_x(r) {
        return true;
    }
    let (more, carry) = limbs::add(r, &N);
    !carry && is_x(&more)
}

#[cfg(test)]
mod tests;
