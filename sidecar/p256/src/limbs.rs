//! Numbers of 256 bits as four words, least significant first, and the carries between them.

use std::hint::select_unpredictable;

/// 256 bits, least significant word first.
pub(crate) type Limbs = [u64; 4];

/// `a + b + carry`, and the carry out of it.
#[inline(always)]
pub(crate) const fn add_carry(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(carry as u64);
    (sum, first | second)
}

/// `a - b - borrow`, and the borrow out of it.
#[inline(always)]
pub(crate) const fn sub_borrow(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, first) = a.overflowing_sub(b);
    let (difference, second) = difference.overflowing_sub(borrow as u64);
    (difference, first | second)
}

/// Low and high word of `a * b`.
#[inline(always)]
pub(crate) const fn multiply(a: u64, b: u64) -> (u64, u64) {
    let wide = a as u128 * b as u128;
    (wide as u64, (wide >> 64) as u64)
}

/// Low and high word of `sum + a * b + carry`, which cannot overflow.
#[inline(always)]
pub(crate) const fn multiply_add(sum: u64, a: u64, b: u64, carry: u64) -> (u64, u64) {
    let wide = a as u128 * b as u128 + sum as u128 + carry as u128;
    (wide as u64, (wide >> 64) as u64)
}

/// `a + b`, and the carry out of it.
#[inline(always)]
pub(crate) const fn add(a: &Limbs, b: &Limbs) -> (Limbs, bool) {
    let (r0, c) = add_carry(a[0], b[0], false);
    let (r1, c) = add_carry(a[1], b[1], c);
    let (r2, c) = add_carry(a[2], b[2], c);
    let (r3, c) = add_carry(a[3], b[3], c);
    ([r0, r1, r2, r3], c)
}

/// `a - b`, and the borrow out of it.
#[inline(always)]
pub(crate) const fn sub(a: &Limbs, b: &Limbs) -> (Limbs, bool) {
    let (r0, c) = sub_borrow(a[0], b[0], false);
    let (r1, c) = sub_borrow(a[1], b[1], c);
    let (r2, c) = sub_borrow(a[2], b[2], c);
    let (r3, c) = sub_borrow(a[3], b[3], c);
    ([r0, r1, r2, r3], c)
}

/// `a - b`, and all ones if there is a borrow out of it.
#[inline(always)]
pub(crate) const fn sub_mask(a: &Limbs, b: &Limbs) -> (Limbs, u64) {
    let (r0, c) = sub_borrow(a[0], b[0], false);
    let (r1, c) = sub_borrow(a[1], b[1], c);
    let (r2, c) = sub_borrow(a[2], b[2], c);
    let last = (a[3] as u128).wrapping_sub(b[3] as u128);
    let last = last.wrapping_sub(c as u128);
    ([r0, r1, r2, last as u64], (last >> 64) as u64)
}

/// True if `a < b`.
#[inline(always)]
pub(crate) const fn is_less(a: &Limbs, b: &Limbs) -> bool {
    sub(a, b).1
}

/// One or the other, without a branch: which one is wanted here is as good as random.
#[inline(always)]
pub(crate) fn select(condition: bool, a: &Limbs, b: &Limbs) -> Limbs {
    [
        select_unpredictable(condition, a[0], b[0]),
        select_unpredictable(condition, a[1], b[1]),
        select_unpredictable(condition, a[2], b[2]),
        select_unpredictable(condition, a[3], b[3]),
    ]
}

/// `a + 2^256 * carry`, which is less than twice the modulus, less the modulus if it is not less than that; `opposite` is
/// 2^256 less the modulus.
#[inline(always)]
pub(crate) fn reduce_once(a: &Limbs, carry: bool, opposite: &Limbs) -> Limbs {
    let (reduced, over) = add(a, opposite);
    select(over | carry, &reduced, a)
}

/// Reads a big-endian number.
pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Limbs {
    let mut limbs = [0; 4];
    for (limb, word) in limbs.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
        *limb = u64::from_be_bytes(*word);
    }
    limbs
}
