//! When a resource reached each sidecar of a fleet.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use anyhow::bail;
use mesh_proto::ResourceType;
use tokio::sync::Notify;

/// What is waited for, and who has it.
pub(super) struct Expectation {
    pub(super) kind: ResourceType,
    pub(super) name: String,
    seen: RefCell<Vec<Option<Instant>>>,
    left: std::cell::Cell<usize>,
    done: Notify,
}

impl Expectation {
    /// The resource (or its removal) was acknowledged by a sidecar. Only the first time counts.
    pub(super) fn arrived(&self, sidecar: usize) {
        let mut seen = self.seen.borrow_mut();
        if let Some(slot @ None) = seen.get_mut(sidecar) {
            *slot = Some(Instant::now());
            self.left.set(self.left.get() - 1);
            if self.left.get() == 0 {
                self.done.notify_one();
            }
        }
    }
}

/// Expectations of a fleet that somebody still waits for.
#[derive(Default)]
pub(super) struct Expectations(RefCell<Vec<Weak<Expectation>>>);

impl Expectations {
    pub(super) fn add(&self, kind: ResourceType, name: &str, sidecars: usize) -> Arrivals {
        let expectation = Rc::new(Expectation {
            kind,
            name: name.to_owned(),
            seen: RefCell::new(vec![None; sidecars]),
            left: std::cell::Cell::new(sidecars),
            done: Notify::new(),
        });
        let mut all = self.0.borrow_mut();
        all.retain(|e| e.strong_count() > 0);
        all.push(Rc::downgrade(&expectation));
        Arrivals(expectation)
    }

    /// Those that a response of some type may fulfil.
    pub(super) fn of(&self, kind: ResourceType) -> Vec<Rc<Expectation>> {
        let all = self.0.borrow();
        all.iter()
            .filter_map(Weak::upgrade)
            .filter(|e| e.kind == kind)
            .collect()
    }
}

/// Collects when a resource reached each sidecar. Made before the change, awaited after it.
pub(crate) struct Arrivals(Rc<Expectation>);

impl Arrivals {
    /// Waits until every sidecar has acknowledged the resource. Returns the times since `start`, in order of sidecars.
    pub(crate) async fn all(
        self,
        start: Instant,
        limit: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let waiting = async {
            while self.0.left.get() > 0 {
                self.0.done.notified().await;
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_err() {
            bail!(
                "{} {} reached all but {} of {} sidecars within {limit:?}",
                self.0.kind.kind(),
                self.0.name,
                self.0.left.get(),
                self.0.seen.borrow().len()
            );
        }
        let seen = self.0.seen.borrow();
        Ok(seen
            .iter()
            .flatten()
            .map(|at| at.saturating_duration_since(start))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_sidecar_is_waited_for_and_counted_once() {
        let expectations = Expectations::default();
        let arrivals = expectations.add(ResourceType::Service, "a/b", 2);
        let start = Instant::now();
        for e in expectations.of(ResourceType::Service) {
            e.arrived(0);
            e.arrived(0);
        }
        assert!(expectations.of(ResourceType::Workload).is_empty());
        let other = expectations.add(ResourceType::Service, "a/b", 2);
        for e in expectations.of(ResourceType::Service) {
            e.arrived(1);
        }
        let times = arrivals.all(start, Duration::from_secs(5)).await.unwrap();
        assert_eq!(times.len(), 2);
        let error = other.all(start, Duration::from_millis(1)).await;
        assert!(error.unwrap_err().to_string().contains("all but 1 of 2"));
    }
}
