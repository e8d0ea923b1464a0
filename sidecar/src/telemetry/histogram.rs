//! Histograms with fixed buckets and constant memory.
//!
//! A recording is two additions; there is no sample buffer to drain. Bounds are chosen by the unit in the metric's name and
//! never change, so that series of different workers and sidecars add up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::HistogramFn;

use mesh_trace::TraceId;

use super::cell::Writers;
use super::exemplar::{Cell, Exemplar};

/// Upper bounds for `_seconds`: 25 µs doubling to 13 s. A mesh's own cost lies in the first six.
static SECONDS: [f64; 20] = exponential(0.000_025, 2.0);
/// The first of them.
const FIRST_NANOS: u64 = 25_000;
/// Upper bounds for `_bytes`: 64 B to 1 GiB in steps of four.
static BYTES: [f64; 13] = exponential(64.0, 4.0);
/// Upper bounds for everything else: 1 to 32768 in steps of two.
static PLAIN: [f64; 16] = exponential(1.0, 2.0);

const fn exponential<const N: usize>(first: f64, factor: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * factor;
        i += 1;
    }
    bounds
}

/// The bucket bounds of a metric, by the unit its name ends in.
pub fn bounds_for(name: &str) -> &'static [f64] {
    if name.ends_with("_seconds") {
        &SECONDS
    } else if name.ends_with("_bytes") {
        &BYTES
    } else {
        &PLAIN
    }
}

#[allow(clippy::cast_precision_loss)] // Of what took longer than a hundred days.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 * 1e-9
}

/// The bucket of [`SECONDS`] that a duration is in.
fn bucket(nanos: u64) -> usize {
    let doublings = nanos.saturating_sub(1) / FIRST_NANOS;
    let index = doublings.checked_ilog2().map_or(0, |log| log as usize + 1);
    index.min(SECONDS.len())
}

/// Cache lines that belong to one histogram.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

const LINE: usize = 8;

/// One writer's histogram.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One number per bound, one for what lies above, and the sum as bits of an `f64`.
    lines: Box<[Line]>,
    writers: Writers,
    /// One per bucket, made with the first traced recording.
    exemplars: OnceLock<Box<[Cell]>>,
}

/// A consistent enough copy of a histogram: `count` is the sum of the buckets, so that the exposition adds up even while
/// others record.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Upper bound and cumulative count of each bucket, without `+Inf`.
    pub cumulative: Vec<(f64, u64)>,
    /// Number of recordings.
    pub count: u64,
    /// Sum of the recorded values.
    pub sum: f64,
    /// The last traced recording of each bucket, the one above all bounds last; empty: there is none.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Reading {
    /// Adds what was recorded in another histogram of the same bounds.
    pub fn merge(&mut self, other: &Self) {
        for ((_, count), (_, more)) in self.cumulative.iter_mut().zip(&other.cumulative) {
            *count += more;
        }
        self.count += other.count;
        self.sum += other.sum;
        if self.exemplars.is_empty() {
            self.exemplars.clone_from(&other.exemplars);
        }
        for (ours, theirs) in self.exemplars.iter_mut().zip(&other.exemplars) {
            if ours.is_none_or(|o| theirs.is_some_and(|t| t.at > o.at)) {
                *ours = *theirs;
            }
        }
    }
}

impl Histogram {
    /// An empty histogram with `bounds` in rising order.
    pub fn new(bounds: &'static [f64], writers: Writers) -> Self {
        Self {
            bounds,
            lines: (0..(bounds.len() + 2).div_ceil(LINE))
                .map(|_| Line::default())
                .collect(),
            writers,
            exemplars: OnceLock::new(),
        }
    }

    fn cell(&self, index: usize) -> &AtomicU64 {
        &self.lines[index / LINE].0[index % LINE]
    }

    fn sum(&self) -> &AtomicU64 {
        self.cell(self.bounds.len() + 1)
    }

    /// Records `value` `count` times. A value that is no number is ignored: it would poison the sum for ever.
    pub fn add(&self, value: f64, count: u64) {
        if value.is_finite() {
            self.put(self.search(value), value, count);
        }
    }

    /// Records a duration in seconds. Every request does, for each of its phases: the bucket is found without a search.
    pub fn add_nanos(&self, nanos: u64) {
        self.put_nanos(nanos);
    }

