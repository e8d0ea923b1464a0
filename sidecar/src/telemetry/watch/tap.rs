//! Live view of one worker: what ends there, for whoever asked to see it.
//!
//! Nobody asks, most of the time: then a request costs a relaxed load. While somebody does, the worker writes entries for
//! the control thread, by one try of a lock and never more than the tap's rate: what does not fit is counted, not kept. A
//! tap ends by itself unless it is asked for again, so that a control API that is gone leaves none behind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use mesh_proto::mesh::{LatencyDirection, ReportVerdict, StartTap, TapBatch, TapEntry, TapFilter};

use crate::ledger::cut;
use crate::telemetry::observe::Entry;
use crate::worker::metrics::Direction;

/// How long a tap lasts unless it is asked for again.
const LEASE: Duration = Duration::from_secs(6);
/// Taps at the same time.
const MAX_TAPS: usize = 8;
/// Entries per second if nothing is said, and at most.
const DEFAULT_RATE: u32 = 100;
const MAX_RATE: u32 = 1_000;

/// A tap as one worker has it.
#[derive(Debug, Clone)]
pub struct Wanted {
    number: u64,
    filter: TapFilter,
    /// Entries between two readings; less than one is one in several.
    per_period: f64,
}

impl Wanted {
    /// What `start` asks of one of so many workers, each read once in `period`.
    pub fn new(start: StartTap, workers: usize, period: Duration) -> Self {
        let rate = match start.per_second {
            0 => DEFAULT_RATE,
            rate => rate.min(MAX_RATE),
        };
        #[allow(clippy::cast_precision_loss)] // Workers are few.
        let workers = workers.max(1) as f64;
        Self {
            number: start.tap,
            filter: start.filter.unwrap_or_default(),
            per_period: f64::from(rate) * period.as_secs_f64() / workers,
        }
    }

    /// Entries that may come at once.
    fn burst(&self) -> f64 {
        self.per_period.max(1.0)
    }
}

/// A tap, and what it saw.
#[derive(Debug)]
struct Open {
    wanted: Wanted,
    until: Instant,
    /// Entries that may still come before the next reading.
    room: f64,
    entries: Vec<TapEntry>,
    dropped: u64,
}

/// The taps of one worker.
#[derive(Debug, Default)]
pub struct Tap {
    is_on: AtomicBool,
    open: Mutex<Vec<Open>>,
    /// Entries that came while the control thread was reading.
    missed: AtomicU64,
}

