use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::oracle::{any_number, big, edges, n};

fn check(a: &Limbs, b: &Limbs) {
    let (a, b) = (Scalar::reduced(a), Scalar::reduced(b));
    let (x, y) = (big(&a.0), big(&b.0));
    let product = a.to_montgomery().multiply_reduced(&b);
    assert!(limbs::is_less(&product.0, &N));
    assert_eq!(big(&product.0), x * y % n(), "{a:?} times {b:?}");
}

#[test]
fn products_of_edges_agree_with_big_integers() {
    let edges = edges();
    for (index, a) in edges.iter().enumerate() {
        for b in edges.iter().skip(index % 61).step_by(61) {
            check(a, b);
        }
        check(a, a);
    }
}

#[test]
fn numbers_are_reduced_and_those_out_of_range_refused() {
    for number in edges() {
        let value = big(&number);
        assert_eq!(big(&Scalar::reduced(&number).0), &value % n());
        let in_range = value > BigUint::ZERO && value < n();
        assert_eq!(Scalar::nonzero(&number).is_some(), in_range, "{number:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_product_agrees_with_big_integers(a in any_number(), b in any_number()) {
        check(&a, &b);
    }
}
