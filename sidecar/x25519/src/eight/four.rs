//! Arithmetic modulo p = 2^255 - 19 of four elements side by side, each in two lanes, for the least time from one product to
//! the next that needs it.
//!
//! An element is six limbs of 43 bits. So a sum or a difference may be multiplied before it is carried, and so may a limb times
//! 152, which is what 2^258 is modulo p; of the five limbs of [`super::lanes`] neither is less than 2^52. The lower lane of an
//! element has its limbs 0, 1 and 2, the upper one 3, 4 and 5. Each lane adds up the products of its own three limbs and the
//! other element's six, which are 36 multiplications; five limbs in one lane would take 50, and carries in between.
//!
//! Limbs are *carried* if they are less than [`CARRIED`], and *wide* if they are less than [`WIDE`].

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_blend_epi64, _mm512_mask_sub_epi64, _mm512_maskz_permutex_epi64,
    _mm512_mullo_epi64, _mm512_permutex_epi64, _mm512_permutexvar_epi64, _mm512_set_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_srlv_epi64, _mm512_ternarylogic_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::field::Field;
use super::lanes::{all, store};

/// Bits of a limb.
const BITS: u32 = 43;
/// Bits of a limb that is no larger than its place allows.
const MASK: u64 = (1 << BITS) - 1;
/// What carried limbs are less than.
#[cfg(any(test, doc))]
const CARRIED: u64 = (1 << BITS) + (1 << 21);
/// What wide limbs are less than: a carried one and one of [`SIXTEEN_P`]. 152 times that is less than 2^52.
#[cfg(any(test, doc))]
const WIDE: u64 = (3 << BITS) + (1 << 21);
/// 2^258 modulo p.
const WRAPPED: u64 = 8 * 19;
/// The limbs of 16p: less something that is carried, nothing is less than zero.
const SIXTEEN_P: [u64; 6] = [
    2 * (MASK + 1 - WRAPPED),
    2 * MASK,
    2 * MASK,
    2 * MASK,
    2 * MASK,
    2 * MASK,
];

/// The limbs of an element.
pub(super) type Limbs = [u64; 6];

/// The limbs of a number less than 2^255, lowest word first; none is larger than its place allows.
pub(super) fn limbs(words: &[u64; 4]) -> Limbs {
    let [a, b, c, d] = words;
    [
        a & MASK,
        (a >> 43 | b << 21) & MASK,
        (b >> 22 | c << 42) & MASK,
        c >> 1 & MASK,
        (c >> 44 | d << 20) & MASK,
        d >> 23,
    ]
}

/// The element, for arithmetic one at a time. Limbs are less than 2^44.
pub(super) fn field(limbs: &Limbs) -> Field {
    // Of places 0, 43, 86, 129, 172 and 215, where those of a field's limbs are 0, 51, 102, 153 and 204.
    let [a, b, c, d, e, f] = limbs.map(u128::from);
    Field::carried([a + (b << 43), c << 35, d << 27, e << 19, f << 11])
}

/// Lanes of the elements 0 and 1.
const FIRST_TWO: u8 = 0b0000_1111;
/// Lanes of the elements 2 and 3.
const LAST_TWO: u8 = 0b1111_0000;
/// Lanes of the element 1.
const SECOND: u8 = 0b0000_1100;
/// Lanes of the elements 1 and 3.
const ODD: u8 = 0b1100_1100;

/// Four elements: the limbs 0 and 3, those 1 and 4, those 2 and 5.
#[derive(Debug, Clone, Copy)]
pub(super) struct Four([__m512i; 3]);

/// Four elements to multiply others by. For limb `k` of a product, `2 + k - i` is what the other elements' limbs `i` and `i + 3`
/// are multiplied by, each in its lane.
pub(super) struct Factors([__m512i; 8]);

/// What is to be carried: limbs of less than 2^62.
#[derive(Clone, Copy)]
pub(super) struct Sums([__m512i; 3]);

impl Four {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn new(elements: &[Limbs; 4]) -> Self {
        let [a, b, c, d] = elements.map(|limbs| limbs.map(u64::cast_signed));
        let lanes = |i: usize| {
            let (lower, upper) = (i, i + 3);
            _mm512_set_epi64(
                d[upper], d[lower], c[upper], c[lower], b[upper], b[lower], a[upper], a[lower],
            )
        };
        Self([lanes(0), lanes(1), lanes(2)])
    }

