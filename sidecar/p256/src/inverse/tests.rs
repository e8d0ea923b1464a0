use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::field::P;
use crate::oracle::{any_number, big, edges, limbs_of};
use crate::scalar::N;

fn check(number: &Limbs) {
    for limbs in [P, N] {
        let modulus = big(&limbs);
        let number = big(number) % &modulus;
        let expected = number.modinv(&modulus).unwrap_or(BigUint::ZERO);
        let inverse = invert(&limbs_of(&number), &Modulus::new(&limbs));
        assert_eq!(big(&inverse), expected, "1/{number:x} modulo {modulus:x}");
    }
}

#[test]
fn edges_have_the_inverses_of_big_integers() {
    edges().iter().for_each(check);
}

#[test]
fn powers_of_two_and_their_neighbours_have_theirs() {
    for bit in 0..256usize {
        let mut power = [0; 4];
        power[bit / 64] = 1 << (bit % 64);
        check(&power);
        check(&limbs::add(&power, &[1, 0, 0, 0]).0);
        check(&limbs::sub(&power, &[1, 0, 0, 0]).0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn any_number_has_the_inverse_of_big_integers(number in any_number()) {
        check(&number);
    }
}
