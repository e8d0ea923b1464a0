//! Limits on what strangers can make us do: refused attempts per address, and lines of log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Refused attempts of one address within [`WINDOW`] after which it is told to wait.
const MAX_FAILURES: u32 = 30;
/// Seconds.
const WINDOW: i64 = 60;
/// Addresses that are remembered; beyond, the oldest are forgotten.
const MAX_ADDRESSES: usize = 4_096;
/// Lines of one kind in a second.
const MAX_LINES: u32 = 20;

/// Counts refused attempts by address. One that would succeed is never held up.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, (i64, u32)>>);

impl Failures {
    /// Notes a refused attempt; true if the address has made too many.
    pub fn note(&self, address: IpAddr, now: i64) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_ADDRESSES && !counts.contains_key(&address) {
            counts.retain(|_, (since, _)| now.saturating_sub(*since) < WINDOW);
            if counts.len() >= MAX_ADDRESSES {
                counts.clear();
            }
        }
        let (since, count) = counts.entry(address).or_insert((now, 0));
        // A clock that was set back starts a new window as well.
        if !(0..WINDOW).contains(&now.saturating_sub(*since)) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count > MAX_FAILURES
    }
}

/// Lets a bounded number of lines per second through.
#[derive(Debug, Default)]
pub struct Lines(Mutex<(i64, u32)>);

impl Lines {
    /// True if one more line may be written.
    pub fn allow(&self, now: i64) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != now {
            *state = (now, 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= MAX_LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_after_many_refusals_and_only_for_a_while() {
        let failures = Failures::default();
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert!((0..MAX_FAILURES).all(|_| !failures.note(a, 100)));
        assert!(failures.note(a, 101));
        assert!(!failures.note(b, 101), "others are not held up");
        assert!(!failures.note(a, 161), "the window is over");
        assert!(!failures.note(a, 50), "the clock was set back");
    }

    #[test]
    fn addresses_do_not_pile_up() {
        let failures = Failures::default();
        for i in 0..3 * MAX_ADDRESSES as u32 {
            failures.note(IpAddr::from(i.to_be_bytes()), 0);
        }
        assert!(failures.0.lock().unwrap().len() <= MAX_ADDRESSES);
    }

    #[test]
    fn lines_are_bounded_by_the_second() {
        let lines = Lines::default();
        assert_eq!(
            (0..100).filter(|_| lines.allow(1)).count(),
            MAX_LINES as usize
        );
        assert!(lines.allow(2));
    }
}
