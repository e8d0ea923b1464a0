//! The same, of big integers and by the textbook: what the tests compare with.

use num_bigint::BigUint;
use proptest::prelude::*;

use super::field::{BITS, CARRIED, Field, MASK};

/// Any element may be multiplied that has limbs less than this.
pub(super) const FULL: u64 = 1 << 52;

pub(super) fn p() -> BigUint {
    (BigUint::from(1u32) << 255) - 19u32
}

/// What limbs stand for, which may be p and more.
pub(super) fn big(element: &Field) -> BigUint {
    let mut number = BigUint::ZERO;
    for limb in element.0.iter().rev() {
        number = (number << BITS) + limb;
    }
    number
}

pub(super) fn field_of(number: &BigUint) -> Field {
    let mut digits = (number % p()).to_u64_digits();
    digits.resize(4, 0);
    Field::new(digits.try_into().unwrap())
}

/// Elements with limbs near which carries and reductions go wrong, all of them less than `bound`.
pub(super) fn edges(bound: u64) -> Vec<Field> {
    let limbs = [0, 1, MASK - 18, MASK, CARRIED - 1, FULL - 1];
    let limbs: Vec<u64> = limbs.into_iter().filter(|limb| *limb < bound).collect();
    let mut edges = vec![Field::ZERO];
    for place in 0..5 {
        edges = edges
            .iter()
            .flat_map(|edge| {
                limbs.iter().map(|limb| {
                    let mut edge = *edge;
                    edge.0[place] = *limb;
                    edge
                })
            })
            .collect();
    }
    edges.extend((0..40).map(|distance| field_of(&(p() - 1u32 - distance as u32))));
    // From p on the numbers are elements again.
    edges.extend((0..19).map(|distance| Field([MASK - 18 + distance, MASK, MASK, MASK, MASK])));
    edges
}

/// Any element with limbs less than `bound`.
pub(super) fn any_element(bound: u64) -> impl Strategy<Value = Field> {
    let limb = prop_oneof![
        4 => 0..bound,
        1 => prop::sample::select(vec![0, 1, MASK, bound - 1]),
    ];
    prop::array::uniform5(limb).prop_map(Field)
}

/// An affine point of the Edwards curve.
pub(super) type Point = (BigUint, BigUint);

pub(super) fn neutral() -> Point {
    (BigUint::ZERO, BigUint::from(1u32))
}

/// Multiples of a point, from zero times it on.
pub(super) fn multiples(point: &Point, count: usize) -> Vec<Point> {
    let mut multiples = vec![neutral()];
    while multiples.len() < count {
        multiples.push(sum(&multiples[multiples.len() - 1], point));
    }
    multiples
}

/// The base point: y is 4/5 and x even (RFC 8032 §5.1).
pub(super) fn base() -> Point {
    let y = 4u32 * inverse(&BigUint::from(5u32)) % p();
    let x = square_root(&x_squared(&y)).unwrap();
    (if x.bit(0) { p() - x } else { x }, y)
}

pub(super) fn negative((x, y): &Point) -> Point {
    ((p() - x) % p(), y.clone())
}

pub(super) fn sum((ax, ay): &Point, (bx, by): &Point) -> Point {
    let product = d() * ax * ay * bx * by % p();
    let x = (ax * by + ay * bx) * inverse(&(&product + 1u32));
    let y = (ay * by + ax * bx) * inverse(&(p() + 1u32 - &product));
    (x % p(), y % p())
}

/// All points that eight times are the neutral element.
pub(super) fn small_points() -> Vec<Point> {
    // A point of order 8: the y of it is a root of d y^4 + 2 y^2 - 1, whose double has y = 0.
    let root = square_root(&(d() + 1u32)).unwrap();
    let y = [&root + p() - 1u32, p() + p() - &root - 1u32]
        .into_iter()
        .find_map(|number| square_root(&(number * inverse(&d()) % p())))
        .unwrap();
    let point = (square_root(&x_squared(&y)).unwrap(), y);
    let points = multiples(&point, 8);
    assert_eq!(sum(&points[7], &point), neutral());
    assert_ne!(points[4], neutral());
    points
}

/// Of the curve's equation (RFC 8032 §5.1).
pub(super) fn d() -> BigUint {
    (p() - 121_665u32) * inverse(&BigUint::from(121_666u32)) % p()
}

fn x_squared(y: &BigUint) -> BigUint {
    let square = y * y % p();
    (&square + p() - 1u32) * inverse(&(d() * square + 1u32)) % p()
}

pub(super) fn inverse(number: &BigUint) -> BigUint {
    number.modinv(&p()).unwrap()
}

/// p is 5 modulo 8 (RFC 8032 §5.1.3).
fn square_root(square: &BigUint) -> Option<BigUint> {
    let p = p();
    let root = square.modpow(&((&p + 3u32) / 8u32), &p);
    let of_minus_one = BigUint::from(2u32).modpow(&((&p - 1u32) / 4u32), &p);
    [root.clone(), root * of_minus_one % &p]
        .into_iter()
        .find(|root| root * root % &p == square % &p)
}
