//! Arithmetic modulo p = 2^256 - 2^224 + 2^192 + 2^96 - 1 (SP 800-186 §3.2.1.3).
//!
//! An element `a` is held as `a * 2^256 mod p` (Montgomery form), always less than p. As p is -1 modulo 2^64, the word that
//! a reduction multiplies p by is the word to clear itself, and three of p's words make that product a matter of shifts.

use crate::inverse::{self, Modulus};
use crate::limbs::{self, Limbs, add_carry, multiply};

/// The prime.
pub(crate) const P: Limbs = [
    0xffff_ffff_ffff_ffff,
    0x0000_0000_ffff_ffff,
    0x0000_0000_0000_0000,
    0xffff_ffff_0000_0001,
];

/// 2^256 - p.
const OPPOSITE: Limbs = Field::ONE.0;

/// 2^512 mod p: brings into Montgomery form.
const R2: Field = Field([
    0x0000_0000_0000_0003,
    0xffff_fffb_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0x0000_0004_ffff_fffd,
]);

static MODULUS: Modulus = Modulus::new(&P);

/// A constant that the compiler does not know: it makes comparisons of a sum with one that it knows, and loses the chain of
/// carries (6 % of the instructions of a verification).
#[inline(always)]
fn opaque(constant: &Limbs) -> &Limbs {
    std::hint::black_box(constant)
}

/// An element of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field(Limbs);

impl Field {
    pub(crate) const ZERO: Self = Self([0; 4]);

    /// 2^256 mod p.
    pub(crate) const ONE: Self = Self([
        0x0000_0000_0000_0001,
        0xffff_ffff_0000_0000,
        0xffff_ffff_ffff_ffff,
        0x0000_0000_ffff_fffe,
    ]);

    /// The element that is held as these words, which are less than p.
    pub(crate) const fn from_montgomery(words: Limbs) -> Self {
        Self(words)
    }

    /// The element that `number` is; `None` from p on.
    pub(crate) fn new(number: &Limbs) -> Option<Self> {
        limbs::is_less(number, &P).then(|| Self(*number).mul(&R2))
    }

    #[cfg(test)]
    /// The number less than p that the element is.
    pub(crate) fn number(&self) -> Limbs {
        let Self([a0, a1, a2, a3]) = *self;
        reduce([a0, a1, a2, a3, 0, 0, 0, 0])
    }

    #[inline(always)]
    pub(crate) fn is_zero(&self) -> bool {
        self.0 == [0; 4]
    }

    #[inline(always)]
    pub(crate) fn add(&self, other: &Self) -> Self {
        let (sum, carry) = limbs::add(&self.0, &other.0);
        Self(limbs::reduce_once(&sum, carry, opaque(&OPPOSITE)))
    }

    #[inline(always)]
    pub(crate) fn double(&self) -> Self {
        self.add(self)
    }

    #[inline(always)]
    pub(crate) fn sub(&self, other: &Self) -> Self {
        let (difference, borrow) = limbs::sub_mask(&self.0, &other.0);
        let p = opaque(&P);
        let correction = [borrow, p[1] & borrow, 0, p[3] & borrow];
        Self(limbs::add(&difference, &correction).0)
    }

    #[inline(always)]
    pub(crate) fn negate(&self) -> Self {
        Self::ZERO.sub(self)
    }

    #[inline(always)]
    pub(crate) fn mul(&self, other: &Self) -> Self {
        Self(reduce(product(&self.0, &other.0)))
    }

