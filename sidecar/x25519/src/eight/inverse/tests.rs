use num_bigint::{BigInt, BigUint};
use proptest::prelude::*;

use super::*;
use crate::eight::oracle::p;

fn words_of(number: &BigUint) -> [u64; 4] {
    let mut words = number.to_u64_digits();
    words.resize(4, 0);
    words.try_into().unwrap()
}

fn check(number: &BigUint) {
    let expected = number.modinv(&p()).unwrap_or_default();
    let found = inverse(&words_of(number));
    assert_eq!(found, words_of(&expected), "{number}");
}

#[test]
fn inverses_are_those_of_big_integers() {
    for small in 0..5_000u32 {
        check(&BigUint::from(small));
        check(&(p() - 1u32 - small));
    }
    for bit in 0..255 {
        let power: BigUint = BigUint::from(1u32) << bit;
        for distance in 0..8u32 {
            check(&((&power + distance) % p()));
            check(&((p() + &power - distance) % p()));
            check(&(p() / (&power + distance) % p()));
            check(&((power.modinv(&p()).unwrap() + distance) % p()));
        }
    }
}

fn limbs_of(number: &BigInt) -> Limbs {
    std::array::from_fn(|place| {
        let limb: BigInt = number >> (62 * place);
        let limb = if place == 4 {
            limb
        } else {
            limb & BigInt::from(MASK)
        };
        limb.try_into().unwrap()
    })
}

fn big(limbs: &Limbs) -> BigInt {
    let mut number = BigInt::ZERO;
    for limb in limbs.iter().rev() {
        number = (number << 62) + limb;
    }
    number
}

/// Numbers more than -2p and less than p.
fn signed_numbers() -> Vec<BigInt> {
    let p = BigInt::from(p());
    let near = [-2, -1, 0, 1].map(|times| times * &p);
    let halves = [-3, -1, 1].map(|times| times * &p / 2);
    let numbers = near.iter().chain(&halves);
    let numbers = numbers.flat_map(|near| (-5..=5).map(move |distance| near + distance));
    numbers
        .filter(|number| *number > -2 * &p && *number < p)
        .collect()
}

#[test]
fn a_number_of_either_sign_is_reduced() {
    let p = BigInt::from(p());
    for number in signed_numbers() {
        for sign in [1, -1] {
            let expected = ((&number * sign) % &p + &p) % &p;
            let reduced = reduced(limbs_of(&number), sign);
            assert_eq!(reduced, limbs_of(&expected), "{number} times {sign}");
        }
    }
}

/// Whatever is done to them by a matrix, numbers stay more than -2p and less than p.
#[test]
fn numbers_modulo_p_stay_in_their_range() {
    let p = BigInt::from(p());
    let (all, half) = (1i64 << 62, 1i64 << 61);
    let numbers = signed_numbers();
    for (u, v) in [
        (all, 0),
        (all - 1, 1),
        (half, half),
        (half + 1, half - 1),
        (12_345, all - 12_345),
    ] {
        for (u, v) in [(u, v), (-u, v), (u, -v), (-u, -v)] {
            let matrix = Matrix { u, v, q: v, r: u };
            for d in &numbers {
                for e in &numbers {
                    let (mut next_d, mut next_e) = (limbs_of(d), limbs_of(e));
                    matrix.apply_modulo_p(&mut next_d, &mut next_e);
                    for (next, expected) in [(next_d, u * d + v * e), (next_e, v * d + u * e)] {
                        let next = big(&next);
                        assert!(next > -2 * &p && next < p, "{u} {v} {d} {e}");
                        assert_eq!(((next << 62) - expected) % &p, BigInt::ZERO);
                    }
                }
            }
        }
    }
}

#[test]
fn limbs_are_the_bits_of_a_number() {
    for bit in 0..256 {
        let number: BigUint = BigUint::from(1u32) << bit;
        let limbs_of_it = limbs(&words_of(&number));
        let expected = std::array::from_fn(|limb| i64::from(bit / 62 == limb) << (bit % 62));
        assert_eq!(limbs_of_it, expected);
        assert_eq!(words(&limbs_of_it), words_of(&number));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_number_has_the_inverse_of_a_big_integer(words in any::<[u64; 4]>()) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        check(&(BigUint::from_bytes_le(&bytes) % p()));
    }
}
