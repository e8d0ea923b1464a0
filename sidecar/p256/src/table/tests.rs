use num_bigint::{BigInt, BigUint};
use proptest::prelude::*;

use super::*;
use crate::oracle::{
    affine_of, any_number, big, edges, generator, limbs_of, n, negative, point_of,
    point_of_jacobian, product, sum,
};
use crate::point::GENERATOR;

/// What digits stand for.
fn value<const WIDTH: u32>(digits: &Digits) -> BigInt {
    let per_column = Table::<WIDTH>::DIGITS;
    let mut value = BigInt::ZERO;
    for level in 0..SPACING {
        for (place, is_negative) in digits.at(level) {
            let (column, digit) = (
                usize::from(*place) / per_column,
                2 * (usize::from(*place) % per_column) + 1,
            );
            let part = BigInt::from(digit) << (column * SPACING + level);
            value += if *is_negative { -part } else { part };
        }
    }
    value
}

fn check_digits(number: &Limbs) {
    assert_eq!(value::<7>(&Digits::new::<7>(number)), big(number).into());
    assert_eq!(value::<9>(&Digits::new::<9>(number)), big(number).into());
    assert_eq!(value::<5>(&Digits::new::<5>(number)), big(number).into());
}

#[test]
fn digits_of_edges_stand_for_the_number() {
    edges().iter().for_each(check_digits);
}

#[test]
fn a_table_holds_the_multiples_that_its_places_say() {
    let point = product(&BigUint::from(77u32), &generator());
    let table = Table::<7>::new(affine_of(&point));
    let mut base = point;
    for (column, held) in table.points.chunks(Table::<7>::DIGITS).enumerate() {
        let twice = sum(&base, &base);
        let mut expected = base.clone();
        for (digit, held) in held.iter().enumerate() {
            assert_eq!(point_of(held), expected, "digit {digit} of {column}");
            expected = sum(&expected, &twice);
        }
        base = (0..SPACING).fold(base, |base, _| sum(&base, &base));
    }
    assert_eq!(table.points.len(), COLUMNS * Table::<7>::DIGITS);
}

#[test]
fn sums_are_right_where_the_two_products_meet() {
    let g_table = Table::<9>::new(GENERATOR);
    let small = [1u32, 2, 3, 63, 65, 257].map(BigUint::from);
    let factors = small.iter().flat_map(|factor| {
        let shifted = factor << 24usize;
        [factor.clone(), n() - factor, n() - &shifted, shifted]
    });
    for factor in factors {
        let q = product(&factor, &generator());
        let q_table = Table::<7>::new(affine_of(&q));
        let inverse = factor.modinv(&n());
        for a in [0u32, 1, 2, 63, 64, 255, 256, 510].map(BigUint::from) {
            // Of the other product what cancels the first, and what equals it, and their neighbours.
            let equal = &a * inverse.as_ref().unwrap_or(&BigUint::ZERO) % n();
            let opposite = (n() - &equal) % n();
            let near = |number: &BigUint| {
                [
                    (number + 1u32) % n(),
                    (number + n() - 1u32) % n(),
                    number.clone(),
                ]
            };
            for b in near(&equal)
                .into_iter()
                .chain(near(&opposite))
                .chain([a.clone()])
            {
                let result = sum_of_products((&limbs_of(&a), &g_table), (&limbs_of(&b), &q_table));
                let expected = product(&((&a + &b * &factor) % n()), &generator());
                assert_eq!(
                    point_of_jacobian(&result),
                    expected,
                    "{a} G + {b} * {factor} G"
                );
            }
        }
    }
}

#[test]
fn opposite_keys_and_multipliers_cancel() {
    let minus = Table::<7>::new(affine_of(&negative(&generator())));
    let g = Table::<9>::new(GENERATOR);
    for number in edges() {
        let result = sum_of_products((&number, &g), (&number, &minus));
        assert_eq!(point_of_jacobian(&result), None, "{number:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_sum_is_that_of_the_textbook(a in any_number(), b in any_number(), key in any_number()) {
        check_digits(&a);
        let q = product(&(big(&key) % (n() - 1u32) + 1u32), &generator());
        let tables = (Table::<9>::new(GENERATOR), Table::<7>::new(affine_of(&q)));
        let result = sum_of_products((&a, &tables.0), (&b, &tables.1));
        let expected = sum(&product(&big(&a), &generator()), &product(&big(&b), &q));
        prop_assert_eq!(point_of_jacobian(&result), expected);
    }
}
