//! Keys that come again: of P-256 keys whose signatures were found good several times, multiples are kept, with which the
//! next verification takes a third of the time (`mesh_p256`). Every other key is the library's affair.
//!
//! A verdict is the same either way, and nothing but a verdict depends on what is here: not whom a key belongs to, nor
//! whether it is trusted.
//!
//! Bounded, whoever comes: a key is prepared after [`GOOD_BEFORE`] good signatures that the library verified, a table of
//! [`CAPACITY`] keys is all the memory, and one that is in use gives its place to no stranger's. Lock-free.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use foldhash::fast::RandomState;
use mesh_p256::PreparedKey;

use crate::der;

/// Good signatures by a key before it is prepared: preparing costs what it spares in two or three verifications.
pub(crate) const GOOD_BEFORE: u8 = 3;
/// Keys that are kept, of 22 KB each.
const CAPACITY: usize = 64;
/// Places that one key may be in.
const WAYS: usize = 4;
/// Keys that are being counted.
const COUNTED: usize = 256;
/// Uses that a key in its place is credited with. Whoever wants the place takes one off.
const MOST_CREDIT: u8 = 16;

/// Keys of one kind of holder, by a name of it that can have one key only.
#[derive(Debug, Default)]
pub(crate) struct PreparedKeys {
    hasher: RandomState,
    /// Empty: nothing is prepared.
    slots: Box<[ArcSwapOption<Held>]>,
    /// By hash of the name: the hash with the count in its lowest byte.
    counts: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct Held {
    name: Box<[u8]>,
    key: PreparedKey,
    credit: AtomicU8,
}

impl Held {
    fn take_credit(&self) {
        let credit = self.credit.load(Ordering::Relaxed);
        // A key that is in use has all that there is, and nothing is written.
        if credit < MOST_CREDIT {
            self.credit.store(credit + 1, Ordering::Relaxed);
        }
    }

    /// True when nothing was left. Costs one use otherwise.
    fn gives_way(&self) -> bool {
        let credit = self.credit.load(Ordering::Relaxed);
        self.credit
            .store(credit.saturating_sub(1), Ordering::Relaxed);
        credit == 0
    }
}

impl PreparedKeys {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            slots: (0..CAPACITY).map(|_| ArcSwapOption::empty()).collect(),
            counts: (0..COUNTED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether `signature` (ECDSA with SHA-256, DER) is one of `message` by the key of whoever has this name; `None` if that
    /// key is not prepared.
    pub(crate) fn verify(&self, name: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
        let slots = self.ways(self.hash(name)?);
        slots.iter().find_map(|slot| {
            let held = slot.load();
            let held = held.as_ref().filter(|held| *held.name == *name)?;
            held.take_credit();
            Some(verifies_der(&held.key, message, signature))
        })
    }

    /// Takes note of a signature by the key of whoever has this name, which the library found good. The key, in SEC 1's
    /// uncompressed form, is asked for when it has come often enough.
    pub(crate) fn found_good<'a>(&self, name: &[u8], point: impl FnOnce() -> Option<&'a [u8]>) {
        let Some(hash) = self.hash(name) else { return };
        if self.is_frequent(hash) {
            self.keep(name, hash, point);
        }
    }

    fn keep<'a>(&self, name: &[u8], hash: u64, point: impl FnOnce() -> Option<&'a [u8]>) {
        let slots = self.ways(hash);
        let is_here =
            |slot: &ArcSwapOption<Held>| matches!(&*slot.load(), Some(held) if *held.name == *name);
        if slots.iter().any(is_here) {
            return;
        }
        let is_free = |slot: &&ArcSwapOption<Held>| slot.load().is_none();
        // Of a full set everybody gives something, or who is gone would stay behind somebody who always has nothing.
        let place = slots.iter().find(is_free).or_else(|| {
            let gives_way = |slot: &&ArcSwapOption<Held>| {
                slot.load().as_ref().is_some_and(|held| held.gives_way())
            };
            slots.iter().rev().filter(gives_way).last()
        });
        if let Some(place) = place
            && let Some(Ok(key)) = point().map(PreparedKey::new)
        {
            place.store(Some(Arc::new(Held {
                name: name.into(),
                key,
                credit: AtomicU8::new(1),
            })));
        }
    }

    /// Counts the hash, and says whether that was often enough; then it begins anew. Two that share a place begin anew
    /// whenever the other comes.
    fn is_frequent(&self, hash: u64) -> bool {
        let place = &self.counts[(hash >> 8) as usize % COUNTED];
        let (name, held) = (hash & !0xff, place.load(Ordering::Relaxed));
        let before = if held & !0xff == name { held & 0xff } else { 0 };
        let is_frequent = before + 1 >= u64::from(GOOD_BEFORE);
        let count = if is_frequent { 0 } else { before + 1 };
        place.store(name | count, Ordering::Relaxed);
        is_frequent
    }

    fn hash(&self, name: &[u8]) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.hasher.hash_one(name))
    }

    fn ways(&self, hash: u64) -> &[ArcSwapOption<Held>] {
        let set = (hash >> 32) as usize % (CAPACITY / WAYS);
        &self.slots[set * WAYS..][..WAYS]
    }

    /// Prepares a key that nobody has met.
    #[cfg(test)]
    pub(crate) fn prepare(&self, name: &[u8], point: &[u8]) {
        let hash = self.hash(name).unwrap();
        self.keep(name, hash, || Some(point));
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let is_held = |slot: &&ArcSwapOption<Held>| slot.load().is_some();
        self.slots.iter().filter(is_held).count()
    }
}

/// Whether `signature`, DER (RFC 3279 §2.2.3), is one of `message` by this key (FIPS 186-5 §6.4.2 with SHA-256).
fn verifies_der(key: &PreparedKey, message: &[u8], signature: &[u8]) -> bool {
    der::ecdsa_signature(signature).is_some_and(|numbers| verifies(key, message, &numbers))
}

/// Whether `signature`, two numbers of 32 bytes, is one of `message` by this key (FIPS 186-5 §6.4.2 with SHA-256).
pub(crate) fn verifies(key: &PreparedKey, message: &[u8], signature: &[u8; 64]) -> bool {
    let digest = digest::digest(&digest::SHA256, message);
    let digest: Result<&[u8; 32], _> = digest.as_ref().try_into();
    digest.is_ok_and(|digest| key.verifies(digest, signature))
}

#[cfg(test)]
mod tests;
