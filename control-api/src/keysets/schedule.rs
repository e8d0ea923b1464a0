//! When an issuer is asked again. Pure.

use std::time::Duration;

/// After the first failure, when no keys are held.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The bounds of the intervals between two fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// No shorter, whatever the issuer says.
    pub shortest: Duration,
    /// No longer, whatever the issuer says.
    pub longest: Duration,
    /// Between two fetches that unknown keys ask for.
    pub refetch: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(60),
            longest: Duration::from_secs(15 * 60),
            refetch: Duration::from_secs(10),
        }
    }
}

impl Intervals {
    /// Until the next fetch after a good one, whose answer is good for `lifetime`. `jitter` (0 to 1) takes up to a tenth
    /// away, so that many issuers and control APIs do not ask in step.
    pub fn after_success(&self, lifetime: Option<Duration>, jitter: f64) -> Duration {
        let wanted = lifetime.unwrap_or(self.longest);
        let wanted = wanted.min(self.longest).max(self.shortest);
        wanted.mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0))
    }

    /// Until the next try after `failures` in a row. Without any keys requests are refused meanwhile, so the tries start
    /// close together; with keys there is no hurry.
    pub fn after_failure(&self, failures: u32, has_keys: bool, jitter: f64) -> Duration {
        let first = if has_keys {
            self.refetch
        } else {
            FIRST_RETRY.min(self.refetch)
        };
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let wait = doubled.min(self.shortest.max(self.refetch));
        wait.mul_f64(1.0 - 0.3 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuers_word_counts_within_the_bounds() {
        let intervals = Intervals::default();
        let seconds = |s| Some(Duration::from_secs(s));
        for (lifetime, expected) in [
            (None, 900),
            (seconds(0), 60),
            (seconds(59), 60),
            (seconds(300), 300),
            (seconds(86_400), 900),
        ] {
            assert_eq!(
                intervals.after_success(lifetime, 0.0),
                Duration::from_secs(expected)
            );
        }
        assert_eq!(
            intervals.after_success(seconds(300), 1.0),
            Duration::from_secs(270)
        );
    }

    #[test]
    fn failures_are_retried_ever_more_slowly_and_never_at_once() {
        let intervals = Intervals::default();
        let waits: Vec<_> = (1..=8)
            .map(|n| intervals.after_failure(n, false, 0.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(intervals.after_failure(1, true, 0.0).as_secs(), 10);
        assert_eq!(intervals.after_failure(u32::MAX, true, 0.0).as_secs(), 60);
        assert!(intervals.after_failure(1, false, 1.0) >= Duration::from_millis(700));
    }
}
