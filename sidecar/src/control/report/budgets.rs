//! How this sidecar stands with its latency budgets: windows over what the workers count, burn rates, breaches.
//!
//! A window is a ring of slots. A budget is breached when more requests are over its threshold than its target lets be,
//! over the window and over the last twelfth of it: a past outage does not alarm, and one slow request does not either.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mesh_auth::latency::{self, BUCKETS, Budget};
use mesh_proto::mesh::{LatencyBudgetState as State, LatencyBudgetStatus};
use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::watch::budgets::Tally;

/// Slots of a window, and of the short one.
const SLOTS: usize = 24;
const SHORT_SLOTS: usize = 2;

/// Every budget in force.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    held: Vec<Tracker>,
    is_new: bool,
}

impl Trackers {
    /// Takes in what `tallies` counted for `budgets` until now: `elapsed` on a monotonic clock, `now` in Unix seconds.
    pub(super) fn tick(
        &mut self,
        budgets: &[Arc<Budget>],
        tallies: &[Arc<Tally>],
        elapsed: Duration,
        now: i64,
    ) {
        let before = self.held.len();
        self.held
            .retain(|held| budgets.iter().any(|b| Arc::ptr_eq(b, &held.budget)));
        self.is_new |= before != self.held.len();
        for budget in budgets {
            let of_it = || tallies.iter().filter(|t| Arc::ptr_eq(t.budget(), budget));
            let held = self
                .held
                .iter_mut()
                .find(|held| Arc::ptr_eq(&held.budget, budget));
            if let Some(held) = held {
                self.is_new |= held.tick(of_it(), elapsed, now);
            } else {
                let mut tracker = Tracker::new(Arc::clone(budget), elapsed, now);
                tracker.tick(of_it(), elapsed, now);
                self.held.push(tracker);
                self.is_new = true;
            }
        }
    }

    /// Makes everything new again: for a control API that may know nothing.
    pub(super) fn renew(&mut self) {
        self.is_new = !self.held.is_empty();
    }

    /// All of them if one of them is new; not new any more afterwards.
    pub(super) fn take_fresh(&mut self) -> Option<Vec<LatencyBudgetStatus>> {
        std::mem::take(&mut self.is_new)
            .then(|| self.held.iter().map(|held| held.status.clone()).collect())
    }
}

/// What was counted in a part of the window.
#[derive(Debug, Clone)]
struct Slot {
    over: u64,
    buckets: Box<[u64]>,
}

