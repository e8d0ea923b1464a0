//! Any point times a number, by u alone: the ladder of RFC 7748 §5.
//!
//! Nothing secret decides a branch or an address:
//! - there is a step for each of 255 bits, and all steps are the same,
//! - two points change places, or do not, by a permutation of words in a register ([`Four::permuted`]), which a bit is
//!   made a part of by arithmetic,
//! - an inversion takes as many steps for any number ([`super::inverse`]).
//!
//! The points of a step are in registers, and what these spill to the stack is written over by the next step. What the last of
//! them, the inversion and the last product leave there is wiped where it has a name and stays where it has none.

use std::arch::x86_64::{_mm512_set_epi64, _mm512_xor_si512};

use zeroize::{Zeroize as _, Zeroizing};

use super::four::{Four, field, limbs};
use super::lanes::all;

/// (486662 - 2) / 4, of the curve's coefficient.
const A24: u64 = 121_665;

/// The u of a point of which the u is given, times a number of a secret (RFC 7748 §5). Zero for points of small order.
///
/// With the names there, a step is three times four products side by side, each of what the ones before add up to:
/// - AA, BB, DA, CB,
/// - of DA + CB and DA - CB the squares,
/// - AA * BB, E * (AA + a24 * E), and x_1 times the second square; the first is done, and multiplied by one.
///
/// Each waits for the one before, so that it is time that counts and not the number of multiplications: 32 ns a step and 8.2 us
/// for all, and then 1.2 us for the inversion, one at a time.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn multiply(number: &[u64; 4], u: &[u64; 4]) -> [u8; 32] {
    let (zero, one, u) = ([0; 6], [1, 0, 0, 0, 0, 0], limbs(u));
    let constants = Four::new(&[zero, zero, one, u]);
    let changes = changes(number);
    // A, B, D, C and A, B, A, B out of A, B, C, D; with the other four lanes in place of each four, C, D, B, A and C, D, C, D.
    let left = _mm512_set_epi64(5, 4, 7, 6, 3, 2, 1, 0);
    let right = _mm512_set_epi64(3, 2, 1, 0, 3, 2, 1, 0);
    // x_2, z_2, x_3, z_3.
    let mut points = Four::new(&[one, zero, u, one]);
    for place in (0..255).rev() {
        let change = all((changes[place / 64] >> (place % 64) & 1) << 2);
        let sums = points.sums_and_differences();
        let left = sums.permuted(_mm512_xor_si512(left, change));
        let right = sums.permuted(_mm512_xor_si512(right, change));
        let products = left.mul(&right.factors()).carried();
        // AA + BB, E, DA + CB, DA - CB.
        let sums = products.sums_and_differences();
        let first = sums.second_times(A24, &products.first_twice()).carried();
        // AA, AA + a24 * E, and the squares.
        let left = sums.square().carried_after(&first);
        let right = sums.after_exchanged(&products, &constants);
        points = left.mul(&right.factors()).carried();
    }
    // The lowest bit of a number is zero, so that at the end the points are in their places.
    let [x, z, ..] = &*Zeroizing::new(points.elements());
    let (mut x, mut z) = (field(x), field(z).invert());
    let mut u = x.mul(&z);
    let bytes = u.bytes();
    for element in [&mut x, &mut z, &mut u] {
        element.0.as_mut_slice().zeroize();
    }
    bytes
}

/// For each bit of a number whether it is another one than the next higher, and so the points change places.
fn changes(number: &[u64; 4]) -> Zeroizing<[u64; 4]> {
    let [a, b, c, d] = number;
    Zeroizing::new([
        a ^ (a >> 1 | b << 63),
        b ^ (b >> 1 | c << 63),
        c ^ (c >> 1 | d << 63),
        d ^ d >> 1,
    ])
}

#[cfg(test)]
mod tests;
