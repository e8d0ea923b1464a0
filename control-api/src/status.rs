//! Which sidecars are connected, what each of them holds, and when its certificate ends.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::admin::{Nack, SidecarStatus};
use tokio::sync::Notify;

use crate::propagation::Propagation;

/// Moments that are remembered per sidecar.
const REMEMBERED: usize = 64;

/// The sidecars that were ever seen, by workload.
#[derive(Debug, Default)]
pub struct Tracker {
    inner: Mutex<Inner>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// With the number of the stream that speaks for the workload: the newest.
    sidecars: BTreeMap<String, (u64, SidecarStatus)>,
    /// End of the last certificate issued to each workload.
    certificates: BTreeMap<String, i64>,
    /// What the newest stream of each connected workload trusts and shows.
    trusting: BTreeMap<String, (u64, Trusting)>,
    /// Streams that are open.
    streams: u64,
    /// When each workload's sidecar enforced which revision, oldest first.
    enforced: BTreeMap<String, VecDeque<(u64, Instant)>>,
    /// When revisions were asked for, oldest first.
    begun: VecDeque<(u64, Instant)>,
    /// How long they took to be acknowledged.
    propagation: Propagation,
}

/// What matters of a connected sidecar when roots change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusting {
    /// Revision of the own trust bundle that it acknowledged.
    pub bundle_revision: Option<u64>,
    /// Serial number of the certificate that it showed, hexadecimal.
    pub serial: String,
}

