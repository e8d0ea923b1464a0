//! What one worker counts for latency budgets.
//!
//! A [`Tally`] has one writer, its worker, and is read by the control thread: counting is a load, an addition and a store,
//! with no lock and no locked instruction.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_auth::latency::{self, BUCKETS, Budget};
use mesh_trace::{Phase, Timeline};

use crate::worker::metrics::Direction;

/// What one worker counted for one budget, since it heard of it.
#[derive(Debug)]
pub struct Tally {
    budget: Arc<Budget>,
    over: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Tally {
    fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            over: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The budget.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Requests over the threshold.
    pub fn over(&self) -> u64 {
        self.over.load(Ordering::Relaxed)
    }

    /// Requests by bucket (see [`mesh_auth::latency`]).
    pub fn buckets(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed))
    }

    /// Counts a request; true if it was over.
    fn count(&self, nanos: u64) -> bool {
        add_one(&self.buckets[latency::bucket(nanos)]);
        let is_over = nanos > self.budget.threshold_nanos;
        if is_over {
            add_one(&self.over);
        }
        is_over
    }
}

/// This worker alone writes, so that nothing is lost between load and store.
pub(super) fn add_one(cell: &AtomicU64) {
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// Where the control thread finds one worker's tallies.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Vec<Arc<Tally>>>);

impl Shelf {
    /// The tallies of the budgets in force.
    pub fn tallies(&self) -> MutexGuard<'_, Vec<Arc<Tally>>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's tallies, by direction.
pub struct Budgets {
    tallies: [RefCell<Vec<Arc<Tally>>>; 2],
    shelf: Arc<Shelf>,
}

impl Budgets {
    /// None yet.
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self {
            tallies: [RefCell::default(), RefCell::default()],
            shelf,
        }
    }

    /// From now on `budgets` are those that count. What was counted for one that stays, stays.
    pub fn replace(&self, budgets: &[Arc<Budget>]) {
        let mut shelf = self.shelf.tallies();
        let all: Vec<_> = budgets
            .iter()
            .map(|budget| {
                let held = shelf.iter().find(|t| Arc::ptr_eq(&t.budget, budget));
                held.cloned()
                    .unwrap_or_else(|| Arc::new(Tally::new(Arc::clone(budget))))
            })
            .collect();
        for direction in [Direction::Inbound, Direction::Outbound] {
            let of_direction = all.iter().filter(|t| is(t.budget.direction, direction));
            *self.tallies[direction as usize].borrow_mut() = of_direction.cloned().collect();
        }
        *shelf = all;
    }

    /// Counts a request that ended; `issuer` tells whether its token is of an issuer. True if it is over a budget.
    pub fn count(
        &self,
        direction: Direction,
        timeline: &Timeline,
        issuer: impl Fn(&str) -> bool,
    ) -> bool {
        let mut over = false;
        for tally in &*self.tallies[direction as usize].borrow() {
            if tally.budget.issuer.as_deref().is_some_and(|i| !issuer(i)) {
                continue;
            }
            if let Some(nanos) = nanos(timeline, tally.budget.phase) {
                over |= tally.count(nanos);
            }
        }
        over
    }
}

impl Budgets {
    /// Counts the handshake of a connection, which is no request. True if it is over a budget.
    pub fn count_handshake(&self, direction: Direction, timeline: &Timeline) -> bool {
        let mut over = false;
        for tally in &*self.tallies[direction as usize].borrow() {
            if tally.budget.phase == latency::Phase::Handshake
                && let Some(nanos) = nanos(timeline, latency::Phase::Handshake)
            {
                over |= tally.count(nanos);
            }
        }
        over
    }
}

fn is(direction: latency::Direction, wanted: Direction) -> bool {
    match direction {
        latency::Direction::Inbound => wanted == Direction::Inbound,
        latency::Direction::Outbound => wanted == Direction::Outbound,
    }
}

/// What a request spent in a phase; `None` where it did not come by.
fn nanos(timeline: &Timeline, phase: latency::Phase) -> Option<u64> {
    let of = |phase| {
        let took = timeline.of(phase);
        (!took.is_zero()).then_some(took)
    };
    let took = match phase {
        latency::Phase::Request => Some(timeline.total()),
        latency::Phase::Own => Some(
            Phase::ALL
                .into_iter()
                .filter(|phase| phase.is_own())
                .map(|phase| timeline.of(phase))
                .sum(),
        ),
        latency::Phase::Admit => of(Phase::Admit),
        latency::Phase::Token => of(Phase::Token),
        latency::Phase::Introspect => of(Phase::Introspect),
        latency::Phase::Policy => of(Phase::Policy),
        latency::Phase::Connect => of(Phase::Connect),
        latency::Phase::Handshake => of(Phase::Handshake),
        latency::Phase::Upstream => of(Phase::Upstream),
        latency::Phase::Response => of(Phase::Response),
    };
    took.map(|took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_proto::mesh;

    use super::*;

    fn budget(phase: latency::Phase, issuer: &str, threshold: Duration) -> Arc<Budget> {
        let message = mesh::LatencyBudget {
            name: "b".into(),
            namespace: "shop".into(),
            phase: phase.to_proto().into(),
            issuer: issuer.into(),
            target_millionths: 990_000,
            threshold_nanos: u64::try_from(threshold.as_nanos()).unwrap(),
            window_seconds: 60,
            ..Default::default()
        };
        Arc::new(Budget::parse(&message).unwrap())
    }

    fn timeline(token: u64, upstream: u64) -> Timeline {
        let mut timeline = Timeline::start();
        let at = |micros| timeline.started() + Duration::from_micros(micros);
        let (token_end, end) = (at(token), at(token + upstream));
        timeline.mark_at(Phase::Token, token_end);
        timeline.mark_at(Phase::Upstream, end);
        timeline
    }

    #[test]
    fn a_handshake_counts_for_its_own_budgets_only() {
        let shelf = Arc::new(Shelf::default());
        let budgets = Budgets::new(Arc::clone(&shelf));
        let all = [
            budget(latency::Phase::Handshake, "", Duration::from_millis(1)),
            budget(latency::Phase::Request, "", Duration::from_millis(1)),
        ];
        budgets.replace(&all);
        let mut timeline = Timeline::start();
        let end = timeline.started() + Duration::from_millis(2);
        timeline.mark_at(Phase::Handshake, end);
        assert!(budgets.count_handshake(Direction::Inbound, &timeline));
        let overs: Vec<_> = shelf.tallies().iter().map(|t| t.over()).collect();
        assert_eq!(overs, [1, 0]);
    }

    #[test]
    fn a_request_counts_where_it_came_by_and_whose_token_it_has() {
        let shelf = Arc::new(Shelf::default());
        let budgets = Budgets::new(Arc::clone(&shelf));
        let micros = Duration::from_micros;
        let all = [
            budget(latency::Phase::Token, "https://a", micros(300)),
            budget(latency::Phase::Own, "", micros(300)),
            budget(latency::Phase::Request, "", micros(1_000)),
            budget(latency::Phase::Introspect, "", micros(1)),
        ];
        budgets.replace(&all);
        let is_a = |issuer: &str| issuer == "https://a";
        assert!(!budgets.count(Direction::Inbound, &timeline(300, 100), is_a));
        assert!(budgets.count(Direction::Inbound, &timeline(301, 100), is_a));
        assert!(budgets.count(Direction::Inbound, &timeline(10, 2_000), |_| false));
        assert!(!budgets.count(Direction::Outbound, &timeline(999, 9_999), is_a));
        let read = || -> Vec<_> {
            let tallies = shelf.tallies();
            let counts = tallies.iter().map(|t| (t.buckets().sum::<u64>(), t.over()));
            counts.collect()
        };
        assert_eq!(read(), [(2, 1), (3, 1), (3, 1), (0, 0)]);
        budgets.replace(&all[1..3]);
        assert_eq!(read(), [(3, 1), (3, 1)], "what stays goes on");
        budgets.replace(&[]);
        assert!(!budgets.count(Direction::Inbound, &timeline(999, 9_999), is_a));
    }
}
