//! Verification with a prepared key beside aws-lc's: `cargo bench -p mesh-p256 --bench verify`.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey, UnparsedPublicKey,
};
use divan::{Bencher, black_box};
use mesh_p256::PreparedKey;

const MESSAGE: &[u8] =
    b"what a peer signs in a handshake is about as long as this sentence and the next: \
a text of TLS 1.3, and the hash of what was said.";

fn main() {
    divan::main();
}

/// A key, and signatures by it, many enough that no branch is learnt by heart.
fn signed() -> (Vec<u8>, Vec<[u8; 64]>) {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let sign = |_| {
        key.sign(&random, MESSAGE)
            .unwrap()
            .as_ref()
            .try_into()
            .unwrap()
    };
    let signatures = (0..512).map(sign).collect();
    (key.public_key().as_ref().to_vec(), signatures)
}

/// Runs with one signature after the other.
fn bench(bencher: Bencher<'_, '_>, signatures: &[[u8; 64]], verify: impl Fn(&[u8; 64]) -> bool) {
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % signatures.len();
        assert!(verify(black_box(&signatures[turn])));
    });
}

#[divan::bench(sample_size = 100)]
fn prepared(bencher: Bencher<'_, '_>) {
    let (point, signatures) = signed();
    let key = PreparedKey::new(&point).unwrap();
    bench(bencher, &signatures, |signature| {
        let digest = digest(&SHA256, MESSAGE).as_ref().try_into().unwrap();
        key.verifies(&digest, signature)
    });
}

#[divan::bench(sample_size = 100)]
fn aws_lc_parsed(bencher: Bencher<'_, '_>) {
    let (point, signatures) = signed();
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).unwrap();
    bench(bencher, &signatures, |signature| {
        key.verify_sig(MESSAGE, signature).is_ok()
    });
}

#[divan::bench(sample_size = 100)]
fn aws_lc_unparsed(bencher: Bencher<'_, '_>) {
    let (point, signatures) = signed();
    bench(bencher, &signatures, |signature| {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
        key.verify(MESSAGE, signature).is_ok()
    });
}

#[divan::bench(sample_size = 10)]
fn prepare(bencher: Bencher<'_, '_>) {
    let (point, _) = signed();
    bencher.bench_local(|| PreparedKey::new(black_box(&point)).unwrap());
}