impl Slot {
    fn empty() -> Self {
        Self {
            over: 0,
            buckets: vec![0; BUCKETS].into(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.over += other.over;
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
    }

    fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One budget.
#[derive(Debug)]
struct Tracker {
    budget: Arc<Budget>,
    /// Everything counted so far.
    total: Slot,
    /// Newest last.
    slots: VecDeque<Slot>,
    /// When the newest began.
    slot_began: Duration,
    status: LatencyBudgetStatus,
    told: Told,
}

impl Tracker {
    fn new(budget: Arc<Budget>, elapsed: Duration, now: i64) -> Self {
        let told = Told::new(&budget);
        Self {
            total: Slot::empty(),
            slots: VecDeque::from([Slot::empty()]),
            slot_began: elapsed,
            status: LatencyBudgetStatus {
                budget: budget.name.clone().into(),
                since: now,
                ..LatencyBudgetStatus::default()
            },
            budget,
            told,
        }
    }

    /// True if something changed.
    fn tick<'a>(
        &mut self,
        tallies: impl Iterator<Item = &'a Arc<Tally>>,
        elapsed: Duration,
        now: i64,
    ) -> bool {
        let moved = self.advance(elapsed);
        let counted = self.count(tallies);
        (moved || counted) && self.judge(now)
    }

    /// Begins slots until the newest is the present one.
    fn advance(&mut self, elapsed: Duration) -> bool {
        let length = Duration::from_secs(self.budget.window_seconds.into())
            / u32::try_from(SLOTS).unwrap_or(u32::MAX);
        let mut moved = false;
        while elapsed.saturating_sub(self.slot_began) >= length {
            moved = true;
            if elapsed.saturating_sub(self.slot_began) >= length * 2 * SLOTS as u32 {
                // It slept: nothing of the window is left.
                self.slots.clear();
                self.slot_began = elapsed;
            } else {
                self.slot_began += length;
            }
            self.slots.push_back(Slot::empty());
            if self.slots.len() > SLOTS {
                self.slots.pop_front();
            }
        }
        moved
    }

    fn count<'a>(&mut self, tallies: impl Iterator<Item = &'a Arc<Tally>>) -> bool {
        let mut total = Slot::empty();
        for tally in tallies {
            // First what is a part, then the whole: no more are over than there are.
            total.over += tally.over();
            for (sum, count) in total.buckets.iter_mut().zip(tally.buckets()) {
                *sum += count;
            }
        }
        let over = total.over.saturating_sub(self.total.over);
        let mut requests = 0;
        if let Some(newest) = self.slots.back_mut() {
            newest.over += over;
            let counts = total.buckets.iter().zip(&self.total.buckets);
            for (slot, (now, before)) in newest.buckets.iter_mut().zip(counts) {
                let new = now.saturating_sub(*before);
                *slot += new;
                requests += new;
            }
        }
        self.total = total;
        self.told.requests.increment(requests);
        self.told.over.increment(over);
        requests > 0 || over > 0
    }

    fn judge(&mut self, now: i64) -> bool {
        let mut window = Slot::empty();
        let mut short = Slot::empty();
        for (age, slot) in self.slots.iter().rev().enumerate() {
            window.add(slot);
            if age < SHORT_SLOTS {
                short.add(slot);
            }
        }
        let budget = &self.budget;
        let requests = window.requests();
        let is_met = budget.is_met(requests, window.over);
        let short_burn_rate = budget.burn_rate(short.requests(), short.over);
        let state = if requests < budget.fewest() {
            State::Unknown
        } else if is_met {
            State::Met
        } else if short_burn_rate > 1.0 {
            State::Breached
        } else {
            State::Recovering
        };
        let before = self.status.state();
        let held = &self.status;
        let status = LatencyBudgetStatus {
            budget: held.budget.clone(),
            state: state.into(),
            since: if state == before { held.since } else { now },
            requests,
            over: window.over,
            percentile_nanos: percentile(budget, &window, is_met),
            burn_rate: budget.burn_rate(requests, window.over),
            short_burn_rate,
            breaches: held.breaches + u64::from(state == State::Breached && before != state),
        };
        if state != before {
            log(budget, before, &status);
        }
        let changed = status != self.status;
        self.status = status;
        self.told.set(budget, &self.status);
        changed
    }
}

/// The target percentile. A bucket's bound may lie on the other side of the threshold than what was counted in it.
fn percentile(budget: &Budget, window: &Slot, is_met: bool) -> u64 {
    let bound = latency::percentile(&window.buckets, budget.target_millionths);
    match is_met {
        true => bound.min(budget.threshold_nanos),
        false => bound.max(budget.threshold_nanos + 1),
    }
}

fn log(budget: &Budget, before: State, status: &LatencyBudgetStatus) {
    let name = &*budget.name;
    let (percentile, threshold) = (
        status.percentile_nanos / 1_000,
        budget.threshold_nanos / 1_000,
    );
    match (before, status.state()) {
        (_, State::Breached) => tracing::warn!(
            budget = name,
            phase = budget.phase.as_str(),
            percentile_us = percentile,
            threshold_us = threshold,
            burn_rate = status.burn_rate,
            "latency budget breached"
        ),
        (State::Breached | State::Recovering, State::Met | State::Unknown) => tracing::info!(
            budget = name,
            percentile_us = percentile,
            threshold_us = threshold,
            "latency budget met again"
        ),
        _ => {}
    }
}

/// Its metrics.
#[derive(Debug)]
struct Told {
    requests: Counter,
    over: Counter,
    burn_rates: [Gauge; 2],
    percentile: Gauge,
    breached: Gauge,
    threshold: Gauge,
    allowed: Gauge,
}

impl Told {
    fn new(budget: &Budget) -> Self {
        let name = || budget.name.to_string();
        Self {
            requests: counter!("postern_latency_budget_requests_total", "budget" => name()),
            over: counter!("postern_latency_budget_over_total", "budget" => name()),
            burn_rates: ["long", "short"].map(|window| {
                gauge!("postern_latency_budget_burn_rate", "budget" => name(), "window" => window)
            }),
            percentile: gauge!("postern_latency_budget_percentile_seconds", "budget" => name()),
            breached: gauge!("postern_latency_budget_breached", "budget" => name()),
            threshold: gauge!("postern_latency_budget_threshold_seconds", "budget" => name()),
            allowed: gauge!("postern_latency_budget_allowed_ratio", "budget" => name()),
        }
    }