    /// The limbs of each element.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn elements(&self) -> [Limbs; 4] {
        let [a, b, c] = self.0.map(|lanes| store(lanes));
        [0, 2, 4, 6].map(|lower| {
            let upper = lower + 1;
            [a[lower], b[lower], c[lower], a[upper], b[upper], c[upper]]
        })
    }

    /// Elements in other lanes: each lane has the limbs of the lane that `lanes` says. Which that is is up to a permutation of
    /// words in a register by another register, which takes as long whatever it is.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn permuted(&self, lanes: __m512i) -> Self {
        Self(self.0.map(|limbs| _mm512_permutexvar_epi64(lanes, limbs)))
    }

    /// 1, 0, 3, 2: each pair of elements the other way round.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn exchanged(&self) -> Self {
        Self(
            self.0
                .map(|limbs| _mm512_permutex_epi64::<0b01_00_11_10>(limbs)),
        )
    }

    /// The first element for the first two, and zeroes.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn first_twice(&self) -> Self {
        Self(
            self.0
                .map(|limbs| _mm512_maskz_permutex_epi64::<0b01_00_01_00>(FIRST_TWO, limbs)),
        )
    }

    /// Of carried elements the sums 0 + 1 and 2 + 3 for 0 and 2, and the differences 0 - 1 and 2 - 3 for 1 and 3; all wide.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn sums_and_differences(&self) -> Self {
        let [a, b, c, d, e, f] = SIXTEEN_P;
        let other = self.exchanged().0;
        let or_negative =
            |limbs, lower, upper| _mm512_mask_sub_epi64(limbs, ODD, both(lower, upper), limbs);
        let [x, y, z] = self.0;
        Self([
            _mm512_add_epi64(other[0], or_negative(x, a, d)),
            _mm512_add_epi64(other[1], or_negative(y, b, e)),
            _mm512_add_epi64(other[2], or_negative(z, c, f)),
        ])
    }

    /// The other element 0, this element 1, and `ends`' last two.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn after_exchanged(&self, other: &Self, ends: &Self) -> Self {
        let other = other.exchanged();
        let blend = |i: usize| {
            let two = _mm512_mask_blend_epi64(SECOND, other.0[i], self.0[i]);
            _mm512_mask_blend_epi64(LAST_TWO, two, ends.0[i])
        };
        Self([blend(0), blend(1), blend(2)])
    }

    /// `summand`, and to its element 1 as much as `times` times this element. Both are wide, `times` less than 2^17.
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    pub(super) fn second_times(&self, times: u64, summand: &Self) -> Sums {
        let times = times.cast_signed();
        let times = _mm512_set_epi64(0, 0, 0, 0, times, times, 0, 0);
        let sum = |i: usize| _mm512_add_epi64(summand.0[i], _mm512_mullo_epi64(self.0[i], times));
        Sums([sum(0), sum(1), sum(2)])
    }

    /// What to multiply wide elements by, for products with these, which are wide too.
    ///
    /// The limb that makes limb `k` out of limb `i` is `k - i`; where that is less than zero, it is 152 times limb `k - i + 6`.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn factors(&self) -> Factors {
        let zero = _mm512_setzero_si512();
        let times = |limbs, factor| _mm512_madd52lo_epu64(zero, limbs, factor);
        let [a, b, c] = self.0;
        let [d, e, f] = [a, b, c].map(|limbs| turned(limbs));
        let (wrapped, upper_wrapped) = (all(WRAPPED), both(1, WRAPPED));
        Factors([
            times(e, wrapped),
            times(f, wrapped),
            times(a, upper_wrapped),
            times(b, upper_wrapped),
            times(c, upper_wrapped),
            d,
            e,
            f,
        ])
    }

    /// The products of wide elements. Those with limb 0, which a carry is the last to make known, come last.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn mul(&self, factors: &Factors) -> Sums {
        let (a, b) = (&self.0, &factors.0);
        let mut columns = Columns::new();
        for i in [1, 2, 0] {
            for k in [5, 4, 3, 2, 1, 0] {
                columns.add(k, a[i], b[2 + k - i]);
            }
        }
        columns.sums()
    }

    /// The squares of wide elements: 24 steps instead of 36.
    ///
    /// Limbs `i + 3` and `j + 3` make the same limb as `i` and `j`, times 152. So while the lower lane has a product of two
    /// different limbs, doubled, the upper lane has another such one; but that of `i` and `i + 3` both lanes have, once.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn square(&self) -> Sums {
        let [a, b, c] = self.0;
        let Factors(by) = self.factors();
        let (a_twice, b_twice) = (_mm512_add_epi64(a, a), _mm512_add_epi64(b, b));
        let mut columns = Columns::new();
        columns.add(5, b, by[6]);
        columns.add(2, b, by[3]);
        columns.add(4, c, by[4]);
        columns.add(1, c, by[1]);
        columns.add(3, b_twice, by[4]);
        columns.add(0, b_twice, by[1]);
        columns.add(5, a_twice, by[7]);
        columns.add(2, a_twice, by[4]);
        columns.add(4, a_twice, by[6]);
        columns.add(1, a_twice, by[3]);
        columns.add(3, a, by[5]);
        columns.add(0, a, by[2]);
        columns.sums()
    }
}

