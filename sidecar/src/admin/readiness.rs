//! Whether this sidecar is ready, and if not, why.
//!
//! Ready means: every named condition holds. Whoever owns a condition sets it; everybody may ask. Remarks say what is
//! degraded without making the sidecar unready.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Conditions of a sidecar without capture.
pub const CONDITIONS: &[&str] = &["certificate", "snapshot", "listeners"];
/// Condition that is added where traffic is captured.
pub const CAPTURE: &str = "capture";
/// Condition that holds once what was in use before the start has its connections, or had its time.
pub const WARM: &str = "warm";
/// Condition that breaks when the drain begins.
pub const DRAINING: &str = "draining";

/// The step of a start at which the control API's first certificate arrived.
pub const CERTIFIED: &str = "certificate";
/// The step at which every condition held.
const READY: &str = "ready";

/// Named conditions and what they add up to.
#[derive(Debug)]
pub struct Readiness {
    began: Instant,
    inner: Mutex<Inner>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    conditions: BTreeMap<&'static str, Result<(), String>>,
    remarks: BTreeMap<&'static str, String>,
    /// Times from the beginning.
    steps: BTreeMap<&'static str, Duration>,
}

/// What is known at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// True when every condition holds.
    pub ready: bool,
    /// `name: reason` of every condition that does not hold, then every remark.
    pub reasons: Vec<String>,
    /// Every condition: `ok` or the reason.
    pub conditions: BTreeMap<&'static str, String>,
}

impl Readiness {
    /// All `conditions` not yet met.
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions: BTreeMap<_, _> = conditions
            .iter()
            .map(|name| (*name, Err("not yet".to_owned())))
            .collect();
        let (ready, _) = watch::channel(conditions.is_empty());
        Self {
            began: Instant::now(),
            inner: Mutex::new(Inner {
                conditions,
                ..Inner::default()
            }),
            ready,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets one condition; a new name adds one.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        let mut inner = self.lock();
        let before = inner.conditions.insert(name, state.clone());
        let ready = inner.conditions.values().all(Result::is_ok);
        if ready {
            self.note(&mut inner, READY);
        }
        // Under the lock, so that watchers see the states in the order in which they came about.
        let changed = self
            .ready
            .send_if_modified(|held| std::mem::replace(held, ready) != ready);
        drop(inner);
        if before.as_ref() != Some(&state) {
            match state {
                Ok(()) => tracing::info!(condition = name, "condition met"),
                Err(reason) => tracing::info!(condition = name, reason, "condition not met"),
            }
        }
        if changed {
            metrics::gauge!("postern_ready").set(f64::from(u8::from(ready)));
            tracing::info!(ready, "readiness changed");
        }
    }

    /// Notes that a step of the start was reached, unless it was before.
    pub fn reached(&self, step: &'static str) {
        self.note(&mut self.lock(), step);
    }

    fn note(&self, inner: &mut Inner, step: &'static str) {
        let took = self.began.elapsed();
        inner.steps.entry(step).or_insert(took);
    }

    /// How long after the beginning each step was reached first.
    pub fn steps(&self) -> Vec<(&'static str, Duration)> {
        let inner = self.lock();
        inner.steps.iter().map(|(step, at)| (*step, *at)).collect()
    }

    /// Says, or with `None` stops saying, what is degraded.
    pub fn remark(&self, name: &'static str, text: Option<String>) {
        let mut inner = self.lock();
        match text {
            Some(text) => inner.remarks.insert(name, text),
            None => inner.remarks.remove(name),
        };
    }

    /// True when every condition holds.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Follows [`Self::is_ready`].
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Everything that is known now.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        let mut reasons = Vec::new();
        let mut conditions = BTreeMap::new();
        for (name, state) in &inner.conditions {
            match state {
                Ok(()) => conditions.insert(*name, "ok".to_owned()),
                Err(reason) => {
                    reasons.push(format!("{name}: {reason}"));
                    conditions.insert(*name, reason.clone())
                }
            };
        }
        let ready = reasons.is_empty();
        reasons.extend(inner.remarks.values().cloned());
        Report {
            ready,
            reasons,
            conditions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_condition_holds_and_each_missing_one_is_named() {
        let readiness = Readiness::new(CONDITIONS);
        let watcher = readiness.subscribe();
        assert_eq!(readiness.report().reasons.len(), 3);
        readiness.set("certificate", Ok(()));
        readiness.set("snapshot", Ok(()));
        readiness.set("listeners", Err("port 15001 is taken".into()));
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.report().reasons,
            ["listeners: port 15001 is taken"]
        );
        readiness.set("listeners", Ok(()));
        assert!(readiness.is_ready() && *watcher.borrow());
        readiness.set(DRAINING, Err("shutting down".into()));
        assert!(!readiness.is_ready() && !*watcher.borrow());
    }

    #[test]
    fn steps_keep_the_time_at_which_they_were_reached_first() {
        let readiness = Readiness::new(&["snapshot"]);
        assert!(readiness.steps().is_empty());
        readiness.reached(CERTIFIED);
        readiness.set("snapshot", Ok(()));
        let first = readiness.steps();
        assert!(matches!(first[..], [(CERTIFIED, c), (READY, r)] if c <= r));
        readiness.set("snapshot", Err("gone".into()));
        readiness.set("snapshot", Ok(()));
        readiness.reached(CERTIFIED);
        assert_eq!(readiness.steps(), first);
    }

    #[test]
    fn a_remark_is_said_and_changes_nothing() {
        let readiness = Readiness::new(&["snapshot"]);
        readiness.set("snapshot", Ok(()));
        readiness.remark("control", Some("degraded: control unreachable".into()));
        let report = readiness.report();
        assert!(report.ready);
        assert_eq!(report.reasons, ["degraded: control unreachable"]);
        readiness.remark("control", None);
        assert!(readiness.report().reasons.is_empty());
    }
}
