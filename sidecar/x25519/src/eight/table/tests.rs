use super::*;
use crate::eight::oracle::{self, base, big, d, field_of, multiples, negative, p, sum};
use crate::eight::{COUNT, Processor};

/// The numbers of a summand that a point is.
fn numbers((x, y): &oracle::Point) -> [[u64; 5]; 3] {
    [y + x, y + p() - x, 2u32 * d() * x * y].map(|number| field_of(&number).0)
}

#[test]
fn constants_are_what_they_are_called() {
    let [x, y] = BASE;
    assert_eq!((big(&x), big(&y)), base());
    assert_eq!(big(&TWICE_D), 2u32 * d() % p());
}

#[test]
fn a_table_holds_the_multiples_that_its_places_say() {
    let table = Table::new();
    let mut power = base();
    for (place, window) in table.windows().enumerate() {
        for (multiple, point) in multiples(&power, 9)[1..].iter().enumerate() {
            let held = [&window.plus, &window.minus, &window.product];
            let held = held.map(|limbs| limbs.each_ref().map(|limb| limb.0[multiple]));
            assert_eq!(held, numbers(point), "{multiple} of {place}");
        }
        power = (0..8).fold(power, |power, _| sum(&power, &power));
    }
    assert_eq!(table.windows().count(), WINDOWS);
}

#[target_feature(enable = "avx512f")]
fn look_up(window: &Window, digits: &[i64; COUNT]) -> [[Field; COUNT]; 3] {
    let summand = window.look_up(load(&digits.map(i64::cast_unsigned)));
    [summand.plus, summand.minus, summand.product].map(|lanes| lanes.elements())
}

#[test]
#[allow(unsafe_code, reason = "not every processor can")]
fn a_lane_is_given_the_multiple_of_its_digit_whatever_the_others_are() {
    if Processor::detect().is_none() {
        return;
    }
    let table = Table::new();
    let window = table.windows().next().unwrap();
    let multiples = multiples(&base(), 9);
    for first in -8..=8 {
        for step in 0..17 {
            let digits: [i64; COUNT] =
                std::array::from_fn(|lane| (first + 8 + step * lane as i64) % 17 - 8);
            // SAFETY: the processor has been found to have all that this function is compiled to.
            let found = unsafe { look_up(window, &digits) };
            for (lane, digit) in digits.iter().enumerate() {
                let multiple = &multiples[digit.unsigned_abs() as usize];
                let point = if *digit < 0 {
                    negative(multiple)
                } else {
                    multiple.clone()
                };
                let found = found.map(|elements| elements[lane]);
                assert!(found[2].0.iter().all(|limb| *limb < oracle::FULL));
                let found = found.map(|element| element.canonical().0);
                assert_eq!(found, numbers(&point), "{digit} in lane {lane}");
            }
        }
    }
}
