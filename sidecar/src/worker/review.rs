//! Review of what is open: a change of trust, policy or revocation ends the connections and streams it forbids.
//!
//! Whoever keeps something open for longer than a request registers a [`Subject`]. A snapshot that changes one of its
//! [`Topic`]s makes the worker ask it again; one that no longer passes is told by its [`Review`], says GOAWAY where the
//! protocol can, and is gone within [`CUT_AFTER`]. Snapshots that change nothing it depends on cost it nothing. What was
//! ended is counted and logged here, with its reason; when all of it is gone, the worker has enforced the snapshot.
//! Streams of requests and tunnels are too many to be asked by somebody else: see [`Rechecks`].

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_auth::Reason;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::metrics::Direction;
use super::progress::Progress;
use super::rechecks::Rechecks;
use crate::snapshot::{SharedSnapshot, Snapshot};
use crate::wall_clock::unix_seconds;

/// How long what was ended may still take to finish: time for GOAWAY to be heard and for short answers.
pub const CUT_AFTER: Duration = Duration::from_millis(200);
/// How late the end of what expires may come.
const EXPIRY_TICK: Duration = Duration::from_secs(1);
/// Subjects asked before other tasks get a turn.
const SLICE: usize = 256;

/// What a subject depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Trust bundles and revocations of certificates and identities.
    Trust,
    /// Authorization policies.
    Policy,
    /// Revocations of tokens.
    Token,
    /// The mutual TLS modes of ports.
    Modes,
    /// The rules by which tokens are accepted, and their keys.
    TokenRules,
}

impl Topic {
    const COUNT: usize = 5;

    /// The epochs of a snapshot that move its topics.
    fn epochs(snapshot: &Snapshot) -> [u64; Self::COUNT] {
        [
            snapshot.trust_epoch,
            snapshot.policy_epoch,
            snapshot.revocation_epoch,
            snapshot.modes_epoch,
            snapshot.tokens_epoch,
        ]
    }
}

/// Something that stays open, and may have to end.
pub trait Subject {
    /// Changes of which it is asked again.
    fn topics(&self) -> &[Topic];
    /// Why it must end under `snapshot`; `None`: it may go on.
    fn review(&self, snapshot: &Snapshot) -> Option<Reason>;
    /// When it ends by itself, Unix seconds, and why. Asked once.
    fn expiry(&self) -> Option<(i64, Reason)> {
        None
    }
    /// Which way it goes.
    fn direction(&self) -> Direction;
    /// The peer, for the log.
    fn peer(&self) -> &str;
}

struct Entry {
    subject: Box<dyn Subject>,
    /// Why it must end, and the epoch that says so.
    verdict: Cell<Option<(Reason, u64)>>,
    waker: RefCell<Option<Waker>>,
    expiry: Option<(i64, Reason)>,
}

/// What is open on one worker.
pub struct Reviews {
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
    /// Epochs of the topics at the last pass.
    seen: Cell<[u64; Topic::COUNT]>,
    /// No subject expires before this, Unix seconds.
    next_expiry: Cell<i64>,
    progress: Rc<Progress>,
    rechecks: Rechecks,
}

impl Reviews {
    /// Nothing is open. `enforced` is told the newest epoch under which nothing forbidden is open any more.
    pub fn new(enforced: watch::Sender<u64>) -> Rc<Self> {
        let progress = Progress::new(enforced);
        Rc::new(Self {
            entries: RefCell::default(),
            free: RefCell::default(),
            seen: Cell::default(),
            next_expiry: Cell::new(i64::MAX),
            rechecks: Rechecks::new(Rc::clone(&progress)),
            progress,
        })
    }

    /// Streams and tunnels, which decide for themselves whether they may go on.
    pub fn rechecks(&self) -> &Rechecks {
        &self.rechecks
    }

    /// Puts `subject` under review until the guard is dropped. It is asked at once: what was verified under an earlier
    /// snapshot may be forbidden under `snapshot`, the one in force.
    pub fn register(self: &Rc<Self>, subject: Box<dyn Subject>, snapshot: &Snapshot) -> Review {
        let expiry = subject.expiry();
        if let Some((at, _)) = expiry {
            self.next_expiry.set(self.next_expiry.get().min(at));
        }
        let entry = Rc::new(Entry {
            expiry,
            subject,
            verdict: Cell::new(None),
            waker: RefCell::new(None),
        });
        let slot = match self.free.borrow_mut().pop() {
            Some(slot) => {
                self.entries.borrow_mut()[slot] = Some(Rc::clone(&entry));
                slot
            }
            None => {
                let mut entries = self.entries.borrow_mut();
                entries.push(Some(Rc::clone(&entry)));
                entries.len() - 1
            }
        };
        self.ask(&entry, snapshot);
        Review {
            reviews: Rc::clone(self),
            entry,
            slot,
        }
    }