impl Tracker {
    /// Knows the certificates that were issued, and the sidecars that were seen, before the start.
    pub fn new(certificates: BTreeMap<String, i64>, seen: BTreeMap<String, i64>) -> Self {
        let away = |(workload, since): (String, i64)| {
            let status = SidecarStatus {
                workload: workload.clone(),
                since,
                ..SidecarStatus::default()
            };
            (workload, (0, status))
        };
        Self {
            inner: Mutex::new(Inner {
                certificates,
                sidecars: seen.into_iter().map(away).collect(),
                ..Inner::default()
            }),
            moved: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, and half a status would still be one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream opened; of several of one workload the newest counts.
    pub fn connected(&self, stream: u64, status: SidecarStatus) {
        let mut inner = self.lock();
        inner.streams += 1;
        inner
            .sidecars
            .insert(status.workload.clone(), (stream, status));
    }

    /// What a stream acknowledged or rejected changed.
    pub fn progressed(&self, stream: u64, workload: &str, acked_revision: u64, nacks: Vec<Nack>) {
        let mut before = acked_revision;
        self.update(stream, workload, |status| {
            before = status.acked_revision;
            status.acked_revision = acked_revision;
            status.nacks = nacks;
        });
        // A sidecar that held nothing before came late to what was asked for earlier.
        if before == 0 || before >= acked_revision {
            return;
        }
        let mut inner = self.lock();
        let Inner {
            begun, propagation, ..
        } = &mut *inner;
        for (_, at) in begun
            .iter()
            .filter(|(revision, _)| before < *revision && *revision <= acked_revision)
        {
            propagation.record(at.elapsed());
        }
    }

    /// How long changes took to be acknowledged by connected sidecars.
    pub fn propagation(&self) -> Propagation {
        self.lock().propagation.clone()
    }

    /// What the sidecar of a stream trusts and shows.
    pub fn trusts(&self, stream: u64, workload: &str, trusting: Trusting) {
        let mut inner = self.lock();
        let is_newest = inner
            .sidecars
            .get(workload)
            .is_some_and(|(newest, status)| *newest == stream && status.connected);
        if is_newest {
            inner
                .trusting
                .insert(workload.to_owned(), (stream, trusting));
        }
    }

    /// What every connected sidecar trusts and shows, by workload.
    pub fn trusting(&self) -> BTreeMap<String, Trusting> {
        let inner = self.lock();
        let connected = inner.sidecars.iter().filter(|(_, (_, s))| s.connected);
        connected
            .map(|(workload, (stream, _))| {
                let known = inner.trusting.get(workload).filter(|(of, _)| of == stream);
                // One that has said nothing yet trusts nothing yet.
                let trusting = known.map(|(_, t)| t.clone()).unwrap_or_default();
                (workload.clone(), trusting)
            })
            .collect()
    }

    /// A stream's sidecar enforces the revocations of `revision`.
    pub fn enforced(&self, stream: u64, workload: &str, revision: u64) {
        let mut inner = self.lock();
        let speaks = inner
            .sidecars
            .get(workload)
            .is_some_and(|(current, _)| *current == stream);
        let history = inner.enforced.entry(workload.to_owned()).or_default();
        if !speaks || history.back().is_some_and(|(last, _)| *last >= revision) {
            return;
        }
        push(history, (revision, Instant::now()));
        drop(inner);
        self.moved.notify_waiters();
    }

    /// A change that made `revision` was asked for at `at`.
    pub fn begun(&self, revision: u64, at: Instant) {
        push(&mut self.lock().begun, (revision, at));
    }

    /// How long each sidecar that is connected, or was until then, took to enforce `revision`, counted from when the change was asked for; `None` for
    /// one that has not yet. Sidecars that connect later hold it from the start.
    pub fn enforcement(&self, revision: u64) -> Vec<(String, Option<Duration>)> {
        let inner = self.lock();
        let begun = inner.begun.iter().find(|(made, _)| *made == revision);
        inner
            .sidecars
            .values()
            .filter_map(|(_, status)| {
                let history = inner.enforced.get(&status.workload);
                let at = history.and_then(|h| h.iter().find(|(reached, _)| *reached >= revision));
                let took = at.map(|(_, at)| {
                    begun.map_or(Duration::ZERO, |(_, begun)| {
                        at.saturating_duration_since(*begun)
                    })
                });
                // The streams of sidecars that are themselves revoked end when they have enforced it.
                (status.connected || took.is_some()).then(|| (status.workload.clone(), took))
            })
            .collect()
    }

    /// Waits until every connected sidecar enforces `revision`, at most until `deadline`.
    pub async fn enforced_by_all(
        &self,
        revision: u64,
        deadline: tokio::time::Instant,
    ) -> Vec<(String, Option<Duration>)> {
        loop {
            let mut moved = pin!(self.moved.notified());
            // From here on no move is missed.
            moved.as_mut().enable();
            let all = self.enforcement(revision);
            if all.iter().all(|(_, took)| took.is_some())
                || tokio::time::timeout_at(deadline, moved).await.is_err()
            {
                return all;
            }
        }
    }

    /// A stream ended.
    pub fn disconnected(&self, stream: u64, workload: &str, now: i64) {
        {
            let mut inner = self.lock();
            inner.streams = inner.streams.saturating_sub(1);
            if inner
                .trusting
                .get(workload)
                .is_some_and(|(of, _)| *of == stream)
            {
                inner.trusting.remove(workload);
            }
        }
        self.update(stream, workload, |status| {
            status.connected = false;
            status.since = now;
        });
        self.moved.notify_waiters();
    }

    /// A certificate was issued.
    pub fn certified(&self, workload: &str, not_after: i64) {
        self.lock()
            .certificates
            .insert(workload.to_owned(), not_after);
    }

    fn update(&self, stream: u64, workload: &str, change: impl FnOnce(&mut SidecarStatus)) {
        let mut inner = self.lock();
        if let Some((current, status)) = inner.sidecars.get_mut(workload)
            && *current == stream
        {
            change(status);
        }
    }

    /// Every sidecar; those that are away and no longer `registered` are forgotten.
    pub fn all(&self, registered: impl Fn(&str) -> bool) -> Vec<SidecarStatus> {
        let mut inner = self.lock();
        inner
            .sidecars
            .retain(|workload, (_, status)| status.connected || registered(workload));
        inner
            .certificates
            .retain(|workload, _| registered(workload));
        inner.enforced.retain(|workload, _| registered(workload));
        let end = |workload: &str| inner.certificates.get(workload).copied().unwrap_or(0);
        inner
            .sidecars
            .values()
            .map(|(_, status)| SidecarStatus {
                certificate_not_after: end(&status.workload),
                ..status.clone()
            })
            .collect()
    }

    /// When each sidecar was connected last, where it is `now` for those that are.
    pub fn seen(&self, now: i64) -> BTreeMap<String, i64> {
        let inner = self.lock();
        let seen = inner.sidecars.values().map(|(_, status)| {
            let at = if status.connected { now } else { status.since };
            (status.workload.clone(), at)
        });
        seen.collect()
    }

    /// Streams that are open.
    pub fn streams(&self) -> u64 {
        self.lock().streams
    }

    /// Resources that connected sidecars rejected and do not hold.
    pub fn rejected(&self) -> u64 {
        let inner = self.lock();
        let connected = inner.sidecars.values().filter(|(_, s)| s.connected);
        connected.map(|(_, s)| s.nacks.len() as u64).sum()
    }
}

fn push<T>(history: &mut VecDeque<T>, entry: T) {
    if history.len() == REMEMBERED {
        history.pop_front();
    }
    history.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(workload: &str) -> SidecarStatus {
        SidecarStatus {
            workload: workload.into(),
            connected: true,
            ..SidecarStatus::default()
        }
    }

    #[test]
    fn who_was_seen_before_a_restart_is_known_as_away_since_then() {
        let before = Tracker::default();
        before.connected(1, status("a/away"));
        before.connected(2, status("a/here"));
        before.disconnected(1, "a/away", 70);
        let seen = before.seen(100);
        assert_eq!(seen, [("a/away".into(), 70), ("a/here".into(), 100)].into());
        let after = Tracker::new(BTreeMap::new(), seen.clone());
        assert_eq!(after.seen(200), seen);
        let all = after.all(|_| true);
        assert!(all.iter().all(|s| !s.connected) && all[0].since == 70);
        assert!(after.enforcement(1).is_empty(), "nobody waits for them");
        after.connected(1, status("a/away"));
        assert_eq!(after.seen(200)["a/away"], 200);
        assert_eq!(after.all(|workload| workload == "a/away").len(), 1);
    }

    #[test]
    fn the_newest_stream_speaks_for_a_workload() {
        let tracker = Tracker::default();
        tracker.connected(1, status("ns/a"));
        tracker.connected(2, status("ns/a"));
        tracker.progressed(1, "ns/a", 9, vec![]);
        tracker.disconnected(1, "ns/a", 5);
        let all = tracker.all(|_| true);
        assert!(all[0].connected && all[0].acked_revision == 0);
        assert_eq!(tracker.streams(), 1);
        tracker.disconnected(2, "ns/a", 6);
        assert_eq!(tracker.all(|_| true)[0].since, 6);
        assert!(
            tracker.all(|_| false).is_empty(),
            "deleted workloads are forgotten"
        );
    }

    #[test]
    fn certificates_are_shown_with_their_sidecar() {
        let tracker = Tracker::new(BTreeMap::from([("ns/a".to_owned(), 7)]), BTreeMap::new());
        tracker.connected(1, status("ns/a"));
        assert_eq!(tracker.all(|_| true)[0].certificate_not_after, 7);
        tracker.certified("ns/a", 9);
        assert_eq!(tracker.all(|_| true)[0].certificate_not_after, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn enforcement_is_waited_for_and_who_does_not_enforce_is_named() {
        let tracker = Tracker::default();
        tracker.connected(1, status("ns/a"));
        tracker.connected(2, status("ns/b"));
        tracker.enforced(1, "ns/a", 4);
        tracker.begun(5, Instant::now());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(9);
        let (all, ()) = tokio::join!(tracker.enforced_by_all(5, deadline), async {
            tracker.enforced(9, "ns/a", 5);
            tokio::task::yield_now().await;
            tracker.enforced(1, "ns/a", 6);
        });
        let took: Vec<_> = all.iter().map(|(w, t)| (w.as_str(), t.is_some())).collect();
        assert_eq!(took, [("ns/a", true), ("ns/b", false)]);
        assert_eq!(tokio::time::Instant::now(), deadline);
        tracker.enforced(2, "ns/b", 5);
        // A sidecar that is itself revoked is let go when it has enforced it, and counts all the same.
        tracker.disconnected(2, "ns/b", 5);
        let all = tracker.enforced_by_all(5, deadline).await;
        assert!(all.len() == 2 && all.iter().all(|(_, t)| t.is_some()));
    }
}
