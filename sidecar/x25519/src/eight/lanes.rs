//! Arithmetic modulo p = 2^255 - 19 in eight lanes side by side, and the digits of eight numbers.
//!
//! An element is five limbs of 51 bits, as in [`super::field`]. The processor multiplies what is less than 2^52 and has the
//! lower 52 bits of a product and the upper ones as it is asked. A limb that is [`CARRIED`] may be multiplied, a sum of two
//! such limbs may not; so that sums and differences are carried at once.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm512_add_epi64,
    _mm512_and_si512, _mm512_extracti32x4_epi32, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mullo_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_srl_epi64, _mm512_srli_epi64, _mm512_sub_epi64,
};

#[cfg(doc)]
use super::field::CARRIED;
use super::field::{BITS, Field, MASK, TWICE_P};
use super::{COUNT, Words};

/// One word for each lane: a single load, if the words are in memory.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(words: &[u64; COUNT]) -> __m512i {
    let [a, b, c, d, e, f, g, h] = words.map(u64::cast_signed);
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

/// The word of each lane.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(words: __m512i) -> [u64; COUNT] {
    let pairs = [
        _mm512_extracti32x4_epi32::<0>(words),
        _mm512_extracti32x4_epi32::<1>(words),
        _mm512_extracti32x4_epi32::<2>(words),
        _mm512_extracti32x4_epi32::<3>(words),
    ];
    let mut stored = [0; COUNT];
    for (stored, pair) in stored.as_chunks_mut().0.iter_mut().zip(pairs) {
        let high = _mm_unpackhi_epi64(pair, pair);
        *stored = [pair, high].map(|word| _mm_cvtsi128_si64(word).cast_unsigned());
    }
    stored
}

/// The same word for all lanes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn all(word: u64) -> __m512i {
    _mm512_set1_epi64(word.cast_signed())
}

/// An element of the field in each lane. Limbs are [`CARRIED`], unless it is said otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes(pub(super) [__m512i; 5]);

impl Lanes {
    /// The same small number in all lanes.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn small(number: u64) -> Self {
        let zero = _mm512_setzero_si512();
        Self([all(number), zero, zero, zero, zero])
    }

    #[cfg(test)]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(elements: &[Field; COUNT]) -> Self {
        Self(std::array::from_fn(|limb| {
            load(&elements.map(|element| element.0[limb]))
        }))
    }

    /// The element of each lane.
    #[target_feature(enable = "avx512f")]
    pub(super) fn elements(&self) -> [Field; COUNT] {
        let mut elements = [Field::ZERO; COUNT];
        for (index, limb) in self.0.iter().enumerate() {
            for (element, limb) in elements.iter_mut().zip(store(*limb)) {
                element.0[index] = limb;
            }
        }
        elements
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn add(&self, other: &Self) -> Self {
        carried(sum(&self.0, &other.0))
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn sub(&self, other: &Self) -> Self {
        carried(sum(&self.0, &other.negated()))
    }

    /// Twice the element and another with limbs less than 2^52.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn twice_and(&self, other: &[__m512i; 5]) -> Self {
        carried(sum(&sum(&self.0, &self.0), other))
    }

    /// Limbs of 2p less the element, which may be multiplied (they are less than 2^52), and else are to be carried.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn negated(&self) -> [__m512i; 5] {
        let a = &self.0;
        [
            _mm512_sub_epi64(all(TWICE_P[0]), a[0]),
            _mm512_sub_epi64(all(TWICE_P[1]), a[1]),
            _mm512_sub_epi64(all(TWICE_P[2]), a[2]),
            _mm512_sub_epi64(all(TWICE_P[3]), a[3]),
            _mm512_sub_epi64(all(TWICE_P[4]), a[4]),
        ]
    }

    /// The product of elements with limbs less than 2^52.
    ///
    /// An upper half is of twice the weight of the next limb, as a limb has one bit less than a half. So upper halves are added
    /// up first, then doubled, and the lower halves added on top.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn mul(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let mut columns = [_mm512_setzero_si512(); 10];
        for i in 0..5 {
            for j in 0..5 {
                let column = &mut columns[i + j + 1];
                *column = _mm512_madd52hi_epu64(*column, a[i], b[j]);
            }
        }
        for column in &mut columns {
            *column = _mm512_add_epi64(*column, *column);
        }
        for i in 0..5 {
            for j in 0..5 {
                let column = &mut columns[i + j];
                *column = _mm512_madd52lo_epu64(*column, a[i], b[j]);
            }
        }
        folded(&columns)
    }

    /// The square of an element with limbs less than 2^52: products of two different limbs once, and doubled.
    ///
    /// When an element is inverted each square waits for the one before, so that sums are short here, one for each weight, and
    /// the lowest limb, which is the last to be known, comes last (2.1 us for an inversion; 2.5 with sums as for a product).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn square(&self) -> Self {
        let a = &self.0;
        let zero = _mm512_setzero_si512();
        let (mut once, mut twice, mut four_times) = ([zero; 10], [zero; 10], [zero; 10]);
        for i in (0..5).rev() {
            let k = 2 * i;
            once[k] = _mm512_madd52lo_epu64(once[k], a[i], a[i]);
            twice[k + 1] = _mm512_madd52hi_epu64(twice[k + 1], a[i], a[i]);
            for j in (i + 1..5).rev() {
                let k = i + j;
                twice[k] = _mm512_madd52lo_epu64(twice[k], a[i], a[j]);
                four_times[k + 1] = _mm512_madd52hi_epu64(four_times[k + 1], a[i], a[j]);
            }
        }
        for k in 0..10 {
            let four_times = _mm512_add_epi64(four_times[k], four_times[k]);
            let twice = _mm512_add_epi64(twice[k], four_times);
            once[k] = _mm512_add_epi64(once[k], _mm512_add_epi64(twice, twice));
        }
        folded(&once)
    }

    /// To the power of 2^squares, times another. Not inlined, for [`Lanes::invert`] is nothing else, twelve times.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline(never)]
    fn raised(&self, squares: u32, other: &Self) -> Self {
        let mut power = *self;
        for _ in 0..squares {
            power = power.square();
        }
        power.mul(other)
    }

    /// The inverse; zero for zero. To the power of p - 2, by 253 squares and 12 products whatever the element is.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn invert(&self) -> Self {
        // Named by the exponent; `ones_n` is to the power of 2^n - 1.
        let two = self.raised(0, self);
        let nine = two.raised(2, self);
        let eleven = nine.raised(0, &two);
        let ones_5 = eleven.raised(1, &nine);
        let ones_10 = ones_5.raised(5, &ones_5);
        let ones_20 = ones_10.raised(10, &ones_10);
        let ones_40 = ones_20.raised(20, &ones_20);
        let ones_50 = ones_40.raised(10, &ones_10);
        let ones_100 = ones_50.raised(50, &ones_50);
        let ones_200 = ones_100.raised(100, &ones_100);
        let ones_250 = ones_200.raised(50, &ones_50);
        // 2^255 - 2^5 + 11.
        ones_250.raised(5, &eleven)
    }
}

