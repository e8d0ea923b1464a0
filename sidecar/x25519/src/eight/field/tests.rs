use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::eight::oracle::{FULL, any_element, big, edges, field_of, p};

fn check(a: &Field, b: &Field) {
    let (x, y) = (big(a), big(b));
    let is = |result: Field, expected: BigUint, what| {
        assert!(
            result.0.iter().all(|limb| *limb < CARRIED),
            "{what} of {a:x?} and {b:x?} has too large a limb: {result:x?}"
        );
        assert_eq!(
            big(&result) % p(),
            expected % p(),
            "{what} of {a:x?} and {b:x?}"
        );
    };
    is(a.add(b), &x + &y, "sum");
    is(a.sub(b), &x + 4u32 * p() - &y, "difference");
    is(a.mul(b), &x * &y, "product");
}

/// As it is told, and as it is held in the table.
fn check_number(element: &Field) {
    let number = big(element) % p();
    let canonical = element.canonical();
    assert_eq!(big(&canonical), number, "{element:x?}");
    assert!(canonical.0.iter().all(|limb| *limb <= MASK), "{element:x?}");
    assert_eq!(
        BigUint::from_bytes_le(&element.bytes()),
        number,
        "{element:x?}"
    );
    assert_eq!(field_of(&number).0, canonical.0);
}

#[test]
fn edges_agree_with_big_integers() {
    let elements = edges(FULL);
    for (index, a) in elements.iter().enumerate() {
        check_number(a);
        check(a, a);
        for b in elements.iter().skip(index % 1009).step_by(1009) {
            check(a, b);
        }
    }
}

#[test]
fn inverses_of_edges_are_inverses() {
    for element in edges(CARRIED).iter().step_by(7) {
        let is_zero = (big(element) % p()) == BigUint::ZERO;
        let expected = BigUint::from(u32::from(!is_zero));
        assert_eq!(
            big(&element.mul(&element.invert()).canonical()),
            expected,
            "{element:x?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn any_elements_agree_with_big_integers(a in any_element(FULL), b in any_element(FULL)) {
        check(&a, &b);
        check_number(&a);
    }
}
