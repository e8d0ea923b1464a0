//! Arithmetic modulo p = 2^255 - 19 in eight lanes side by side, and the digits of eight numbers.
//!
//! An element is five limbs of 51 bits, as in [`super::field`]. The processor multiplies what is less than 2^52 and has the
//! lower 52 bits of a product and the upper ones as it is asked. A limb that is [`CARRIED`] may be multiplied, a sum of two
//! such limbs may not; so that sums and differences are carried at once.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm512_add_epi64,
    _mm512_and_si512, _mm512_extracti32x4_epi32, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_set_epi64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srl_epi64,
    _mm512_srli_epi64, _mm512_sub_epi64,
};

#[cfg(doc)]
use super::field::CARRIED;
use super::field::{BITS, Field, MASK, TWICE_P};
use super::{COUNT, Words};

/// One word for each lane.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(words: &[u64; COUNT]) -> __m512i {
    let [a, b, c, d, e, f, g, h] = words.map(u64::cast_signed);
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

/// The word of each lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(words: __m512i) -> [u64; COUNT] {
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

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn add(&self, other: &Self) -> Self {
        carried(sum(&self.0, &other.0))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn sub(&self, other: &Self) -> Self {
        carried(sum(&self.0, &other.negated()))
    }

    /// Twice the element and another with limbs less than 2^52.
    #[target_feature(enable = "avx512f,avx512ifma")]
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
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn mul(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let mut low = [_mm512_setzero_si512(); 9];
        let mut high = [_mm512_setzero_si512(); 9];
        for i in 0..5 {
            for j in 0..5 {
                low[i + j] = _mm512_madd52lo_epu64(low[i + j], a[i], b[j]);
                high[i + j] = _mm512_madd52hi_epu64(high[i + j], a[i], b[j]);
            }
        }
        reduced(&low, &high)
    }

    /// The square of an element with limbs less than 2^52: products of two different limbs once, and doubled.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn square(&self) -> Self {
        let a = &self.0;
        let mut low = [_mm512_setzero_si512(); 9];
        let mut high = [_mm512_setzero_si512(); 9];
        for i in 0..5 {
            for j in i + 1..5 {
                low[i + j] = _mm512_madd52lo_epu64(low[i + j], a[i], a[j]);
                high[i + j] = _mm512_madd52hi_epu64(high[i + j], a[i], a[j]);
            }
        }
        for k in 1..8 {
            low[k] = _mm512_add_epi64(low[k], low[k]);
            high[k] = _mm512_add_epi64(high[k], high[k]);
        }
        for i in 0..5 {
            low[2 * i] = _mm512_madd52lo_epu64(low[2 * i], a[i], a[i]);
            high[2 * i] = _mm512_madd52hi_epu64(high[2 * i], a[i], a[i]);
        }
        reduced(&low, &high)
    }

    /// To the power of 2^count.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn squared(&self, count: u32) -> Self {
        let mut power = *self;
        for _ in 0..count {
            power = power.square();
        }
        power
    }

    /// The inverse; zero for zero. To the power of p - 2, by 254 squares and 11 products whatever the element is.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn invert(&self) -> Self {
        // Named by the exponent; `ones_n` is to the power of 2^n - 1.
        let two = self.square();
        let nine = two.squared(2).mul(self);
        let eleven = nine.mul(&two);
        let ones_5 = eleven.square().mul(&nine);
        let ones_10 = ones_5.squared(5).mul(&ones_5);
        let ones_20 = ones_10.squared(10).mul(&ones_10);
        let ones_40 = ones_20.squared(20).mul(&ones_20);
        let ones_50 = ones_40.squared(10).mul(&ones_10);
        let ones_100 = ones_50.squared(50).mul(&ones_50);
        let ones_200 = ones_100.squared(100).mul(&ones_100);
        let ones_250 = ones_200.squared(50).mul(&ones_50);
        // 2^255 - 2^5 + 11.
        ones_250.squared(5).mul(&eleven)
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

/// What the halves of products of limbs add up to, modulo p. `low[k]` is of the weight of limb k, which are the products of
/// limbs i and k - i; `high[k]` of twice that of limb k + 1, for a limb has one bit less than a half.
///
/// No more than five products are in one of them: with the halves doubled a column is less than 15 * 2^52, and with what is
/// of 2^255 and therefore times 19, less than 2^61.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn reduced(low: &[__m512i; 9], high: &[__m512i; 9]) -> Lanes {
    let twice = |half| _mm512_add_epi64(half, half);
    let column = |k: usize| match k {
        0 => low[0],
        9 => twice(high[8]),
        _ => _mm512_add_epi64(low[k], twice(high[k - 1])),
    };
    let folded = |k: usize| {
        let upper = column(k + 5);
        let three = _mm512_add_epi64(upper, twice(upper));
        let nineteen = _mm512_add_epi64(three, _mm512_slli_epi64::<4>(upper));
        _mm512_add_epi64(column(k), nineteen)
    };
    carried([folded(0), folded(1), folded(2), folded(3), folded(4)])
}

/// Passes on what is larger than a limb, from every one at once. Limbs are less than 2^61, the highest less than 2^58: what is
/// passed on is less than 2^10, and 19 times less than 2^7 from the highest to the lowest.
#[target_feature(enable = "avx512f,avx512ifma")]
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

/// The digits of the number in each lane, by what [`super::recoded`] makes of it: sixteen in a word.
pub(super) struct Digits([__m512i; 4]);

impl Digits {
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(words: &Words) -> Self {
        let [a, b, c, d] = words;
        Self([load(a), load(b), load(c), load(d)])
    }

    /// The digit of each lane that 16 to the power of `place` times is in the number: from -8 to 8.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn at(&self, place: usize) -> __m512i {
        let shift = _mm_cvtsi64_si128(4 * (place % 16) as i64);
        let bits = _mm512_srl_epi64(self.0[place / 16], shift);
        // To the highest nothing was added.
        let added = if place == 63 { 0 } else { 8 };
        _mm512_sub_epi64(_mm512_and_si512(bits, all(15)), all(added))
    }
}

#[cfg(test)]
mod tests;