/// Sums of limbs, which are to be carried.
#[target_feature(enable = "avx512f")]
#[inline]
fn sum(a: &[__m512i; 5], b: &[__m512i; 5]) -> [__m512i; 5] {
    [
        _mm512_add_epi64(a[0], b[0]),
        _mm512_add_epi64(a[1], b[1]),
        _mm512_add_epi64(a[2], b[2]),
        _mm512_add_epi64(a[3], b[3]),
        _mm512_add_epi64(a[4], b[4]),
    ]
}

/// The sum of columns, each of the weight of the limb of its number, modulo p: from 2^255 on times 19.
///
/// No more than 15 halves of less than 2^52 are in a column of a product. With 19 times the upper columns that is less than
/// 2^61, in the highest limb less than 51 * 2^52.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
#[inline]
fn folded(columns: &[__m512i; 10]) -> Lanes {
    // For this AVX-512DQ is needed. By what there is without a share takes a fifth longer.
    let limb = |k: usize| {
        let folded = _mm512_mullo_epi64(columns[k + 5], all(19));
        _mm512_add_epi64(columns[k], folded)
    };
    carried([limb(0), limb(1), limb(2), limb(3), limb(4)])
}

/// Passes on what is larger than a limb, from every one at once. Limbs are less than 2^61, the highest less than 102 * 2^51:
/// less than 2^10 is passed on, and from the highest to the lowest 19 times less than 102, which is less than 2^11.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
#[inline]
fn carried(limbs: [__m512i; 5]) -> Lanes {
    let [a, b, c, d, e] = limbs;
    let over = |limb| _mm512_srli_epi64::<BITS>(limb);
    let rest = |limb| _mm512_and_si512(limb, all(MASK));
    Lanes([
        _mm512_madd52lo_epu64(rest(a), over(e), all(19)),
        _mm512_add_epi64(rest(b), over(a)),
        _mm512_add_epi64(rest(c), over(b)),
        _mm512_add_epi64(rest(d), over(c)),
        _mm512_add_epi64(rest(e), over(d)),
    ])
}

/// The digit of each lane's number that is taken 16 to the power of `place` times, from -8 to 8, out of what
/// [`super::recode`] makes of the number: words of sixteen digits.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn digits(words: &Words, place: usize) -> __m512i {
    let shift = _mm_cvtsi64_si128(4 * (place % 16) as i64);
    let bits = _mm512_srl_epi64(load(&words[place / 16]), shift);
    // To the highest nothing was added.
    let added = if place == 63 { 0 } else { 8 };
    _mm512_sub_epi64(_mm512_and_si512(bits, all(15)), all(added))
}

#[cfg(test)]
mod tests;
