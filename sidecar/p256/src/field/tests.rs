use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::oracle::{any_number, big, edges, p};

fn elements() -> Vec<Field> {
    let mut elements: Vec<_> = edges().iter().filter_map(Field::new).collect();
    // Words as they are held are edges too.
    let held = edges()
        .into_iter()
        .filter(|words| limbs::is_less(words, &P));
    elements.extend(held.map(Field::from_montgomery));
    elements
}

fn check(a: &Field, b: &Field) {
    let (x, y) = (big(&a.number()), big(&b.number()));
    let is = |result: Field, expected: BigUint, what| {
        assert!(
            limbs::is_less(&result.0, &P),
            "{what} of {a:?} and {b:?} is not reduced"
        );
        assert_eq!(
            big(&result.number()),
            expected % p(),
            "{what} of {a:?} and {b:?}"
        );
    };
    is(a.add(b), &x + &y, "sum");
    is(a.sub(b), &x + p() - &y, "difference");
    is(a.mul(b), &x * &y, "product");
    is(a.square(), &x * &x, "square");
    is(a.double(), &x + &x, "double");
    is(a.negate(), p() - &x, "opposite");
    assert_eq!(a == b, x == y);
    assert_eq!(a.is_zero(), x == BigUint::ZERO);
}

#[test]
fn edges_agree_with_big_integers() {
    let elements = elements();
    for (index, a) in elements.iter().enumerate() {
        // Not every pair: a few hundred thousand, each element with others that differ from run to run of this loop.
        for b in elements.iter().skip(index % 61).step_by(61) {
            check(a, b);
        }
        check(a, a);
    }
}

#[test]
fn what_is_not_less_than_p_is_no_element() {
    for number in edges() {
        let element = Field::new(&number);
        assert_eq!(element.is_some(), big(&number) < p(), "{number:x?}");
        if let Some(element) = element {
            assert_eq!(element.number(), number);
        }
    }
}

#[test]
fn inverses_of_edges_are_inverses() {
    for element in elements() {
        let one = if element.is_zero() {
            Field::ZERO
        } else {
            Field::ONE
        };
        assert_eq!(element.mul(&element.invert()), one, "{element:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_elements_agree_with_big_integers(a in any_number(), b in any_number()) {
        let element = |number| Field(limbs::reduce_once(number, false, &OPPOSITE));
        check(&element(&a), &element(&b));
    }
}