/// Halves of products that add up to the limbs of a product: lower ones of the same place, and upper ones, which are of the
/// next place, times 2^9 (52 bits are a limb and nine).
///
/// Both lanes of an element have a part of each. The products of three pairs of wide limbs, one of each times 152, add up to
/// upper halves of less than 2^46.1 and, with those times 2^9 and the lower ones, to a limb of less than 2^55.5.
struct Columns {
    low: [__m512i; 6],
    high: [__m512i; 6],
}

impl Columns {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            low: [zero; 6],
            high: [zero; 6],
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn add(&mut self, place: usize, a: __m512i, b: __m512i) {
        self.high[place] = _mm512_madd52hi_epu64(self.high[place], a, b);
        self.low[place] = _mm512_madd52lo_epu64(self.low[place], a, b);
    }

    /// What both lanes add up to: less than 2^56.5.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn sums(&self) -> Sums {
        let Self { low, high } = self;
        // 152 * 2^9 is (1 + 2 + 16) * 2^12. There is no 152 in the factors for place 5, so it is not larger than the others.
        let wrapped = _mm512_add_epi64(
            _mm512_add_epi64(low[0], _mm512_slli_epi64::<12>(high[5])),
            _mm512_add_epi64(
                _mm512_slli_epi64::<13>(high[5]),
                _mm512_slli_epi64::<16>(high[5]),
            ),
        );
        let limb = |k: usize| match k {
            0 => wrapped,
            _ => _mm512_add_epi64(low[k], _mm512_slli_epi64::<9>(high[k - 1])),
        };
        let sum = |k: usize| {
            let (lower, upper) = (limb(k), limb(k + 3));
            _mm512_add_epi64(
                _mm512_unpacklo_epi64(lower, upper),
                _mm512_unpackhi_epi64(lower, upper),
            )
        };
        Sums([sum(0), sum(1), sum(2)])
    }
}

impl Sums {
    /// The elements, carried, but for limb 0 of what [`Four::second_times`] makes, which is wide.
    ///
    /// What a limb passes on to the next is less than 2^14, and 152 times that, from the highest to the lowest, less than 2^21.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn carried(&self) -> Four {
        let [a, b, c] = self.0;
        let rest = |limbs| _mm512_and_si512(limbs, all(MASK));
        let over = |limbs| _mm512_srli_epi64::<BITS>(limbs);
        passed_on([rest(a), rest(b), rest(c)], [over(a), over(b), over(c)])
    }

    /// The last two elements, carried, after the first two of others, which have zeroes for the last two.
    ///
    /// As bits and shifts, since blends become permutations, which take more than twice as long.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn carried_after(&self, first: &Four) -> Four {
        let (mask, shift) = (MASK.cast_signed(), i64::from(BITS));
        let mask = _mm512_set_epi64(mask, mask, mask, mask, 0, 0, 0, 0);
        let shift = _mm512_set_epi64(shift, shift, shift, shift, 64, 64, 64, 64);
        // a | b & c.
        let rest = |limbs, first| _mm512_ternarylogic_epi64::<0b1111_1000>(first, limbs, mask);
        let over = |limbs| _mm512_srlv_epi64(limbs, shift);
        let ([a, b, c], [x, y, z]) = (self.0, first.0);
        passed_on(
            [rest(a, x), rest(b, y), rest(c, z)],
            [over(a), over(b), over(c)],
        )
    }
}

/// Passes on to each limb what was too much for the one before.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn passed_on(rest: [__m512i; 3], over: [__m512i; 3]) -> Four {
    Four([
        _mm512_madd52lo_epu64(rest[0], turned(over[2]), both(WRAPPED, 1)),
        _mm512_add_epi64(rest[1], over[0]),
        _mm512_add_epi64(rest[2], over[1]),
    ])
}

/// A word for all lower lanes and one for all upper ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn both(lower: u64, upper: u64) -> __m512i {
    let (l, u) = (lower.cast_signed(), upper.cast_signed());
    _mm512_set_epi64(u, l, u, l, u, l, u, l)
}

/// The two lanes of each element the other way round.
#[target_feature(enable = "avx512f")]
#[inline]
fn turned(limbs: __m512i) -> __m512i {
    _mm512_shuffle_epi32::<0b01_00_11_10>(limbs)
}

#[cfg(test)]
mod tests;
