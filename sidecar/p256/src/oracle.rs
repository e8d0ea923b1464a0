//! The same, of big integers and by the textbook: what the tests compare with.

#![allow(clippy::unwrap_used)]

use num_bigint::BigUint;

use crate::field::{Field, P};
use crate::limbs::{self, Limbs};
use crate::point::{Affine, GENERATOR, Jacobian};
use crate::scalar::N;

/// Numbers near which carries, borrows and reductions go wrong.
pub(crate) fn edges() -> Vec<Limbs> {
    let mut edges = Vec::new();
    let words = [0, 1, u64::MAX, 1 << 63, 0xffff_ffff, u64::MAX << 32];
    for a in words {
        for b in words {
            for c in words {
                edges.extend(words.map(|d| [a, b, c, d]));
            }
        }
    }
    for middle in [P, N, limbs::sub(&P, &N).0, [0, 0, 0, 1 << 63]] {
        for distance in 0..70 {
            edges.push(limbs::add(&middle, &[distance, 0, 0, 0]).0);
            edges.push(limbs::sub(&middle, &[distance, 0, 0, 0]).0);
        }
    }
    edges
}

/// Any number, one with long runs of zeros and ones more often than chance would have it.
pub(crate) fn any_number() -> impl proptest::strategy::Strategy<Value = Limbs> {
    use proptest::prelude::*;
    let word = prop_oneof![
        3 => any::<u64>(),
        1 => prop::sample::select(vec![0, u64::MAX, 1, 1 << 63]),
        1 => (0u32..64).prop_map(|bits| u64::MAX << bits),
        1 => (0u32..64).prop_map(|bits| u64::MAX >> bits),
    ];
    prop::array::uniform4(word)
}

pub(crate) fn big(number: &Limbs) -> BigUint {
    let bytes: Vec<u8> = number.iter().flat_map(|word| word.to_le_bytes()).collect();
    BigUint::from_bytes_le(&bytes)
}

pub(crate) fn limbs_of(number: &BigUint) -> Limbs {
    let mut digits = number.iter_u64_digits();
    let limbs = [(); 4].map(|()| digits.next().unwrap_or(0));
    assert_eq!(digits.next(), None);
    limbs
}

pub(crate) fn p() -> BigUint {
    big(&P)
}

pub(crate) fn n() -> BigUint {
    big(&N)
}

/// A point; `None` is the infinite one.
pub(crate) type Point = Option<(BigUint, BigUint)>;

pub(crate) fn point_of(point: &Affine) -> Point {
    Some((big(&point.x.number()), big(&point.y.number())))
}

pub(crate) fn point_of_jacobian(point: &Jacobian) -> Point {
    let inverse = point.z.invert();
    let square = inverse.square();
    (!point.z.is_zero()).then(|| {
        let (x, y) = (point.x.mul(&square), point.y.mul(&square).mul(&inverse));
        (big(&x.number()), big(&y.number()))
    })
}

/// Panics for the infinite point.
pub(crate) fn affine_of(point: &Point) -> Affine {
    let (x, y) = point.clone().unwrap();
    let element = |number| Field::new(&limbs_of(&number)).unwrap();
    Affine::new(element(x), element(y)).unwrap()
}

pub(crate) fn generator() -> Point {
    point_of(&GENERATOR)
}

pub(crate) fn negative(point: &Point) -> Point {
    let (x, y) = point.clone()?;
    Some((x, (p() - y) % p()))
}

pub(crate) fn sum(a: &Point, b: &Point) -> Point {
    let (Some((ax, ay)), Some((bx, by))) = (a, b) else {
        return a.clone().or_else(|| b.clone());
    };
    let p = p();
    let slope = if ax != bx {
        (by + &p - ay) * ((bx + &p - ax) % &p).modinv(&p).unwrap()
    } else if ay == by {
        (3u32 * ax * ax + &p - 3u32) * (2u32 * ay).modinv(&p).unwrap()
    } else {
        return None;
    };
    let x = (&slope * &slope + 2u32 * &p - ax - bx) % &p;
    let y = (slope * (ax + &p - &x) + &p - ay) % &p;
    Some((x, y))
}

pub(crate) fn product(number: &BigUint, point: &Point) -> Point {
    let opposite = n() - number % n();
    if opposite.bits() < number.bits() {
        return negative(&product(&opposite, point));
    }
    let mut result = None;
    for bit in (0..number.bits()).rev() {
        result = sum(&result, &result);
        if number.bit(bit) {
            result = sum(&result, point);
        }
    }
    result
}

/// The point with this x and an even y.
pub(crate) fn point_at(x: &BigUint) -> Point {
    let (p, curve_b) = (
        p(),
        BigUint::parse_bytes(
            b"5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
            16,
        ),
    );
    let square = (x * x * x + 3u32 * &p - 3u32 * x + curve_b.unwrap()) % &p;
    // p is 3 modulo 4.
    let y = square.modpow(&((&p + 1u32) / 4u32), &p);
    (&y * &y % &p == square).then(|| (x.clone(), if y.bit(0) { p - y } else { y }))
}