impl Tap {
    /// Whether somebody wants to see what ends.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a tap, or goes on with it.
    pub fn start(&self, wanted: Wanted, now: Instant) {
        let mut open = self.lock();
        let until = now + LEASE;
        let held = open.iter().position(|o| o.wanted.number == wanted.number);
        match held {
            Some(index) => (open[index].wanted, open[index].until) = (wanted, until),
            None if open.len() < MAX_TAPS => open.push(Open {
                room: wanted.burst(),
                wanted,
                until,
                entries: Vec::new(),
                dropped: 0,
            }),
            None => {}
        }
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Gives what every tap saw to `send`, unless that has no place; ends those whose time is over.
    pub fn take(&self, now: Instant, mut send: impl FnMut(TapBatch) -> Result<(), ()>) {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        let mut open = self.lock();
        for tap in &mut *open {
            tap.dropped += missed;
            tap.room = (tap.room + tap.wanted.per_period).min(tap.wanted.burst());
            if tap.entries.is_empty() && tap.dropped == 0 {
                continue;
            }
            let batch = TapBatch {
                tap: tap.wanted.number,
                entries: std::mem::take(&mut tap.entries),
                dropped: tap.dropped,
            };
            let lost = u64::try_from(batch.entries.len()).unwrap_or(u64::MAX);
            match send(batch) {
                Ok(()) => tap.dropped = 0,
                Err(()) => tap.dropped += lost,
            }
        }
        open.retain(|tap| now < tap.until);
        self.is_on.store(!open.is_empty(), Ordering::Relaxed);
    }

    /// Shows what ended to every tap that wants it.
    pub fn show(&self, ended: &Entry<'_>) {
        let mut open = match self.open.try_lock() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        let mut made: Option<TapEntry> = None;
        for tap in open.iter_mut().filter(|t| wants(&t.wanted.filter, ended)) {
            if tap.room < 1.0 {
                tap.dropped += 1;
                continue;
            }
            tap.room -= 1.0;
            tap.entries
                .push(made.get_or_insert_with(|| entry(ended)).clone());
        }
    }
}

/// Whether a filter lets it through.
fn wants(filter: &TapFilter, ended: &Entry<'_>) -> bool {
    let head = ended.ended.http().map(|http| http.head);
    let method = || head.is_some_and(|h| h.method.as_str() == filter.method);
    let path = || head.is_some_and(|h| h.uri.path().starts_with(&filter.path_prefix));
    let reason = || {
        let of_verdict = ended.verdict.map(|v| v.reason);
        of_verdict.or(ended.ended.error) == Some(filter.reason.as_str())
    };
    let peer = || ended.ended.peer_id.as_deref() == Some(filter.peer.as_str());
    (filter.method.is_empty() || method())
        && (filter.path_prefix.is_empty() || path())
        && (filter.verdict() == ReportVerdict::Unspecified || filter.verdict() == verdict(ended))
        && (filter.reason.is_empty() || reason())
        && (filter.peer.is_empty() || peer())
        && (filter.direction.is_none() || filter.direction() == direction(ended.direction))
}

fn verdict(ended: &Entry<'_>) -> ReportVerdict {
    match ended.verdict {
        Some(verdict) if verdict.allowed => ReportVerdict::Allow,
        Some(_) => ReportVerdict::Deny,
        None => ReportVerdict::Unspecified,
    }
}

fn direction(direction: Direction) -> LatencyDirection {
    match direction {
        Direction::Inbound => LatencyDirection::Inbound,
        Direction::Outbound => LatencyDirection::Outbound,
    }
}

/// What is shown: no header value, no query, no claim.
fn entry(shown: &Entry<'_>) -> TapEntry {
    let ended = shown.ended;
    let text = |text: &str| String::from(cut(text));
    let (mut method, mut host, mut path) = Default::default();
    if let Some(http) = ended.http() {
        method = text(http.head.method.as_str());
        host = http.head.uri.host().map(text).unwrap_or_default();
        path = text(http.head.uri.path());
    }
    let http = ended.http();
    let phases = shown.timeline.phases();
    TapEntry {
        at_unix_ms: shown
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
        direction: direction(shown.direction).into(),
        method,
        host,
        path,
        status: http
            .and_then(|h| h.status)
            .map_or(0, |status| status.as_u16().into()),
        grpc_status: http.and_then(|h| h.grpc_status),
        verdict: verdict(shown).into(),
        reason: shown
            .verdict
            .map(|v| v.reason.to_owned())
            .unwrap_or_default(),
        policy: shown
            .verdict
            .and_then(|v| v.policy.as_deref().map(text))
            .unwrap_or_default(),
        decision_id: shown
            .verdict
            .filter(|v| !v.allowed)
            .map(|v| format!("{:016x}", v.id))
            .unwrap_or_default(),
        peer: ended.peer_id.as_deref().map(text).unwrap_or_default(),
        peer_address: ended
            .peer_address
            .map(|a| a.to_string())
            .unwrap_or_default(),
        port: ended.port.into(),
        duration_nanos: nanos(shown.timeline.total()),
        phases_nanos: phases
            .map(|(phase, _, took)| (phase.as_str().to_owned(), nanos(took)))
            .collect::<BTreeMap<_, _>>(),
        sent: ended.sent,
        received: ended.received,
        error: ended.error.unwrap_or_default().to_owned(),
        trace_id: shown
            .started
            .map(|started| started.trace.to_string())
            .unwrap_or_default(),
    }
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;
    use mesh_trace::{Timeline, Verdict};

    use super::*;
    use crate::telemetry::observe::{Ended, EndedHttp, Line};

    fn show(tap: &Tap, path: &str, denied: bool) {
        let uri = format!("http://orders{path}");
        let request = Request::get(uri).header("authorization", "s3cret").body(());
        let (head, ()) = request.expect("a request").into_parts();
        let verdict = Verdict {
            allowed: !denied,
            reason: if denied {
                "denied_by_policy"
            } else {
                "allowed_by_policy"
            },
            policy: Some("shop/p".into()),
            id: 7,
            token_cached: None,
            decision_cached: None,
        };
        let ended = Ended {
            line: Line::Http(EndedHttp {
                head: &head,
                status: None,
                grpc_status: None,
            }),
            peer_address: None,
            port: 80,
            peer_id: Some(Arc::from("spiffe://td/ns/shop/sa/web")),
            own_id: None,
            sent: 0,
            received: 0,
            error: None,
        };
        tap.show(&Entry {
            at: SystemTime::UNIX_EPOCH,
            direction: Direction::Inbound,
            timeline: &Timeline::start(),
            started: None,
            verdict: Some(&verdict),
            ended: &ended,
        });
    }

    fn start(tap: &Tap, number: u64, filter: TapFilter, now: Instant) {
        let start = StartTap {
            tap: number,
            filter: Some(filter),
            per_second: 8,
        };
        tap.start(Wanted::new(start, 1, Duration::from_millis(250)), now);
    }

    fn take(tap: &Tap, now: Instant) -> Vec<TapBatch> {
        let mut batches = Vec::new();
        tap.take(now, |batch| {
            batches.push(batch);
            Ok(())
        });
        batches
    }

    #[test]
    fn a_tap_sees_what_it_asked_for_at_its_rate_and_no_secret() {
        let (tap, now) = (Tap::default(), Instant::now());
        assert!(!tap.is_on());
        start(&tap, 1, TapFilter::default(), now);
        let denied = TapFilter {
            verdict: ReportVerdict::Deny.into(),
            path_prefix: "/admin".into(),
            peer: "spiffe://td/ns/shop/sa/web".into(),
            ..TapFilter::default()
        };
        start(&tap, 2, denied, now);
        show(&tap, "/admin/x?token=s3cret", true);
        show(&tap, "/admin/y", false);
        show(&tap, "/orders", true);
        let batches = take(&tap, now);
        let [all, denied] = &batches[..] else {
            panic!("{batches:?}");
        };
        assert_eq!((all.entries.len(), all.dropped), (2, 1));
        assert_eq!((denied.entries.len(), denied.dropped), (1, 0));
        let entry = &denied.entries[0];
        assert_eq!((&*entry.path, &*entry.host), ("/admin/x", "orders"));
        assert_eq!(entry.decision_id, "0000000000000007");
        assert!(!format!("{batches:?}").contains("s3cret"));
        assert!(take(&tap, now).is_empty(), "taken once");
    }

    #[test]
    fn a_tap_that_is_not_asked_for_again_ends() {
        let (tap, now) = (Tap::default(), Instant::now());
        start(&tap, 1, TapFilter::default(), now);
        take(&tap, now + LEASE / 2);
        assert!(tap.is_on());
        start(&tap, 1, TapFilter::default(), now + LEASE / 2);
        take(&tap, now + LEASE);
        assert!(tap.is_on(), "it was asked for again");
        take(&tap, now + LEASE * 2);
        assert!(!tap.is_on());
    }

    #[test]
    fn what_nobody_took_is_counted() {
        let (tap, now) = (Tap::default(), Instant::now());
        start(&tap, 1, TapFilter::default(), now);
        show(&tap, "/a", false);
        tap.take(now, |_| Err(()));
        let reading = tap.lock();
        show(&tap, "/b", false);
        drop(reading);
        show(&tap, "/c", false);
        let batches = take(&tap, now);
        assert_eq!((batches[0].entries.len(), batches[0].dropped), (1, 2));
    }

    #[test]
    fn taps_are_few() {
        let (tap, now) = (Tap::default(), Instant::now());
        for number in 0..100 {
            start(&tap, number, TapFilter::default(), now);
        }
        assert_eq!(tap.lock().len(), MAX_TAPS);
    }
}
