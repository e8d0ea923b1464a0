//! Arithmetic modulo p = 2^255 - 19 of public numbers (RFC 7748 §4.1), one at a time: makes the table, and what is told of
//! the results.
//!
//! Nothing is inlined: the table is made once, and its text would be three times as long.
//!
//! An element is five limbs of 51 bits. What an operation is given has limbs less than 2^52, what it returns has limbs less
//! than [`CARRIED`].

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
        // Now it is less than 2^255, and p or more exactly where 19 more is not.
        let less = limbs;
        let carry = pass(&mut limbs, 19);
        Self(if carry == 0 { less } else { limbs })
    }

    /// The number less than p that the element is, lowest byte first.
    pub(super) fn bytes(&self) -> [u8; 32] {
        let Self([a, b, c, d, e]) = self.canonical();
        let words = [
            a | b << 51,
            b >> 13 | c << 38,
            c >> 26 | d << 25,
            d >> 39 | e << 12,
        ];
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
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
        carried(std::array::from_fn(|i| u128::from(a.0[i] + b.0[i])))
    }

    #[inline(never)]
    pub(super) fn sub(&self, other: &Self) -> Self {
        let (a, b) = (self.checked(), other.checked());
        // Twice 2p: what is subtracted may have limbs of up to 52 bits.
        carried(std::array::from_fn(|i| {
            u128::from(a.0[i] + 2 * TWICE_P[i] - b.0[i])
        }))
    }

    #[inline(never)]
    pub(super) fn mul(&self, other: &Self) -> Self {
        let (a, b) = (self.checked(), other.checked());
        let mut columns = [0; 5];
        for (i, a) in a.0.iter().enumerate() {
            for (j, b) in b.0.iter().enumerate() {
                let product = u128::from(*a) * u128::from(*b);
                columns[(i + j) % 5] += if i + j < 5 { product } else { 19 * product };
            }
        }
        carried(columns)
    }

    /// The inverse; zero for zero.
    pub(super) fn invert(&self) -> Self {
        // To the p - 2, which is 2^255 - 21: of its bits, all ones but for 2^4 and 2^2 (and 2^0, which is set).
        let mut power = Self::ONE;
        for bit in (0..255).rev() {
            power = power.mul(&power);
            if bit != 4 && bit != 2 {
                power = power.mul(self);
            }
        }
        power
    }
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

/// Passes on what is larger than a limb, from every one at once and then again. Of a product the first passes on less than
/// 2^60 each; the second less than 2^10, and 19 times less than 2^7 from the highest.
fn carried(columns: [u128; 5]) -> Field {
    let pass = |columns: [u128; 5]| {
        let [a, b, c, d, e] = columns.map(|column| column >> BITS);
        let [r0, r1, r2, r3, r4] = columns.map(|column| column & u128::from(MASK));
        [r0 + 19 * e, r1 + a, r2 + b, r3 + c, r4 + d]
    };
    let limbs = pass(pass(columns)).map(|limb| limb as u64);
    let field = Field(limbs);
    debug_assert!(limbs.iter().all(|limb| *limb < CARRIED));
    field
}

#[cfg(test)]
mod tests;
