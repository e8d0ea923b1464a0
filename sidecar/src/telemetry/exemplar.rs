//! The last sampled request of each bucket of a histogram: a way from a slow bucket to one trace in it (OpenMetrics,
//! "Exemplars").
//!
//! One thread writes, any thread reads, nobody waits: a cell is guarded by a sequence number that is odd while it is
//! written, and a reader that meets that goes without.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_trace::TraceId;

/// A request of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// Its trace, as bytes.
    pub trace: [u8; 16],
    /// What was recorded.
    pub value: f64,
    /// When, since the epoch.
    pub at: Duration,
}

/// The place of one bucket.
#[derive(Debug, Default)]
pub(super) struct Cell {
    sequence: AtomicU64,
    trace: [AtomicU64; 2],
    value: AtomicU64,
    at_nanos: AtomicU64,
}

impl Cell {
    /// Puts a request in the place of the one before. One thread alone writes.
    pub(super) fn put(&self, trace: TraceId, value: f64) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = u64::try_from(at.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let trace = u128::from_be_bytes(trace.to_bytes());
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.trace[0].store((trace >> 64) as u64, Ordering::Relaxed);
        self.trace[1].store(trace as u64, Ordering::Relaxed);
        self.value.store(value.to_bits(), Ordering::Relaxed);
        self.at_nanos.store(at, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// What is there; `None`: nothing, or it is being written.
    pub(super) fn get(&self) -> Option<Exemplar> {
        let before = self.sequence.load(Ordering::Acquire);
        if before == 0 || before % 2 == 1 {
            return None;
        }
        let [high, low] = [&self.trace[0], &self.trace[1]].map(|a| a.load(Ordering::Relaxed));
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        let at = Duration::from_nanos(self.at_nanos.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then(|| Exemplar {
            trace: (u128::from(high) << 64 | u128::from(low)).to_be_bytes(),
            value,
            at,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_reader_sees_one_request_or_none_never_parts_of_two() {
        let cell = Arc::new(Cell::default());
        assert_eq!(cell.get(), None);
        let done = Arc::new(AtomicBool::new(false));
        let (writing, ended) = (Arc::clone(&cell), Arc::clone(&done));
        let writer = std::thread::spawn(move || {
            for i in 1..=200_000u64 {
                let half = i.to_be_bytes();
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&half);
                bytes[8..].copy_from_slice(&half);
                #[allow(clippy::cast_precision_loss)]
                writing.put(TraceId::new(bytes).expect("not zero"), i as f64);
            }
            ended.store(true, Ordering::Relaxed);
        });
        let mut seen = 0;
        while !done.load(Ordering::Relaxed) {
            if let Some(exemplar) = cell.get() {
                let (high, low) = exemplar.trace.split_at(8);
                assert_eq!(high, low);
                let number = u64::from_be_bytes(low.try_into().expect("eight bytes"));
                #[allow(clippy::cast_precision_loss)]
                let expected = number as f64;
                assert!((exemplar.value - expected).abs() < 0.5);
                seen += 1;
            }
        }
        writer.join().expect("no panic");
        assert!(cell.get().is_some() && seen > 0);
    }
}
