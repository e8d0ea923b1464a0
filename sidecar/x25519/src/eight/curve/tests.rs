use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::eight::field::{CARRIED, Field};
use crate::eight::oracle::{
    Point, any_element, base, big, d, field_of, inverse, multiples, negative, neutral, p,
    small_points, sum,
};
use crate::eight::{COUNT, Processor};

#[target_feature(enable = "avx512f")]
fn lanes(numbers: [BigUint; COUNT]) -> Lanes {
    Lanes::new(&numbers.map(|number| field_of(&number)))
}

/// Points with this z.
#[target_feature(enable = "avx512f")]
fn extended(points: &[Point; COUNT], z: &BigUint) -> Extended {
    let points = points.each_ref();
    Extended {
        x: lanes(points.map(|(x, _)| x * z)),
        y: lanes(points.map(|(_, y)| y * z)),
        z: lanes(points.map(|_| z.clone())),
        t: lanes(points.map(|(x, y)| x * y * z)),
    }
}

#[target_feature(enable = "avx512f")]
fn summands(points: &[Point; COUNT]) -> Summand {
    let points = points.each_ref();
    Summand {
        plus: lanes(points.map(|(x, y)| y + x)),
        minus: lanes(points.map(|(x, y)| y + p() - x)),
        product: lanes(points.map(|(x, y)| 2u32 * d() * x * y)),
    }
}

/// The points, of which t is looked at too.
#[target_feature(enable = "avx512f")]
fn points(extended: &Extended) -> [Point; COUNT] {
    let numbers = |lanes: &Lanes| lanes.elements().map(|element| big(&element));
    let (x, y) = (numbers(&extended.x), numbers(&extended.y));
    let (z, t) = (numbers(&extended.z), numbers(&extended.t));
    std::array::from_fn(|lane| {
        let inverse = inverse(&z[lane]);
        let (x, y) = (&x[lane] * &inverse % p(), &y[lane] * &inverse % p());
        assert_eq!(&t[lane] * inverse % p(), &x * &y % p());
        (x, y)
    })
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn check_eight(a: &[Point; COUNT], b: &[Point; COUNT], z: &BigUint) {
    let result = points(&extended(a, z).add(&summands(b)).extended());
    let doubled = points(&extended(a, z).double().extended());
    for lane in 0..COUNT {
        let (a, b) = (&a[lane], &b[lane]);
        assert_eq!(result[lane], sum(a, b), "sum of {a:?} and {b:?}");
        assert_eq!(doubled[lane], sum(a, a), "twice {a:?}");
    }
}

#[allow(unsafe_code, reason = "not every processor can")]
fn check(a: &[Point; COUNT], b: &[Point; COUNT], z: &BigUint) {
    if Processor::detect().is_some() {
        // SAFETY: the processor has been found to have all that this function is compiled to.
        unsafe { check_eight(a, b, z) };
    }
}

#[test]
fn sums_are_right_for_all_points() {
    // In a multiple's neighbourhood, and shifted by points of small order, there are equal ones, opposite ones, those of which
    // one is twice the other, and the neutral one.
    let multiples = multiples(&base(), 3);
    let mut points: Vec<Point> = Vec::new();
    for multiple in &multiples {
        for small in small_points() {
            points.push(sum(multiple, &small));
            points.push(negative(&sum(multiple, &small)));
        }
    }
    assert!(points.contains(&neutral()));
    let z = BigUint::from(77u32);
    for batch in points.as_chunks::<COUNT>().0 {
        for first in &points {
            check(&[(); COUNT].map(|()| first.clone()), batch, &z);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn sums_are_right_whatever_z_is(z in any_element(CARRIED), place in 0usize..24) {
        let z: Field = z;
        prop_assume!(big(&z) % p() != BigUint::ZERO);
        let multiples = multiples(&base(), 32);
        let batch = |place: usize| multiples[place..].as_chunks().0[0].clone();
        check(&batch(place), &batch(24 - place), &big(&z));
    }
}
