//! Full-jitter exponential backoff.
//!
//! The n-th wait is uniform between nothing and `min(cap, base * 2^n)`: a thousand sidecars that lost the same control
//! API at the same moment come back spread over the whole interval.

use std::time::Duration;

/// Bounds of the waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Upper end of the first wait.
    pub base: Duration,
    /// Upper end of every later wait.
    pub cap: Duration,
}

/// State of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
}

impl Backoff {
    /// Before any failure.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            failures: 0,
        }
    }

    /// How long to wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random_unit())
    }

    /// The longest that [`Self::failed`] may say.
    pub fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.limits.base.saturating_mul(factor).min(self.limits.cap)
    }

    /// Changes the bounds, keeping the number of failures.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random number in `0.0..1.0`.
pub fn random_unit() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness the middle is as good as any: waiting must not fail.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        base: Duration::from_millis(10),
        cap: Duration::from_secs(15),
    };

    #[test]
    fn ceilings_double_up_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(LIMITS);
        let ceilings: Vec<_> = (0..13)
            .map(|_| {
                let ceiling = backoff.ceiling();
                backoff.failed();
                ceiling.as_millis()
            })
            .collect();
        assert_eq!(
            ceilings,
            [
                10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 15_000, 15_000
            ]
        );
        backoff.reset();
        assert_eq!(backoff.ceiling(), LIMITS.base);
    }

    #[test]
    fn waits_of_many_are_spread_over_the_whole_interval() {
        let mut quarters = [0u32; 4];
        for _ in 0..4_000 {
            let mut backoff = Backoff::new(LIMITS);
            for _ in 0..12 {
                backoff.failed();
            }
            let wait = backoff.failed();
            assert!(wait <= LIMITS.cap);
            quarters[(wait.as_secs_f64() / 3.75) as usize] += 1;
        }
        assert!(
            quarters.iter().all(|n| (800..1_200).contains(n)),
            "{quarters:?}"
        );
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_its_ceiling_whatever_the_limits(base in 1u64..10_000, cap in 1u64..100_000, failures in 0usize..80) {
            let limits = Limits { base: Duration::from_millis(base), cap: Duration::from_millis(cap) };
            let mut backoff = Backoff::new(limits);
            for _ in 0..failures {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling <= limits.cap);
                prop_assert!(backoff.failed() <= ceiling);
            }
        }
    }
}
