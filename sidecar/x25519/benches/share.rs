//! Key shares and agreements beside aws-lc-rs's: `cargo bench -p mesh-x25519 --bench share`.

#![allow(clippy::unwrap_used)]

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use divan::{Bencher, black_box};
use mesh_x25519::KeyShare;

fn main() {
    mesh_x25519::prepare();
    divan::main();
}

/// A sample is many, so that each has its part of those that are made at once.
#[divan::bench(sample_size = 800)]
fn generate() -> KeyShare {
    KeyShare::generate().unwrap()
}

#[divan::bench(sample_size = 800)]
fn aws_lc_generate() -> EphemeralPrivateKey {
    let key = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
    black_box(key.compute_public_key().unwrap());
    key
}

fn peer() -> [u8; 32] {
    *KeyShare::generate().unwrap().public()
}

#[divan::bench(sample_size = 100)]
fn agree(bencher: Bencher<'_, '_>) {
    let peer = peer();
    bencher
        .with_inputs(|| KeyShare::generate().unwrap())
        .bench_local_values(|share| share.agree(black_box(&peer)).unwrap());
}

#[divan::bench(sample_size = 100)]
fn aws_lc_agree(bencher: Bencher<'_, '_>) {
    let peer = UnparsedPublicKey::new(&X25519, peer());
    bencher
        .with_inputs(|| EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap())
        .bench_local_values(|key| {
            agree_ephemeral(key, black_box(&peer), Unspecified, |shared| {
                <[u8; 32]>::try_from(shared).map_err(|_| Unspecified)
            })
            .unwrap()
        });
}
