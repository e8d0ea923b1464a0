use num_bigint::{BigInt, BigUint};
use proptest::prelude::*;

use super::*;
use crate::eight::Processor;
use crate::eight::field::CARRIED;
use crate::eight::oracle::{FULL, any_element, big, edges, p};

type Elements = [Field; COUNT];

/// Compares results with big integers, each lane's.
fn compare(what: &str, result: &Elements, bound: u64, expected: impl Fn(usize) -> BigUint) {
    for (lane, result) in result.iter().enumerate() {
        assert!(
            result.0.iter().all(|limb| *limb < bound),
            "{what} in lane {lane} has too large a limb: {result:x?}"
        );
        assert_eq!(
            big(result) % p(),
            expected(lane) % p(),
            "{what} in lane {lane}"
        );
    }
}

/// Of elements with limbs less than 2^52 what those may be in.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn check_products(a: &Elements, b: &Elements) {
    let (x, y) = (a.each_ref().map(big), b.each_ref().map(big));
    let (a, b) = (Lanes::new(a), Lanes::new(b));
    compare("product", &a.mul(&b).elements(), CARRIED, |lane| {
        &x[lane] * &y[lane]
    });
    compare("square", &a.square().elements(), CARRIED, |lane| {
        &x[lane] * &x[lane]
    });
}

/// Of carried elements the rest.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn check_sums(a: &Elements, b: &Elements) {
    let (x, y) = (a.each_ref().map(big), b.each_ref().map(big));
    let (a, b) = (Lanes::new(a), Lanes::new(b));
    let minus = |number: &BigUint| 2u32 * p() - number;
    compare("sum", &a.add(&b).elements(), CARRIED, |lane| {
        &x[lane] + &y[lane]
    });
    compare("difference", &a.sub(&b).elements(), CARRIED, |lane| {
        &x[lane] + minus(&y[lane])
    });
    let opposite = b.negated();
    compare("opposite", &Lanes(opposite).elements(), FULL, |lane| {
        minus(&y[lane])
    });
    compare(
        "twice and the opposite",
        &a.twice_and(&opposite).elements(),
        CARRIED,
        |lane| 2u32 * &x[lane] + minus(&y[lane]),
    );
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn check_inverses(a: &Elements) {
    let inverse = Lanes::new(a).invert().elements();
    compare("inverse", &inverse, CARRIED, |lane| {
        big(&a[lane]).modinv(&p()).unwrap_or_default()
    });
}

#[allow(unsafe_code, reason = "not every processor can")]
fn check(a: &Elements, b: &Elements) {
    if Processor::detect().is_none() {
        return;
    }
    let carried = |elements: &Elements| {
        elements.map(|element| Field(element.0.map(|limb| limb.min(CARRIED - 1))))
    };
    // SAFETY: the processor has been found to have all that these functions are compiled to.
    unsafe { check_products(a, b) };
    // SAFETY: as above.
    unsafe { check_sums(&carried(a), &carried(b)) };
}

#[test]
fn edges_agree_with_big_integers() {
    let elements = edges(FULL);
    let batches = elements.as_chunks().0;
    for (index, a) in batches.iter().enumerate() {
        check(a, a);
        for b in batches.iter().skip(index % 131).step_by(131) {
            check(a, b);
        }
    }
}

#[test]
#[allow(unsafe_code, reason = "not every processor can")]
fn inverses_of_edges_are_inverses() {
    if Processor::detect().is_none() {
        return;
    }
    for batch in edges(CARRIED).as_chunks().0.iter().step_by(5) {
        // SAFETY: the processor has been found to have all that this function is compiled to.
        unsafe { check_inverses(batch) };
    }
}

#[target_feature(enable = "avx512f")]
fn digits_of(secrets: &[[u8; 32]; COUNT]) -> Vec<[i64; COUNT]> {
    let mut words = [[0; COUNT]; 4];
    crate::eight::recode(secrets, &mut words);
    let words = (0..64).map(|place| store(digits(&words, place)));
    words.map(|words| words.map(u64::cast_signed)).collect()
}

/// Digits are small, and stand for the number that the secret stands for.
#[allow(unsafe_code, reason = "not every processor can")]
fn check_digits(secrets: &[[u8; 32]; COUNT]) {
    if Processor::detect().is_none() {
        return;
    }
    // SAFETY: the processor has been found to have all that this function is compiled to.
    let digits = unsafe { digits_of(secrets) };
    for (lane, secret) in secrets.iter().enumerate() {
        let mut number = BigInt::ZERO;
        for (place, digits) in digits.iter().enumerate().rev() {
            let range = if place == 63 { 4..=8 } else { -8..=7 };
            assert!(range.contains(&digits[lane]), "{place} of {secret:x?}");
            number = number * 16 + digits[lane];
        }
        // RFC 7748 §5.
        let mut clamped = *secret;
        clamped[0] &= 248;
        clamped[31] = clamped[31] & 127 | 64;
        assert_eq!(number, BigUint::from_bytes_le(&clamped).into());
    }
}

#[test]
fn digits_of_edges_stand_for_the_number() {
    for secrets in crate::eight::tests::special_secrets().as_chunks().0 {
        check_digits(secrets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_elements_agree_with_big_integers(
        a in prop::array::uniform8(any_element(FULL)),
        b in prop::array::uniform8(any_element(FULL)),
    ) {
        check(&a, &b);
    }

    #[test]
    fn any_digits_stand_for_the_number(secrets in any::<[[u8; 32]; COUNT]>()) {
        check_digits(&secrets);
    }
}
