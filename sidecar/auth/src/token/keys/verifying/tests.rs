use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};

use super::*;

fn key() -> (VerifyingKey, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap();
    (VerifyingKey::es256(parsed, point), pair)
}

fn is_prepared(key: &VerifyingKey) -> bool {
    key.repeated.as_ref().unwrap().prepared.get().is_some()
}

#[test]
fn a_key_is_prepared_after_some_good_signatures_and_says_the_same_as_before() {
    let (key, pair) = key();
    let count = AtomicUsize::new(0);
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap();
    let check = || {
        let signature = sign(b"m");
        let signature = signature.as_ref();
        let verdict = |message: &[u8], signature: &[u8]| {
            let verdict = key.verifies(message, signature, &count);
            let expected = key.parsed.verify_sig(message, signature).is_ok();
            assert_eq!(verdict, expected, "{signature:x?}");
            verdict
        };
        for at in 0..signature.len() {
            let mut wrong = signature.to_vec();
            wrong[at] ^= 1;
            assert!(!verdict(b"m", &wrong));
            assert!(!verdict(b"m", &signature[..at]));
        }
        assert!(!verdict(b"n", signature));
        assert!(!verdict(b"m", &[signature, &[0]].concat()));
        assert!(!verdict(b"m", &[&[0], signature].concat()));
        assert!(verdict(b"m", signature));
    };
    for round in 0..GOOD_BEFORE {
        assert!(!is_prepared(&key), "{round}");
        check();
    }
    assert!(is_prepared(&key));
    check();
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn no_more_keys_of_a_set_are_prepared_than_there_is_room_for() {
    let count = AtomicUsize::new(0);
    let keys: Vec<_> = (0..MAX_PREPARED + 2).map(|_| key()).collect();
    for (key, pair) in &keys {
        let signature = pair.sign(&SystemRandom::new(), b"m").unwrap();
        for _ in 0..=GOOD_BEFORE {
            assert!(key.verifies(b"m", signature.as_ref(), &count));
        }
    }
    let prepared = keys.iter().filter(|(key, _)| is_prepared(key)).count();
    assert_eq!(prepared, MAX_PREPARED);
}
