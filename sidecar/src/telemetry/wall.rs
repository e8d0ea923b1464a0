//! The wall clock for those who have read the monotonic one: it is read now and then, and reckoned from there.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use mesh_trace::Timeline;

/// How long a reading serves. A change of the clock is seen this much later.
const SERVES: Duration = Duration::from_secs(1);

/// One worker's reading.
#[derive(Debug)]
pub(super) struct Wall {
    /// What both clocks said at the same moment.
    read: Cell<(Instant, SystemTime)>,
}

impl Default for Wall {
    fn default() -> Self {
        Self {
            read: Cell::new(now()),
        }
    }
}

impl Wall {
    /// When something began whose last mark was just made.
    pub(super) fn at(&self, timeline: &Timeline) -> SystemTime {
        self.reckon(timeline.started(), timeline.ended(), now)
    }

    /// What the wall clock said at `moment`; `now` is about now.
    fn reckon(
        &self,
        moment: Instant,
        now: Instant,
        read: impl FnOnce() -> (Instant, SystemTime),
    ) -> SystemTime {
        let (mut then, mut said) = self.read.get();
        if now.saturating_duration_since(then) > SERVES {
            (then, said) = read();
            self.read.set((then, said));
        }
        match moment.checked_duration_since(then) {
            Some(after) => said.checked_add(after),
            None => said.checked_sub(then.saturating_duration_since(moment)),
        }
        .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_serves_for_a_second_and_what_began_before_it_is_reckoned_back() {
        let wall = Wall::default();
        let (then, said) = wall.read.get();
        let millis = Duration::from_millis;
        let not_again = || -> (Instant, SystemTime) { panic!("it is read again") };
        for (before, after) in [(0, 999), (700, 400), (3_600_000, 1_000)] {
            // An hour before the clock began there is no moment to reckon from.
            let Some(moment) = then.checked_sub(millis(before)) else {
                continue;
            };
            let at = wall.reckon(moment, then + millis(after), not_again);
            assert_eq!(at, said - millis(before));
        }
        let later = wall.reckon(then + millis(300), then + millis(900), not_again);
        assert_eq!(later, said + millis(300));

        // An hour was added to the clock in the meantime.
        let again = (then + millis(1_001), said + millis(3_601_001));
        let at = wall.reckon(then + millis(501), then + millis(1_001), || again);
        assert_eq!(at, said + millis(3_600_501));
        assert_eq!(wall.read.get(), again);
    }
}