    /// Records how long a request took, whose trace is kept as the bucket's exemplar. The histogram has to be one thread's.
    #[allow(clippy::cast_precision_loss)]
    pub fn add_traced(&self, nanos: u64, trace: Option<TraceId>) {
        let index = self.put_nanos(nanos);
        if let (Some(trace), Writers::One(_)) = (trace, self.writers) {
            let cells = || (0..=self.bounds.len()).map(|_| Cell::default()).collect();
            self.exemplars.get_or_init(cells)[index].put(trace, nanos as f64 / 1e9);
        }
    }

    fn put_nanos(&self, nanos: u64) -> usize {
        let value = seconds(nanos);
        let index = if std::ptr::eq(self.bounds, &SECONDS[..]) {
            bucket(nanos)
        } else {
            self.search(value)
        };
        self.put(index, value, 1);
        index
    }

    fn search(&self, value: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    fn put(&self, index: usize, value: f64, count: u64) {
        self.writers.add(self.cell(index), count);
        #[allow(clippy::cast_precision_loss)]
        let added = value * count as f64;
        self.writers.add_f64(self.sum(), added);
    }

    /// What was recorded so far.
    pub fn read(&self) -> Reading {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(self.bounds.len());
        for index in 0..=self.bounds.len() {
            count += self.cell(index).load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(index) {
                cumulative.push((*bound, count));
            }
        }
        Reading {
            cumulative,
            count,
            sum: f64::from_bits(self.sum().load(Ordering::Relaxed)),
            exemplars: (self.exemplars.get())
                .map(|cells| cells.iter().map(Cell::get).collect())
                .unwrap_or_default(),
        }
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        self.add(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.add(value, count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_on_a_bound_counts_as_not_above_it() {
        let histogram = Histogram::new(&PLAIN, Writers::Many);
        histogram.add(1.0, 1);
        histogram.add(1.5, 2);
        histogram.add(1e9, 1);
        let reading = histogram.read();
        assert_eq!(reading.cumulative[0], (1.0, 1));
        assert_eq!(reading.cumulative[1], (2.0, 3));
        assert_eq!(reading.cumulative.last().expect("bounds"), &(32768.0, 3));
        assert_eq!(reading.count, 4);
        assert!((reading.sum - (1.0 + 3.0 + 1e9)).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_number_does_not_poison_the_sum() {
        let histogram = Histogram::new(&SECONDS, Writers::this_thread());
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            histogram.add(value, 1);
        }
        assert_eq!(histogram.read().count, 0);
    }

    #[test]
    fn bounds_follow_the_unit() {
        assert_eq!(
            bounds_for("postern_request_duration_seconds").len(),
            SECONDS.len()
        );
        assert_eq!(bounds_for("postern_body_bytes").len(), BYTES.len());
        assert_eq!(bounds_for("postern_batch_resources").len(), PLAIN.len());
        assert_eq!(SECONDS.last().map(|b| b.round()), Some(13.0));
    }

    #[test]
    fn a_duration_falls_where_its_seconds_do() {
        let by_hand = |nanos: u64| {
            let bounds = (0..SECONDS.len()).map(|index| FIRST_NANOS << index);
            bounds.take_while(|bound| *bound < nanos).count()
        };
        for (index, in_seconds) in SECONDS.iter().enumerate() {
            let bound = FIRST_NANOS << index;
            assert!((seconds(bound) - in_seconds).abs() < 1e-9, "{bound}");
            for nanos in [bound - 1, bound, bound + 1] {
                assert_eq!(bucket(nanos), by_hand(nanos), "{nanos}");
            }
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, SECONDS.len()));
        let histogram = Histogram::new(bounds_for("x_seconds"), Writers::Many);
        histogram.add_nanos(25_001);
        assert_eq!(
            histogram.read().cumulative[..2],
            [(SECONDS[0], 0), (SECONDS[1], 1)]
        );
        let other = Histogram::new(bounds_for("x_bytes"), Writers::Many);
        other.add_nanos(65_000_000_000);
        assert_eq!(other.read().cumulative[1], (BYTES[1], 1), "65 s");
    }

    proptest! {
        #[test]
        fn every_bucket_equals_a_naive_count(values in proptest::collection::vec(0.0f64..100.0, 0..200)) {
            let histogram = Histogram::new(&SECONDS, Writers::this_thread());
            for value in &values {
                histogram.add(*value, 1);
            }
            let reading = histogram.read();
            for (bound, count) in &reading.cumulative {
                let naive = values.iter().filter(|v| **v <= *bound).count() as u64;
                prop_assert_eq!(*count, naive);
            }
            prop_assert_eq!(reading.count, values.len() as u64);
        }
    }
}
