//! Whether an introspection endpoint is worth asking, known to all workers together.
//!
//! After a few failures in a row it is left alone for a while, whichever workers met them, except for one question that finds
//! out whether it is well again. While it is well a question reads one number.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mesh_proto::mesh::TokenIntrospection;
use tokio::time::Instant;

/// Failures in a row after which it is left alone.
pub(super) const MAX_FAILURES: u32 = 5;
/// For how long.
const REST: Duration = Duration::from_secs(5);

/// Of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    since: Instant,
    /// In a row.
    failures: AtomicU32,
    /// Milliseconds after `since`.
    rests_until: AtomicU64,
}

impl Health {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            failures: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
        }
    }

    /// Whether it may be asked now. Once it rested enough, one of those who want to know may.
    pub(super) fn may_be_asked(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) < MAX_FAILURES {
            return true;
        }
        let now = self.now();
        let until = self.rests_until.load(Ordering::Relaxed);
        let (relaxed, next) = (Ordering::Relaxed, now + rest());
        now >= until
            && self
                .rests_until
                .compare_exchange(until, next, relaxed, relaxed)
                .is_ok()
    }

    /// It answered.
    pub(super) fn answered(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It did not.
    pub(super) fn failed(&self) {
        self.rests_until
            .store(self.now() + rest(), Ordering::Relaxed);
        let more = |failures: u32| Some(failures.saturating_add(1));
        let _ = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn now(&self) -> u64 {
        milliseconds(self.since.elapsed())
    }
}

fn rest() -> u64 {
    milliseconds(REST)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The endpoints that workers know. Looked at when a worker meets a rule for the first time.
#[derive(Debug, Default)]
pub(super) struct Endpoints(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    issuer: String,
    rule: TokenIntrospection,
    health: Weak<Health>,
}

impl Endpoints {
    /// That of the endpoint that `rule` of `issuer` names.
    pub(super) fn health(&self, rule: &TokenIntrospection, issuer: &str) -> Arc<Health> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.health.strong_count() > 0);
        let same = known
            .iter()
            .find(|one| one.issuer == issuer && one.rule == *rule);
        if let Some(health) = same.and_then(|one| one.health.upgrade()) {
            return health;
        }
        let health = Arc::new(Health::new());
        known.push(Known {
            issuer: issuer.to_owned(),
            rule: rule.clone(),
            health: Arc::downgrade(&health),
        });
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_question_finds_out_whether_it_is_well_again() {
        let endpoints = Endpoints::default();
        let rule = TokenIntrospection::default();
        let (first, second) = (endpoints.health(&rule, "a"), endpoints.health(&rule, "a"));
        for _ in 1..MAX_FAILURES {
            first.failed();
            assert!(second.may_be_asked());
        }
        second.failed();
        assert!(!first.may_be_asked() && !second.may_be_asked());
        assert!(endpoints.health(&rule, "b").may_be_asked(), "another one");
        tokio::time::advance(REST).await;
        assert!(first.may_be_asked());
        assert!(!second.may_be_asked(), "the other finds out");
        first.failed();
        tokio::time::advance(REST).await;
        assert!(second.may_be_asked());
        second.answered();
        assert!(first.may_be_asked() && second.may_be_asked());
    }

    #[test]
    fn endpoints_that_nobody_asks_any_more_are_forgotten() {
        let endpoints = Endpoints::default();
        for issuer in ["a", "b", "c"] {
            drop(endpoints.health(&TokenIntrospection::default(), issuer));
        }
        assert_eq!(endpoints.0.lock().expect("endpoints").len(), 1);
    }
}
