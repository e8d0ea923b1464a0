use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::eight::Processor;
use crate::eight::oracle::{big as big_of_field, p};

type Elements = [Limbs; 4];

/// Any that fits, for [`Four::second_times`].
const TIMES: u64 = (1 << 17) - 1;

fn big(limbs: &Limbs) -> BigUint {
    let mut number = BigUint::ZERO;
    for limb in limbs.iter().rev() {
        number = (number << BITS) + limb;
    }
    number
}

/// The limbs of a number less than 2^258.
fn limbs_of(number: &BigUint) -> Limbs {
    std::array::from_fn(|place| {
        let limb = number >> (BITS * place as u32) & BigUint::from(MASK);
        limb.try_into().unwrap()
    })
}

/// Elements with limbs near which carries and reductions go wrong, all of them less than `bound`.
fn edges(bound: u64) -> Vec<Limbs> {
    let mut edges = vec![[0; 6]];
    for place in 0..6 {
        edges = edges
            .iter()
            .flat_map(|edge| {
                [0, MASK, bound - 1].map(|limb| {
                    let mut edge = *edge;
                    edge[place] = limb;
                    edge
                })
            })
            .collect();
    }
    for multiple in 1..=7u32 {
        edges.extend((0..20u32).map(|distance| limbs_of(&(multiple * p() - 10u32 + distance))));
    }
    edges.resize(edges.len().next_multiple_of(4), [1; 6]);
    edges
}

fn any_elements(bound: u64) -> impl Strategy<Value = Elements> {
    let limb = prop_oneof![
        4 => 0..bound,
        1 => prop::sample::select(vec![0, 1, MASK, bound - 1]),
    ];
    prop::array::uniform4(prop::array::uniform6(limb))
}

/// Compares results with big integers, each element's.
#[target_feature(enable = "avx512f")]
fn compare(what: &str, result: &Four, bound: u64, expected: &[BigUint; 4]) {
    for (place, (result, expected)) in result.elements().iter().zip(expected).enumerate() {
        assert!(
            result.iter().all(|limb| *limb < bound),
            "{what} in place {place} has too large a limb: {result:x?}"
        );
        assert_eq!(
            big(result) % p(),
            expected % p(),
            "{what} in place {place}: {result:x?}"
        );
    }
}

/// Of wide elements what those may be in.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn check_products(a: &Elements, b: &Elements) {
    let (x, y) = (a.each_ref().map(big), b.each_ref().map(big));
    let (a, b) = (Four::new(a), Four::new(b));
    let each = |of: &dyn Fn(usize) -> BigUint| [0, 1, 2, 3].map(of);

    let products = a.mul(&b.factors());
    let expected = each(&|i| &x[i] * &y[i]);
    compare("product", &products.carried(), CARRIED, &expected);
    let squares = a.square();
    let expected = each(&|i| &x[i] * &x[i]);
    compare("square", &squares.carried(), CARRIED, &expected);

    let sums = a.second_times(TIMES, &b);
    let mut expected = y.clone();
    expected[1] += TIMES * &x[1];
    compare("sum", &sums.carried(), WIDE, &expected);
    carried_but_for_limb_0(&sums.carried());

    let after = squares.carried_after(&b.first_twice());
    let expected = each(&|i| match i {
        0 | 1 => y[0].clone(),
        _ => &x[i] * &x[i],
    });
    compare("square after another", &after, WIDE, &expected);
    carried_but_for_limb_0(&squares.carried_after(&sums.carried().first_twice()));

    let moved = a.after_exchanged(&b, &b);
    let expected = [&y[1], &x[1], &y[2], &y[3]].map(BigUint::clone);
    compare("exchanged", &moved, WIDE, &expected);
    let lanes = _mm512_set_epi64(1, 0, 7, 6, 3, 2, 5, 4);
    let expected = [&x[2], &x[1], &x[3], &x[0]].map(BigUint::clone);
    compare("permuted", &a.permuted(lanes), WIDE, &expected);
}

#[target_feature(enable = "avx512f")]
fn carried_but_for_limb_0(four: &Four) {
    for limbs in four.elements() {
        assert!(limbs[1..].iter().all(|limb| *limb < CARRIED), "{limbs:x?}");
    }
}

/// Of carried elements the rest.
#[target_feature(enable = "avx512f")]
fn check_sums(a: &Elements) {
    let x = a.each_ref().map(big);
    let sums = Four::new(a).sums_and_differences();
    let minus = |i: usize| 16u32 * p() - &x[i];
    let expected = [
        &x[0] + &x[1],
        &x[0] + minus(1),
        &x[2] + &x[3],
        &x[2] + minus(3),
    ];
    compare("sum or difference", &sums, WIDE, &expected);
    for (x, limbs) in x.iter().zip(a) {
        assert_eq!(big_of_field(&field(limbs)) % p(), x % p(), "{limbs:x?}");
    }
}

#[allow(unsafe_code, reason = "not every processor can")]
fn check(a: &Elements, b: &Elements) {
    if Processor::detect().is_none() {
        return;
    }
    // SAFETY: the processor has been found to have all that this function is compiled to.
    unsafe { check_products(a, b) };
    let carried = a.map(|limbs| limbs.map(|limb| limb.min(CARRIED - 1)));
    // SAFETY: as above.
    unsafe { check_sums(&carried) };
}

#[test]
fn bounds_leave_room_for_what_is_said_to_fit() {
    // A factor for a multiplication of 52 bits.
    assert!(u128::from(WRAPPED) * u128::from(WIDE) < 1 << 52);
    // Of three products, or one and a doubled one, the upper halves and the lower ones; in both lanes.
    let (wide, wrapped) = (BigUint::from(WIDE), BigUint::from(WRAPPED));
    let high: BigUint = ((&wrapped * &wide * &wide) >> 52) * 3u32;
    let sum: BigUint = ((high << 9) + (3u64 << 52)) * 2u32;
    assert!(sum.pow(2) < BigUint::from(1u32) << 113);
    // What is passed on.
    assert!((sum >> BITS) * wrapped < BigUint::from(1u32) << 21);
    // Sixteen times p, and no limb of it less than a carried one.
    assert_eq!(big(&SIXTEEN_P), 16u32 * p());
    assert!(SIXTEEN_P.iter().all(|limb| *limb >= CARRIED - 1));
    assert!(SIXTEEN_P.iter().all(|limb| *limb + CARRIED - 1 < WIDE));
}

#[test]
fn edges_agree_with_big_integers() {
    let elements = edges(WIDE);
    let batches = elements.as_chunks().0;
    for (index, a) in batches.iter().enumerate() {
        check(a, a);
        for b in batches.iter().skip(index % 17).step_by(17) {
            check(a, b);
        }
    }
}

#[test]
fn limbs_of_a_number_are_its_bits() {
    for bit in 0..255 {
        let number: BigUint = BigUint::from(1u32) << bit;
        let below = &number - 1u32;
        for number in [number, below] {
            let mut words = number.to_u64_digits();
            words.resize(4, 0);
            assert_eq!(limbs(&words.try_into().unwrap()), limbs_of(&number));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn any_elements_agree_with_big_integers(a in any_elements(WIDE), b in any_elements(WIDE)) {
        check(&a, &b);
    }
}