    /// Reviews everything open whenever `epochs` tells of a new snapshot, for as long as somebody publishes them.
    pub async fn follow(&self, shared: &SharedSnapshot, mut epochs: watch::Receiver<u64>) {
        let mut second = tokio::time::interval(EXPIRY_TICK);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = epochs.changed() => match changed {
                    Ok(()) => {
                        let snapshot = shared.load_full();
                        self.pass(&snapshot).await;
                    }
                    Err(_) => return,
                },
                // One timer for all of them: most are gone long before they expire.
                _ = second.tick() => self.expire(unix_seconds(), shared.load().epoch),
            }
        }
    }

    /// Ends what expires at `now`, Unix seconds.
    fn expire(&self, now: i64, epoch: u64) {
        if now < self.next_expiry.get() {
            return;
        }
        let mut next = i64::MAX;
        let entries: Vec<_> = self.entries.borrow().iter().flatten().cloned().collect();
        for entry in entries {
            match entry.expiry {
                Some((at, reason)) if at <= now => self.condemn(&entry, reason, epoch),
                Some((at, _)) => next = next.min(at),
                None => {}
            }
        }
        self.next_expiry.set(next);
    }

    async fn pass(&self, snapshot: &Snapshot) {
        let now = Topic::epochs(snapshot);
        let before = self.seen.replace(now);
        let policy = Topic::Policy as usize;
        if now[policy] != before[policy] {
            self.rechecks.call(now[policy], snapshot.epoch).await;
        }
        if now != before {
            let mut index = 0;
            loop {
                for _ in 0..SLICE {
                    // Not held while the subject is asked: a guard may be dropped meanwhile.
                    let Some(slot) = self.entries.borrow().get(index).cloned() else {
                        return self.progress.reviewed(snapshot.epoch);
                    };
                    index += 1;
                    if let Some(entry) = slot
                        && entry
                            .subject
                            .topics()
                            .iter()
                            .any(|topic| now[*topic as usize] != before[*topic as usize])
                    {
                        self.ask(&entry, snapshot);
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        self.progress.reviewed(snapshot.epoch);
    }

    fn ask(&self, entry: &Entry, snapshot: &Snapshot) {
        if entry.verdict.get().is_none()
            && let Some(reason) = entry.subject.review(snapshot)
        {
            self.condemn(entry, reason, snapshot.epoch);
        }
    }

    fn condemn(&self, entry: &Entry, reason: Reason, epoch: u64) {
        if entry.verdict.get().is_some() {
            return;
        }
        entry.verdict.set(Some((reason, epoch)));
        self.progress.closing(epoch);
        note_end(
            entry.subject.direction(),
            reason,
            entry.subject.peer(),
            epoch,
        );
        if let Some(waker) = entry.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Subjects under review.
    pub fn len(&self) -> usize {
        self.entries.borrow().iter().flatten().count()
    }

    /// True when nothing is under review.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Counts and logs that something open was ended, and under which snapshot.
pub fn note_end(direction: Direction, reason: Reason, peer: &str, epoch: u64) {
    let direction = direction.as_str();
    counter!("postern_connections_ended_total", "direction" => direction, "reason" => reason.code())
        .increment(1);
    tracing::info!(
        reason = reason.code(),
        peer,
        direction,
        epoch,
        "ended by review"
    );
}

/// Keeps a subject under review; dropped when what it stands for is closed.
pub struct Review {
    reviews: Rc<Reviews>,
    entry: Rc<Entry>,
    slot: usize,
}

impl Review {
    /// Why it must end; `None`: it may go on.
    pub fn verdict(&self) -> Option<Reason> {
        self.entry.verdict.get().map(|(reason, _)| reason)
    }

    /// Ready once it must end. Wakes the task that asked last.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.verdict() {
            return Poll::Ready(reason);
        }
        let mut waker = self.entry.waker.borrow_mut();
        if waker.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work` to its end, or until [`CUT_AFTER`] after it had to end: then it is dropped where it stands.
    ///
    /// # Errors
    /// Why it was cut.
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, Reason> {
        let mut work = pin!(work);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll(cx).map(Err)
        });
        match ended.await {
            Ok(done) => Ok(done),
            Err(reason) => tokio::time::timeout(CUT_AFTER, work)
                .await
                .map_err(|_| reason),
        }
    }
}

impl Drop for Review {
    fn drop(&mut self) {
        self.reviews.entries.borrow_mut()[self.slot] = None;
        self.reviews.free.borrow_mut().push(self.slot);
        if let Some((_, epoch)) = self.entry.verdict.get() {
            self.reviews.progress.closed(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_auth::TrustDomain;

    struct Switch {
        topics: &'static [Topic],
        asked: Rc<Cell<u32>>,
        passes: Rc<Cell<bool>>,
    }

    impl Subject for Switch {
        fn topics(&self) -> &[Topic] {
            self.topics
        }
        fn review(&self, _: &Snapshot) -> Option<Reason> {
            self.asked.set(self.asked.get() + 1);
            (!self.passes.get()).then_some(Reason::PeerUntrusted)
        }
        fn direction(&self) -> Direction {
            Direction::Inbound
        }
        fn peer(&self) -> &'static str {
            "spiffe://demo.test/ns/demo/sa/web"
        }
    }

    fn snapshot(epoch: u64, trust_epoch: u64, policy_epoch: u64) -> Snapshot {
        let domain = TrustDomain::new("demo.test").expect("domain");
        Snapshot {
            epoch,
            trust_epoch,
            policy_epoch,
            ..Snapshot::empty("demo/web-1", domain)
        }
    }

    struct Case {
        asked: Rc<Cell<u32>>,
        passes: Rc<Cell<bool>>,
        review: Review,
    }

    fn open(reviews: &Rc<Reviews>, topics: &'static [Topic], snapshot: &Snapshot) -> Case {
        let (asked, passes) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
        let subject = Switch {
            topics,
            asked: Rc::clone(&asked),
            passes: Rc::clone(&passes),
        };
        let review = reviews.register(Box::new(subject), snapshot);
        Case {
            asked,
            passes,
            review,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_depends_on_a_change_is_asked_again() {
        let (enforced, told) = watch::channel(0);
        let reviews = Reviews::new(enforced);
        let first = snapshot(1, 1, 1);
        reviews.pass(&first).await;
        let trust = open(&reviews, &[Topic::Trust], &first);
        let policy = open(&reviews, &[Topic::Policy], &first);
        assert_eq!((trust.asked.get(), policy.asked.get()), (1, 1));
        reviews.pass(&snapshot(2, 1, 1)).await;
        assert_eq!((trust.asked.get(), policy.asked.get()), (1, 1));
        reviews.pass(&snapshot(3, 1, 3)).await;
        assert_eq!((trust.asked.get(), policy.asked.get()), (1, 2));
        reviews.pass(&snapshot(4, 4, 3)).await;
        assert_eq!((trust.asked.get(), policy.asked.get()), (2, 2));
        assert_eq!(*told.borrow(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_is_enforced_only_when_what_it_ended_is_closed() {
        let (enforced, told) = watch::channel(0);
        let reviews = Reviews::new(enforced);
        let first = snapshot(1, 1, 1);
        reviews.pass(&first).await;
        let kept = open(&reviews, &[Topic::Trust], &first);
        let ended = open(&reviews, &[Topic::Trust], &first);
        ended.passes.set(false);
        reviews.pass(&snapshot(2, 2, 1)).await;
        assert_eq!(ended.review.verdict(), Some(Reason::PeerUntrusted));
        assert_eq!(kept.review.verdict(), None);
        assert_eq!(*told.borrow(), 1);
        reviews.pass(&snapshot(3, 2, 1)).await;
        assert_eq!(*told.borrow(), 1);
        drop(ended.review);
        assert_eq!(*told.borrow(), 3);
        assert_eq!(reviews.len(), 1);
    }

    #[tokio::test]
    async fn what_expires_is_ended_then_and_nothing_else() {
        struct Expiring(i64);
        impl Subject for Expiring {
            fn topics(&self) -> &[Topic] {
                &[Topic::Token]
            }
            fn review(&self, _: &Snapshot) -> Option<Reason> {
                None
            }
            fn expiry(&self) -> Option<(i64, Reason)> {
                Some((self.0, Reason::TokenExpired))
            }
            fn direction(&self) -> Direction {
                Direction::Inbound
            }
            fn peer(&self) -> &'static str {
                "-"
            }
        }
        let (enforced, told) = watch::channel(0);
        let reviews = Reviews::new(enforced);
        let first = snapshot(1, 1, 1);
        reviews.pass(&first).await;
        let open = |at| reviews.register(Box::new(Expiring(at)), &first);
        let (soon, late) = (open(10), open(20));
        for (now, soon_ends, late_ends) in [(9, false, false), (10, true, false), (25, true, true)]
        {
            reviews.expire(now, 1);
            assert_eq!(soon.verdict().is_some(), soon_ends, "{now}");
            assert_eq!(late.verdict().is_some(), late_ends, "{now}");
        }
        drop((soon, late));
        assert_eq!(*told.borrow(), 1);
        assert!(reviews.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_cut_when_its_time_is_over_and_not_before() {
        let reviews = Reviews::new(watch::channel(0).0);
        let first = snapshot(1, 1, 1);
        let case = open(&reviews, &[Topic::Trust], &first);
        assert_eq!(case.review.guard(async { 7 }).await, Ok(7));
        case.passes.set(false);
        let started = tokio::time::Instant::now();
        let work = case.review.guard(std::future::pending::<()>());
        let change = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            reviews.pass(&snapshot(2, 2, 1)).await;
        };
        let (cut, ()) = tokio::join!(work, change);
        assert_eq!(cut, Err(Reason::PeerUntrusted));
        assert_eq!(started.elapsed(), Duration::from_secs(60) + CUT_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_verified_before_a_change_and_registered_after_it_is_ended() {
        let reviews = Reviews::new(watch::channel(0).0);
        let asked = Rc::new(Cell::new(0));
        let subject = Switch {
            topics: &[Topic::Trust],
            asked,
            passes: Rc::new(Cell::new(false)),
        };
        let second = snapshot(2, 2, 1);
        reviews.pass(&second).await;
        let review = reviews.register(Box::new(subject), &second);
        assert_eq!(review.verdict(), Some(Reason::PeerUntrusted));
    }
}
