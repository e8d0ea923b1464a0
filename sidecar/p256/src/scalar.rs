//! Arithmetic modulo n, the number of points of the curve (SP 800-186 §3.2.1.3).

use crate::inverse::{self, Modulus};
use crate::limbs::{self, Limbs, multiply_add};

/// The order of the generator, a prime.
pub(crate) const N: Limbs = [
    0xf3b9_cac2_fc63_2551,
    0xbce6_faad_a717_9e84,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_0000_0000,
];

/// 2^256 - n.
const OPPOSITE: Limbs = limbs::sub(&[0; 4], &N).0;

/// 2^512 mod n.
const R2: Scalar = Scalar([
    0x8324_4c95_be79_eea2,
    0x4699_799c_49bd_6fa6,
    0x2845_b239_2b6b_ec59,
    0x66e1_2d94_f3d9_5620,
]);

/// -1/n mod 2^64.
const N_INVERSE: u64 = 0xccd1_c8aa_ee00_bc4f;

static MODULUS: Modulus = Modulus::new(&N);

/// A number less than n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar(Limbs);

impl Scalar {
    /// A number between 1 and n - 1; `None` for any other.
    pub(crate) fn nonzero(number: &Limbs) -> Option<Self> {
        (*number != [0; 4] && limbs::is_less(number, &N)).then_some(Self(*number))
    }

    /// The number modulo n.
    pub(crate) fn reduced(number: &Limbs) -> Self {
        // It is less than 2^256, and that less than 2 n.
        Self(limbs::reduce_once(number, false, &OPPOSITE))
    }

    /// The number.
    pub(crate) fn number(&self) -> &Limbs {
        &self.0
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(&self) -> Self {
        Self(inverse::invert(&self.0, &MODULUS))
    }

    /// `self * 2^256`, to multiply with by [`Scalar::multiply_reduced`].
    pub(crate) fn to_montgomery(self) -> Self {
        self.multiply_reduced(&R2)
    }

    /// `self * other / 2^256` (Montgomery's multiplication).
    pub(crate) fn multiply_reduced(&self, other: &Self) -> Self {
        let mut sum = [0u64; 5];
        for a in self.0 {
            let mut carry = 0;
            for (word, b) in sum.iter_mut().zip(other.0) {
                (*word, carry) = multiply_add(*word, a, b, carry);
            }
            let (high, over) = sum[4].overflowing_add(carry);
            // n times `multiple` clears the lowest word, and the others move down by one.
            let multiple = sum[0].wrapping_mul(N_INVERSE);
            let (_, mut carry) = multiply_add(sum[0], multiple, N[0], 0);
            for index in 1..4 {
                (sum[index - 1], carry) = multiply_add(sum[index], multiple, N[index], carry);
            }
            let (word, over_too) = high.overflowing_add(carry);
            sum[3] = word;
            sum[4] = u64::from(over) + u64::from(over_too);
        }
        let [a, b, c, d, carry] = sum;
        Self(limbs::reduce_once(&[a, b, c, d], carry != 0, &OPPOSITE))
    }
}

#[cfg(test)]
mod tests;