    #[inline(always)]
    pub(crate) fn square(&self) -> Self {
        Self(reduce(square(&self.0)))
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(&self) -> Self {
        // (a R)^-1, and twice R^2 / R, make a^-1 R.
        Self(inverse::invert(&self.0, &MODULUS)).mul(&R2).mul(&R2)
    }
}

/// Adds `row` to the five words of `sum` and one more, which was zero.
#[inline(always)]
fn add_row(sum: [u64; 5], a: &Limbs, b: u64) -> [u64; 6] {
    let (l0, h0) = multiply(a[0], b);
    let (l1, h1) = multiply(a[1], b);
    let (l2, h2) = multiply(a[2], b);
    let (l3, h3) = multiply(a[3], b);
    let (s0, c) = add_carry(sum[0], l0, false);
    let (s1, c) = add_carry(sum[1], l1, c);
    let (s2, c) = add_carry(sum[2], l2, c);
    let (s3, c) = add_carry(sum[3], l3, c);
    let (s4, c) = add_carry(sum[4], h3, c);
    let s5 = u64::from(c);
    let (s1, c) = add_carry(s1, h0, false);
    let (s2, c) = add_carry(s2, h1, c);
    let (s3, c) = add_carry(s3, h2, c);
    let (s4, c) = add_carry(s4, 0, c);
    [s0, s1, s2, s3, s4, s5 + u64::from(c)]
}

#[inline(always)]
fn product(a: &Limbs, b: &Limbs) -> [u64; 8] {
    let [r0, s1, s2, s3, s4, _] = add_row([0; 5], a, b[0]);
    let [r1, s2, s3, s4, s5, _] = add_row([s1, s2, s3, s4, 0], a, b[1]);
    let [r2, s3, s4, s5, s6, _] = add_row([s2, s3, s4, s5, 0], a, b[2]);
    let [r3, r4, r5, r6, r7, _] = add_row([s3, s4, s5, s6, 0], a, b[3]);
    [r0, r1, r2, r3, r4, r5, r6, r7]
}

/// Each product of two different words once, doubled, and the squares of the words.
#[inline(always)]
fn square(a: &Limbs) -> [u64; 8] {
    let (r1, h01) = multiply(a[0], a[1]);
    let (l02, h02) = multiply(a[0], a[2]);
    let (l03, h03) = multiply(a[0], a[3]);
    let (r2, c) = add_carry(l02, h01, false);
    let (r3, c) = add_carry(l03, h02, c);
    let (r4, _) = add_carry(h03, 0, c);
    let (l12, h12) = multiply(a[1], a[2]);
    let (l13, h13) = multiply(a[1], a[3]);
    let (r3, c) = add_carry(r3, l12, false);
    let (r4, c) = add_carry(r4, h12, c);
    let r5 = u64::from(c);
    let (r4, c) = add_carry(r4, l13, false);
    let (r5, _) = add_carry(r5, h13, c);
    let (l23, r6) = multiply(a[2], a[3]);
    let (r5, c) = add_carry(r5, l23, false);
    let (r6, _) = add_carry(r6, 0, c);
    let r7 = r6 >> 63;
    let r6 = (r6 << 1) | (r5 >> 63);
    let r5 = (r5 << 1) | (r4 >> 63);
    let r4 = (r4 << 1) | (r3 >> 63);
    let r3 = (r3 << 1) | (r2 >> 63);
    let r2 = (r2 << 1) | (r1 >> 63);
    let r1 = r1 << 1;
    let (r0, h0) = multiply(a[0], a[0]);
    let (l1, h1) = multiply(a[1], a[1]);
    let (l2, h2) = multiply(a[2], a[2]);
    let (l3, h3) = multiply(a[3], a[3]);
    let (r1, c) = add_carry(r1, h0, false);
    let (r2, c) = add_carry(r2, l1, c);
    let (r3, c) = add_carry(r3, h1, c);
    let (r4, c) = add_carry(r4, l2, c);
    let (r5, c) = add_carry(r5, h2, c);
    let (r6, c) = add_carry(r6, l3, c);
    let (r7, _) = add_carry(r7, h3, c);
    [r0, r1, r2, r3, r4, r5, r6, r7]
}

/// Takes `m * p` in, `m` being the lowest word, which that clears: the words that are left, the first of them being of
/// weight 2^64. `m * 2^96` is two shifts; `m * (2^64 - 2^32 + 1)` at 2^192 is one multiplication.
#[inline(always)]
fn clear_word(t: [u64; 4]) -> ([u64; 3], u64) {
    let m = t[0];
    let (t1, c) = add_carry(t[1], m << 32, false);
    let (t2, c) = add_carry(t[2], m >> 32, c);
    let (low, high) = multiply(m, P[3]);
    let (t3, c) = add_carry(t[3], low, c);
    // m * p is less than 2^320, so that nothing is carried out of its highest word.
    ([t1, t2, t3], high + u64::from(c))
}

/// `t / 2^256 mod p` of a product of two elements.
#[inline(always)]
fn reduce(t: [u64; 8]) -> Limbs {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = t;
    let ([t1, t2, t3], c0) = clear_word([t0, t1, t2, t3]);
    let ([t2, t3, u0], c1) = clear_word([t1, t2, t3, c0]);
    let ([t3, u0, u1], c2) = clear_word([t2, t3, u0, c1]);
    let ([u0, u1, u2], u3) = clear_word([t3, u0, u1, c2]);
    let (sum, carry) = limbs::add(&[u0, u1, u2, u3], &[t4, t5, t6, t7]);
    limbs::reduce_once(&sum, carry, opaque(&OPPOSITE))
}

#[cfg(test)]
mod tests;