    fn set(&self, budget: &Budget, status: &LatencyBudgetStatus) {
        self.burn_rates[0].set(status.burn_rate);
        self.burn_rates[1].set(status.short_burn_rate);
        self.percentile.set(seconds(status.percentile_nanos));
        let is_breached = status.state() == State::Breached;
        self.breached.set(if is_breached { 1.0 } else { 0.0 });
        self.threshold.set(seconds(budget.threshold_nanos));
        self.allowed
            .set(1.0 - f64::from(budget.target_millionths) / 1e6);
    }
}

impl Drop for Told {
    /// A budget that is gone alarms nobody.
    fn drop(&mut self) {
        for gauge in [&self.burn_rates[0], &self.burn_rates[1], &self.breached] {
            gauge.set(0.0);
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Below 2^53 for 104 days.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Says what the metrics of budgets mean.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!(
        "postern_latency_budget_requests_total",
        "Requests that a latency budget speaks of."
    );
    describe_counter!(
        "postern_latency_budget_over_total",
        "Those of them that took longer than its threshold."
    );
    describe_gauge!(
        "postern_latency_budget_burn_rate",
        "How many times faster than allowed a latency budget is used up, over its window (long) and the last twelfth of it (short)."
    );
    describe_gauge!(
        "postern_latency_budget_percentile_seconds",
        "The percentile that a latency budget speaks of, within its window."
    );
    describe_gauge!(
        "postern_latency_budget_breached",
        "1 while a latency budget is breached, over both windows."
    );
    describe_gauge!(
        "postern_latency_budget_threshold_seconds",
        "What the percentile must not exceed."
    );
    describe_gauge!(
        "postern_latency_budget_allowed_ratio",
        "Share of requests that may take longer."
    );
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh;
    use mesh_trace::{Phase, Timeline};

    use super::*;
    use crate::telemetry::watch::budgets::{Budgets, Shelf};
    use crate::worker::metrics::Direction;

    struct World {
        budgets: [Arc<Budget>; 1],
        shelf: Arc<Shelf>,
        counting: Budgets,
        trackers: Trackers,
        second: u64,
    }

    impl World {
        /// p90 of requests at most 1 ms, over four minutes: slots of ten seconds.
        fn new() -> Self {
            let message = mesh::LatencyBudget {
                name: "b".into(),
                namespace: "shop".into(),
                target_millionths: 900_000,
                threshold_nanos: 1_000_000,
                window_seconds: 240,
                ..Default::default()
            };
            let budgets = [Arc::new(Budget::parse(&message).unwrap())];
            let shelf = Arc::new(Shelf::default());
            let counting = Budgets::new(Arc::clone(&shelf));
            counting.replace(&budgets);
            Self {
                budgets,
                shelf,
                counting,
                trackers: Trackers::default(),
                second: 0,
            }
        }

        /// So many fast and slow requests, then so many seconds.
        fn pass(&mut self, fast: u32, slow: u32, seconds: u64) -> LatencyBudgetStatus {
            for (count, micros) in [(fast, 500), (slow, 3_000)] {
                for _ in 0..count {
                    let mut timeline = Timeline::start();
                    let end = timeline.started() + Duration::from_micros(micros);
                    timeline.mark_at(Phase::Upstream, end);
                    self.counting
                        .count(Direction::Inbound, &timeline, |_| false);
                }
            }
            for _ in 0..seconds {
                self.second += 1;
                let now = i64::try_from(self.second).unwrap();
                let elapsed = Duration::from_secs(self.second);
                let tallies = self.shelf.tallies();
                self.trackers.tick(&self.budgets, &tallies, elapsed, now);
            }
            self.trackers.held[0].status.clone()
        }
    }

    #[test]
    fn a_budget_is_breached_over_both_windows_and_recovers_by_the_short_one() {
        let mut world = World::new();
        let status = world.pass(5, 4, 1);
        assert_eq!(status.state(), State::Unknown, "too few to say");
        let status = world.pass(95, 0, 1);
        assert_eq!(status.state(), State::Met, "{status:?}");
        assert_eq!((status.requests, status.over), (104, 4));
        let status = world.pass(0, 20, 1);
        assert_eq!(status.state(), State::Breached, "{status:?}");
        assert_eq!((status.breaches, status.since), (1, 3));
        assert!(status.burn_rate > 1.0 && status.short_burn_rate > 1.0);
        assert!(status.percentile_nanos > 1_000_000, "{status:?}");
        // Slots pass; what comes now is fast.
        let status = world.pass(50, 0, 30);
        assert_eq!(status.state(), State::Recovering, "{status:?}");
        let status = world.pass(200, 0, 1);
        assert_eq!(status.state(), State::Met, "{status:?}");
        assert!(status.percentile_nanos <= 1_000_000);
        let status = world.pass(0, 0, 300);
        assert_eq!((status.requests, status.state()), (0, State::Unknown));
        assert_eq!(status.breaches, 1);
    }

    #[test]
    fn what_changed_is_told_once_and_again_to_a_new_stream() {
        let mut world = World::new();
        world.pass(1, 0, 1);
        assert_eq!(world.trackers.take_fresh().map(|f| f.len()), Some(1));
        world.pass(0, 0, 2);
        assert_eq!(world.trackers.take_fresh(), None);
        world.trackers.renew();
        assert!(world.trackers.take_fresh().is_some());
        world.trackers.tick(&[], &[], Duration::from_secs(99), 99);
        assert_eq!(world.trackers.take_fresh(), Some(vec![]), "it is gone");
        world.trackers.renew();
        assert_eq!(world.trackers.take_fresh(), None);
    }

    #[test]
    fn after_a_long_sleep_nothing_of_the_window_is_left() {
        let mut world = World::new();
        world.pass(0, 50, 1);
        world.second += 1_000_000;
        let status = world.pass(0, 0, 1);
        assert_eq!(status.requests, 0);
    }
}
