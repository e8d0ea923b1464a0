//! The numbers behind series.
//!
//! A worker owns its cells: it alone adds to them, by a load and a store, and they lie in cache lines that no other thread
//! writes. Everybody else shares one cell per series, to which additions are atomic. Readers add up a series' cells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use metrics::{CounterFn, GaugeFn};

/// Numbers in one block of a [`Slab`].
const BLOCK: usize = 64;

/// Who adds to a cell.
#[derive(Debug, Clone, Copy)]
pub enum Writers {
    /// Any thread.
    Many,
    /// This thread alone.
    One(ThreadId),
}

impl Writers {
    /// The calling thread alone.
    pub fn this_thread() -> Self {
        Self::One(thread::current().id())
    }

    /// Adds to a whole number; it wraps.
    pub fn add(self, cell: &AtomicU64, value: u64) {
        match self {
            Self::Many => {
                cell.fetch_add(value, Ordering::Relaxed);
            }
            Self::One(owner) => {
                owner_only(owner);
                let sum = cell.load(Ordering::Relaxed).wrapping_add(value);
                cell.store(sum, Ordering::Relaxed);
            }
        }
    }

    /// Adds to the bits of an `f64`.
    pub fn add_f64(self, cell: &AtomicU64, value: f64) {
        let plus = |bits| (f64::from_bits(bits) + value).to_bits();
        match self {
            Self::Many => {
                let mut current = cell.load(Ordering::Relaxed);
                while let Err(actual) = cell.compare_exchange_weak(
                    current,
                    plus(current),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    current = actual;
                }
            }
            Self::One(owner) => {
                owner_only(owner);
                cell.store(plus(cell.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
        }
    }
}

/// An addition from elsewhere could be lost: a mistake of ours, found by tests.
fn owner_only(owner: ThreadId) {
    debug_assert_eq!(
        owner,
        thread::current().id(),
        "a worker's metric was used on another thread"
    );
}

/// Whole cache lines of numbers. 128 bytes, because processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Block([AtomicU64; BLOCK]);

/// Hands out places for numbers that lie beside each other and beside nobody else's.
#[derive(Debug, Default)]
pub struct Slab {
    block: Option<Arc<Block>>,
    used: usize,
}

impl Slab {
    /// The next place, holding `bits`.
    pub fn place(&mut self, bits: u64) -> Place {
        if self.used == BLOCK {
            *self = Self::default();
        }
        let block = self
            .block
            .get_or_insert_with(|| Arc::new(Block([const { AtomicU64::new(0) }; BLOCK])));
        let place = Place {
            block: Arc::clone(block),
            index: self.used,
        };
        self.used += 1;
        place.atomic().store(bits, Ordering::Relaxed);
        place
    }
}

/// Where a number is.
#[derive(Debug)]
pub struct Place {
    block: Arc<Block>,
    index: usize,
}

impl Place {
    fn atomic(&self) -> &AtomicU64 {
        &self.block.0[self.index % BLOCK]
    }
}

/// A counter's number.
#[derive(Debug)]
pub struct CounterCell {
    place: Place,
    writers: Writers,
}

impl CounterCell {
    /// Zero.
    pub fn new(slab: &mut Slab, writers: Writers) -> Self {
        Self {
            place: slab.place(0),
            writers,
        }
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.place.atomic().load(Ordering::Relaxed)
    }
}

impl CounterFn for CounterCell {
    fn increment(&self, value: u64) {
        self.writers.add(self.place.atomic(), value);
    }

    fn absolute(&self, value: u64) {
        self.place.atomic().fetch_max(value, Ordering::Relaxed);
    }
}

/// A gauge's number, as bits of an `f64`.
#[derive(Debug)]
pub struct GaugeCell {
    place: Place,
    writers: Writers,
}

impl GaugeCell {
    /// Zero.
    pub fn new(slab: &mut Slab, writers: Writers) -> Self {
        Self {
            place: slab.place(0f64.to_bits()),
            writers,
        }
    }

    /// The number.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.place.atomic().load(Ordering::Relaxed))
    }
}

impl GaugeFn for GaugeCell {
    fn increment(&self, value: f64) {
        self.writers.add_f64(self.place.atomic(), value);
    }

    fn decrement(&self, value: f64) {
        self.writers.add_f64(self.place.atomic(), -value);
    }

    fn set(&self, value: f64) {
        self.place
            .atomic()
            .store(value.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_two_owners_lie_in_lines_of_their_own() {
        let (mut ours, mut theirs) = (Slab::default(), Slab::default());
        let line = |place: &Place| std::ptr::from_ref(place.atomic()).addr() / 128;
        let a: Vec<_> = (0..100).map(|_| ours.place(0)).collect();
        let b: Vec<_> = (0..100).map(|_| theirs.place(0)).collect();
        for x in &a {
            assert!(b.iter().all(|y| line(x) != line(y)));
        }
        assert_eq!(line(&a[0]), line(&a[15]), "its own lie together");
    }

    #[test]
    #[should_panic(expected = "on another thread")]
    fn a_cell_is_its_owners_alone() {
        let owner = thread::spawn(Writers::this_thread).join().unwrap();
        owner.add(&AtomicU64::new(0), 1);
    }
}
