//! Arithmetic modulo p = 2^255 - 19 (RFC 7748 §4.1), one at a time: makes the table, of results the bytes, and of
//! what is shared the quotient.
//!
//! Numbers may be secret: none decides a branch or an address. Nothing is inlined: the table is made once, and its text would
//! be three times as long.
//!
//! An element is five limbs of 51 bits. What an operation is given has limbs less than 2^52, what it returns has limbs less
//! than [`CARRIED`].

use super::inverse::inverse;

/// Bits of a limb.
pub(super) const BITS: u32 = 51;
/// Bits of a limb that is no larger than its place allows.
pub(super) const MASK: u64 = (1 << BITS) - 1;
/// What every limb is less than after an operation, here and side by side.
pub(super) const CARRIED: u64 = (1 << BITS) + (1 << 11);
/// The limbs of 2p: less something that is carried, nothing is less than zero.
pub(super) const TWICE_P: [u64; 5] = [2 * (MASK - 18), 2 * MASK, 2 * MASK, 2 * MASK, 2 * MASK];

/// An element of the field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field(pub(super) [u64; 5]);

impl Field {
    pub(super) const ZERO: Self = Self([0; 5]);
    pub(super) const ONE: Self = Self([1, 0, 0, 0, 0]);

    /// Of a number less than 2^255, lowest word first.
    pub(super) const fn new(words: [u64; 4]) -> Self {
        let [a, b, c, d] = words;
        debug_assert!(d >> 63 == 0);
        Self([
            a & MASK,
            (a >> 51 | b << 13) & MASK,
            (b >> 38 | c << 26) & MASK,
            (c >> 25 | d << 39) & MASK,
            d >> 12,
        ])
    }

    /// The same element, the number less than p, with limbs of no more than 51 bits.
    #[inline(never)]
    pub(super) fn canonical(&self) -> Self {
        let Self(mut limbs) = self.checked();
        // Twice, as what the first passes on from the highest limb can have the lowest overflow again.
        for _ in 0..2 {
            let carry = pass(&mut limbs, 0);
            limbs[0] += 19 * carry;
        }
        // Now it is less than 2^255, and p or more exactly where 19 more is not: then it is as much more as 19 more is too much.
        let is_more = pass(&mut { limbs }, 19);
        pass(&mut limbs, 19 * is_more);
        Self(limbs)
    }

    /// The number less than p that the element is, lowest word first.
    fn words(&self) -> [u64; 4] {
        let Self([a, b, c, d, e]) = self.canonical();
        [
            a | b << 51,
            b >> 13 | c << 38,
            c >> 26 | d << 25,
            d >> 39 | e << 12,
        ]
    }

    /// The number less than p that the element is, lowest byte first.
    pub(super) fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.words()) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// The element, of which in a debug build it is looked whether it may be given to an operation.
    fn checked(&self) -> Self {
        debug_assert!(self.0.iter().all(|limb| *limb < 1 << 52), "{:x?}", self.0);
        *self
    }

    #[inline(never)]
    pub(super) fn add(&self, other: &Self) -> Self {
        let (a, b) = (self.checked(), other.checked());
        Self::carried(std::array::from_fn(|i| u128::from(a.0[i] + b.0[i])))
    }

    #[inline(never)]
    pub(super) fn sub(&self, other: &Self) -> Self {
        let (a, b) = (self.checked(), other.checked());
        // Twice 2p: what is subtracted may have limbs of up to 52 bits.
        Self::carried(std::array::from_fn(|i| {
            u128::from(a.0[i] + 2 * TWICE_P[i] - b.0[i])
        }))
    }

    #[inline(never)]
    pub(super) fn mul(&self, other: &Self) -> Self {
        let (a, b) = (self.checked().0, other.checked().0);
        // Of places from 255 bits on.
        let wrapped = b.map(|limb| 19 * limb);
        Self::carried(std::array::from_fn(|k| {
            let product = |i: usize| match k.checked_sub(i) {
                Some(j) => wide(a[i], b[j]),
                None => wide(a[i], wrapped[5 + k - i]),
            };
            product(0) + product(1) + product(2) + product(3) + product(4)
        }))
    }

    /// The inverse; zero for zero.
    pub(super) fn invert(&self) -> Self {
        Self::new(inverse(&self.words()))
    }

    /// Passes on what is larger than a limb, from every one at once and then again. Columns are
    /// those of a product, or less: a sum of products of which `5 - 1 - k` in column `k` are taken 19 times, of limbs less than 2^52.
    /// So they are less than 77, 59, 41, 23 and 5 times 2^104, the first passes on less than that times 2^53, and 19 times less
    /// than 5 * 2^53 from the highest; the second less than 381, 309, 237, 165 and 93, and 19 * 93 is less than 2^11.
    #[inline]
    pub(super) fn carried(columns: [u128; 5]) -> Self {
        let rest = columns.map(|column| column as u64 & MASK);
        let [a, b, c, d, e] = columns.map(|column| (column >> BITS) as u64);
        let sums = [
            rest[0] + 19 * e,
            rest[1] + a,
            rest[2] + b,
            rest[3] + c,
            rest[4] + d,
        ];
        let rest = sums.map(|sum| sum & MASK);
        let [a, b, c, d, e] = sums.map(|sum| sum >> BITS);
        let field = Self([
            rest[0] + 19 * e,
            rest[1] + a,
            rest[2] + b,
            rest[3] + c,
            rest[4] + d,
        ]);
        debug_assert!(field.0.iter().all(|limb| *limb < CARRIED));
        field
    }
}

fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// Passes a carry on from the lowest limb to the highest: what is passed on from that.
fn pass(limbs: &mut [u64; 5], mut carry: u64) -> u64 {
    for limb in limbs {
        let sum = *limb + carry;
        *limb = sum & MASK;
        carry = sum >> BITS;
    }
    carry
}

#[cfg(test)]
mod tests;
