//! What reading and replacing the snapshot costs: `cargo bench -p mesh-sidecar --bench snapshot`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arc_swap::ArcSwap;
use divan::{Bencher, black_box};
use mesh_auth::TrustDomain;
use mesh_sidecar::snapshot::{SharedSnapshot, Snapshot};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

fn empty() -> Arc<Snapshot> {
    let domain = TrustDomain::new("bench.test").unwrap();
    Arc::new(Snapshot::empty("default/orders", domain))
}

/// As every request does once.
#[divan::bench(sample_size = 1000)]
fn read(bencher: Bencher<'_, '_>) {
    let shared: SharedSnapshot = Arc::new(ArcSwap::new(empty()));
    bencher.bench_local(|| black_box(shared.load().epoch));
}

/// As the control thread does with every change, while nobody reads.
#[divan::bench(sample_size = 100)]
fn swap(bencher: Bencher<'_, '_>) {
    let shared: SharedSnapshot = Arc::new(ArcSwap::new(empty()));
    let next = empty();
    bencher.bench_local(|| shared.store(black_box(Arc::clone(&next))));
}
