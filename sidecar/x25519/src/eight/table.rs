//! Multiples of the base point that are computed once, so that any other multiple is the sum of a few.
//!
//! A window has 1 to 8 times a point, the windows those of the base point times 256^0 to 256^31: a digit of base 16 that
//! is even in number picks one of them as it is, one that is odd in number a sixteenth.

use std::arch::x86_64::{
    __m512i, _mm512_abs_epi64, _mm512_cmplt_epi64_mask, _mm512_mask_blend_epi64,
    _mm512_mask_permutexvar_epi64, _mm512_mask_sub_epi64, _mm512_maskz_permutexvar_epi64,
    _mm512_setzero_si512, _mm512_sub_epi64, _mm512_test_epi64_mask,
};

use super::curve::Summand;
use super::field::{Field, TWICE_P};
use super::lanes::{Lanes, all, load};

/// Windows: one for two of 64 digits.
const WINDOWS: usize = 32;
/// Multiples in a window, of all that a digit's magnitude can be but zero: as many as words are permuted at once.
const MULTIPLES: usize = 8;

/// The base point's, u = 9 (RFC 7748 §4.1).
const BASE: [Field; 2] = [
    Field::new([
        0xc956_2d60_8f25_d51a,
        0x692c_c760_9525_a7b2,
        0xc0a4_e231_fdd6_dc5c,
        0x2169_36d3_cd6e_53fe,
    ]),
    Field::new([
        0x6666_6666_6666_6658,
        0x6666_6666_6666_6666,
        0x6666_6666_6666_6666,
        0x6666_6666_6666_6666,
    ]),
];

/// Twice the curve's d, which is -121665 / 121666.
const TWICE_D: Field = Field::new([
    0xebd6_9b94_26b2_f159,
    0x00e0_149a_8283_b156,
    0x198e_80f2_eef3_d130,
    0x2406_d9dc_56df_fce7,
]);

/// One limb of each multiple.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Limb([u64; MULTIPLES]);

/// Multiples as [`Summand`]s, each number less than p.
#[derive(Clone, Copy)]
pub(super) struct Window {
    plus: [Limb; 5],
    minus: [Limb; 5],
    product: [Limb; 5],
}

/// The windows.
pub(super) struct Table(Box<[Window]>);

impl Table {
    /// Computes the multiples.
    pub(super) fn new() -> Self {
        let [x, y] = BASE;
        let mut power = Point {
            x,
            y,
            z: Field::ONE,
            t: x.mul(&y),
        };
        let mut points = Vec::with_capacity(WINDOWS * MULTIPLES);
        for _ in 0..WINDOWS {
            let mut multiple = power;
            points.push(multiple);
            for _ in 1..MULTIPLES {
                multiple = multiple.add(&power);
                points.push(multiple);
            }
            // 8, and 2^5 times that.
            for _ in 0..5 {
                multiple = multiple.add(&multiple);
            }
            power = multiple;
        }
        let affine = affine(&points);
        Self(affine.as_chunks().0.iter().map(Window::new).collect())
    }

    /// From the lowest.
    #[inline]
    pub(super) fn windows(&self) -> impl Iterator<Item = &Window> {
        self.0.iter()
    }
}

impl Window {
    fn new(multiples: &[[Field; 2]; MULTIPLES]) -> Self {
        let limbs = |number: fn(&Field, &Field) -> Field| {
            let numbers = multiples.each_ref().map(|[x, y]| number(x, y).canonical());
            std::array::from_fn(|limb| Limb(numbers.map(|number| number.0[limb])))
        };
        Self {
            plus: limbs(|x, y| y.add(x)),
            minus: limbs(|x, y| y.sub(x)),
            product: limbs(|x, y| x.mul(y).mul(&TWICE_D)),
        }
    }

    /// In each lane the window's point times a digit, from -8 to 8.
    ///
    /// The whole window is read. Which multiple a lane is given is up to the permutation of words in a register by others,
    /// the neutral element and the opposite to masks; none of these takes a time that depends on its operands.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn look_up(&self, digits: __m512i) -> Summand {
        let is_other = _mm512_test_epi64_mask(digits, digits);
        let is_negative = _mm512_cmplt_epi64_mask(digits, _mm512_setzero_si512());
        // Of zero some multiple, which is not taken.
        let index = _mm512_sub_epi64(_mm512_abs_epi64(digits), all(1));
        let or = |neutral, limb: &Limb| {
            _mm512_mask_permutexvar_epi64(neutral, is_other, index, load(&limb.0))
        };
        let or_zero = |limb: &Limb| _mm512_maskz_permutexvar_epi64(is_other, index, load(&limb.0));
        let number = |limbs: &[Limb; 5]| {
            let [a, b, c, d, e] = limbs;
            [
                or(all(1), a),
                or_zero(b),
                or_zero(c),
                or_zero(d),
                or_zero(e),
            ]
        };
        let (plus, minus) = (number(&self.plus), number(&self.minus));
        let choose = |other: &[__m512i; 5], negative: &[__m512i; 5]| {
            let limb = |i: usize| _mm512_mask_blend_epi64(is_negative, other[i], negative[i]);
            Lanes([limb(0), limb(1), limb(2), limb(3), limb(4)])
        };
        let product = |i: usize| {
            let limb = or_zero(&self.product[i]);
            _mm512_mask_sub_epi64(limb, is_negative, all(TWICE_P[i]), limb)
        };
        Summand {
            plus: choose(&plus, &minus),
            minus: choose(&minus, &plus),
            product: Lanes([product(0), product(1), product(2), product(3), product(4)]),
        }
    }
}

/// A point (x / z, y / z), and t = x y / z.
#[derive(Clone, Copy)]
struct Point {
    x: Field,
    y: Field,
    z: Field,
    t: Field,
}

impl Point {
    /// The sum, of equal points too, as in [`super::curve`].
    fn add(&self, other: &Self) -> Self {
        let a = self.y.sub(&self.x).mul(&other.y.sub(&other.x));
        let b = self.y.add(&self.x).mul(&other.y.add(&other.x));
        let c = self.t.mul(&TWICE_D).mul(&other.t);
        let d = self.z.add(&self.z).mul(&other.z);
        let (e, f, g, h) = (b.sub(&a), d.sub(&c), d.add(&c), b.add(&a));
        Self {
            x: e.mul(&f),
            y: g.mul(&h),
            z: f.mul(&g),
            t: e.mul(&h),
        }
    }
}

/// The x and y of points, by one inverse for all.
fn affine(points: &[Point]) -> Vec<[Field; 2]> {
    // Before each point the product of all z before it.
    let mut product = Field::ONE;
    let mut before = Vec::with_capacity(points.len());
    for point in points {
        before.push(product);
        product = product.mul(&point.z);
    }
    let mut inverse = product.invert();
    let mut affine = Vec::with_capacity(points.len());
    for (point, before) in points.iter().zip(before).rev() {
        let own = inverse.mul(&before);
        inverse = inverse.mul(&point.z);
        affine.push([point.x.mul(&own), point.y.mul(&own)]);
    }
    affine.reverse();
    affine
}

#[cfg(test)]
mod tests;
