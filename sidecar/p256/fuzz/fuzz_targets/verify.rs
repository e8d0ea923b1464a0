//! Looks for a key, a digest and a signature of which a prepared key says another thing than aws-lc: numbers as they come,
//! and signatures that hold, of which it chooses the key and the two multipliers that a verification computes.
//!
//! With cargo-fuzz, in `sidecar/p256`:
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none verify -- -max_len=129 -max_total_time=600`.

#![no_main]

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use libfuzzer_sys::fuzz_target;
use mesh_p256::PreparedKey;
use num_bigint::BigUint;

fn n() -> BigUint {
    let digits = b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    BigUint::parse_bytes(digits, 16).expect("a number")
}

fn bytes(number: &BigUint) -> [u8; 32] {
    let digits = number.to_bytes_be();
    let mut bytes = [0; 32];
    bytes[32 - digits.len()..].copy_from_slice(&digits);
    bytes
}

/// The multiple of the generator, uncompressed; `None` for zero.
fn multiple(factor: &BigUint) -> Option<Vec<u8>> {
    let key = PrivateKey::from_private_key(&ECDH_P256, &bytes(factor)).ok()?;
    Some(key.compute_public_key().ok()?.as_ref().to_vec())
}

/// What both say.
fn verdict(point: &[u8], digest: &[u8; 32], signature: &[u8; 64]) -> bool {
    let verdict = PreparedKey::new(point)
        .expect("a point")
        .verifies(digest, signature);
    let imported = Digest::import_less_safe(digest, &SHA256).expect("a digest");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    assert_eq!(verdict, key.verify_digest(&imported, signature).is_ok());
    verdict
}

fuzz_target!(|input: &[u8]| {
    let Some(([kind, numbers @ ..], _)) = input.split_first_chunk::<129>() else {
        return;
    };
    let ([a, b, c, d], _) = numbers.as_chunks::<32>() else {
        return;
    };
    let number = |bytes: &[u8; 32]| BigUint::from_bytes_be(bytes) % n();
    // Keys that are small multiples are found to meet more often.
    let factor = number(d) >> (usize::from(kind >> 1) * 2).min(250);
    let Some(point) = multiple(&factor) else {
        return;
    };
    if kind & 1 == 0 {
        verdict(
            &point,
            a,
            &[*b, *c].concat().try_into().expect("two numbers"),
        );
        return;
    }
    let (u1, u2) = (number(a), number(b));
    let Some(inverse) = u2.modinv(&n()) else {
        return;
    };
    let meeting = multiple(&((&u1 + &u2 * &factor) % n()));
    let r = match &meeting {
        Some(point) => BigUint::from_bytes_be(&point[1..33]) % n(),
        None => number(c),
    };
    let s = &r * inverse % n();
    let signature = [bytes(&r), bytes(&s)]
        .concat()
        .try_into()
        .expect("two numbers");
    let digest = bytes(&(u1 * s % n()));
    assert_eq!(verdict(&point, &digest, &signature), meeting.is_some());
});
