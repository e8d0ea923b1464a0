//! How long changes take to reach sidecars: from the moment a revision was asked for until a sidecar acknowledged it.

use std::fmt::Write as _;
use std::time::Duration;

/// The lowest bound, doubled for each further one: 5 ms to 20 s.
const FIRST: f64 = 0.005;
const BOUNDS: usize = 13;

/// A histogram of those times.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Propagation {
    /// Counts by bound, not cumulative; the last is what lies above all.
    buckets: [u64; BOUNDS + 1],
    sum: f64,
}

impl Propagation {
    /// A revision reached a sidecar.
    pub fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let index = (0..BOUNDS).find(|i| seconds <= bound(*i));
        self.buckets[index.unwrap_or(BOUNDS)] += 1;
        self.sum += seconds;
    }

    /// Appends it as Prometheus text.
    pub fn write(&self, out: &mut String) {
        let name = "postern_control_revision_propagation_seconds";
        let help =
            "Time from when a change was asked for until a connected sidecar acknowledged it.";
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut count = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            count += bucket;
            let _ = match index {
                BOUNDS => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}"),
                index => writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", bound(index)),
            };
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {count}", self.sum);
    }
}

fn bound(index: usize) -> f64 {
    FIRST * f64::from(1u32 << index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_below_their_bound_and_add_up() {
        let mut propagation = Propagation::default();
        for milliseconds in [4, 5, 6, 30_000] {
            propagation.record(Duration::from_millis(milliseconds));
        }
        let mut text = String::new();
        propagation.write(&mut text);
        for line in [
            "_bucket{le=\"0.005\"} 2\n",
            "_bucket{le=\"0.01\"} 3\n",
            "_bucket{le=\"20.48\"} 3\n",
            "_bucket{le=\"+Inf\"} 4\n",
            "_sum 30.015\n",
            "_count 4\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
