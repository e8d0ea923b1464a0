use num_bigint::BigUint;

use super::*;
use crate::oracle::{self, Point, affine_of, generator, point_of, point_of_jacobian, product};

/// A point in another spelling: `z` is not one.
fn respelled(point: &Point, factor: &Field) -> Jacobian {
    let Some(_) = point else {
        return Jacobian {
            z: Field::ZERO,
            ..respelled(&generator(), factor)
        };
    };
    let Affine { x, y } = affine_of(point);
    let square = factor.square();
    Jacobian {
        x: x.mul(&square),
        y: y.mul(&square).mul(factor),
        z: *factor,
    }
}

fn multiples() -> Vec<Point> {
    let n = oracle::n();
    let near_n = (1u32..8).map(|distance| &n - distance);
    let small = (0u32..12).map(BigUint::from);
    let factors = small.chain(near_n).chain([&n / 2u32, &n / 3u32]);
    factors
        .map(|factor| product(&factor, &generator()))
        .collect()
}

#[test]
fn the_sum_of_any_two_is_right_equal_opposite_and_infinite_ones_too() {
    let factor = Field::new(&[7, 1, 1 << 60, 3]).unwrap();
    for a in &multiples() {
        for factor in [Field::ONE, factor] {
            let left = respelled(a, &factor);
            let doubled = left.double();
            assert_eq!(point_of_jacobian(&doubled), oracle::sum(a, a));
            for b in multiples().iter().filter(|b| b.is_some()) {
                let result = left.add(&affine_of(b));
                assert_eq!(
                    point_of_jacobian(&result),
                    oracle::sum(a, b),
                    "{a:?} + {b:?}"
                );
            }
        }
    }
}

#[test]
fn a_sum_of_what_sums_left_behind_is_right() {
    let g = GENERATOR;
    let zero = Jacobian::from(g).add(&g.negate());
    assert_eq!(point_of_jacobian(&zero), None);
    assert_eq!(point_of_jacobian(&zero.double()), None);
    assert_eq!(point_of_jacobian(&zero.double().add(&g)), generator());
}

#[test]
fn a_point_beside_the_curve_is_none() {
    let Affine { x, y } = GENERATOR;
    assert_eq!(Affine::new(x, y), Some(GENERATOR));
    assert_eq!(Affine::new(x, y.negate()), Some(GENERATOR.negate()));
    assert_eq!(Affine::new(y, x), None);
    assert_eq!(Affine::new(x, y.add(&Field::ONE)), None);
    assert_eq!(Affine::new(Field::ZERO, Field::ZERO), None);
}

#[test]
fn many_are_brought_to_one_denominator_at_once() {
    let points: Vec<Point> = multiples().into_iter().flatten().map(Some).collect();
    let factor = |index: u64| Field::new(&[index + 1, index, 5, 9]).unwrap();
    let spelled: Vec<_> = (0..)
        .zip(&points)
        .map(|(index, point)| respelled(point, &factor(index)))
        .collect();
    let affine: Vec<_> = to_affine(&spelled).iter().map(point_of).collect();
    assert_eq!(affine, points);
}
