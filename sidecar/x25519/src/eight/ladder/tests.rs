use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::eight::Processor;
use crate::eight::oracle::p;
use crate::eight::tests::special_secrets;
use crate::library;

fn bytes(number: &BigUint) -> [u8; 32] {
    let mut bytes = number.to_bytes_le();
    bytes.resize(32, 0);
    bytes.try_into().unwrap()
}

/// The u of all points of small order, of the curve and of its twist: of order 8, 1 and 2, and 4; those that can be not
/// reduced too.
fn small_peers() -> Vec<[u8; 32]> {
    let order_8 = [
        "325606250916557431795983626356110631294008115727848805560023387167927233504",
        "39382357235489614581723060781553021112529911719440698176882885853963445705823",
    ];
    let mut small: Vec<BigUint> = order_8
        .map(|u| BigUint::parse_bytes(u.as_bytes(), 10).unwrap())
        .to_vec();
    let (zero, one) = (BigUint::ZERO, BigUint::from(1u32));
    small.extend([&p() - &one, p(), p() + &one, zero, one]);
    small.iter().map(bytes).collect()
}

/// Values around where they are reduced, and others that may be wrong: with and without the bit that does not count.
fn special_peers() -> Vec<[u8; 32]> {
    let mut peers = small_peers();
    let end = BigUint::from(1u32) << 255;
    peers.extend((0..40u32).map(|distance| bytes(&(&end - 1u32 - distance))));
    peers.extend((0..40u32).map(|distance| bytes(&BigUint::from(distance))));
    for bit in 0..255 {
        peers.push(bytes(&(BigUint::from(1u32) << bit)));
        peers.push(bytes(&((BigUint::from(1u32) << bit) - 1u32)));
    }
    peers.extend((0..=255).map(|byte| [byte; 32]));
    let with_bit = peers.clone().into_iter().map(|mut peer| {
        peer[31] ^= 0x80;
        peer
    });
    peers.extend(with_bit);
    peers
}

/// Compares with what the library says, which is told.
fn check(secret: &[u8; 32], peer: &[u8; 32]) -> Option<[u8; 32]> {
    let expected = library::agree(secret, peer);
    if let Some(processor) = Processor::detect() {
        let shared = processor.agree(secret, peer);
        assert_eq!(shared, expected, "{secret:x?} with {peer:x?}");
    }
    expected.map(|shared| *shared)
}

#[test]
fn special_secrets_and_peers_share_what_the_library_says() {
    let (secrets, peers) = (special_secrets(), special_peers());
    for (index, secret) in secrets.iter().enumerate() {
        check(secret, &peers[index % peers.len()]);
        check(secret, &bytes(&BigUint::from(9u32)));
    }
    for (index, peer) in peers.iter().enumerate() {
        for step in 0..5 {
            check(&secrets[(7 * index + 331 * step) % secrets.len()], peer);
        }
    }
}

#[test]
fn nothing_is_shared_with_a_point_of_small_order() {
    for secret in special_secrets().iter().step_by(13) {
        for mut peer in small_peers() {
            assert_eq!(check(secret, &peer), None);
            peer[31] ^= 0x80;
            assert_eq!(check(secret, &peer), None);
        }
    }
}

#[test]
fn changes_are_where_a_bit_is_not_as_the_next_higher() {
    let number = [0b1111, 1 << 63, 1, 1 << 62];
    // The highest bit of the second word and the lowest of the third are alike.
    assert_eq!(*changes(&number), [0b1000, 1 << 62, 1, 0b11 << 61]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_secret_and_peer_share_what_the_library_says(
        secret in any::<[u8; 32]>(),
        peer in any::<[u8; 32]>(),
    ) {
        check(&secret, &peer);
    }

    #[test]
    fn any_of_few_bits_do_too(
        secret in prop::array::uniform32(prop::sample::select(vec![0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff])),
        peer in prop::array::uniform32(prop::sample::select(vec![0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff])),
    ) {
        check(&secret, &peer);
    }
}
