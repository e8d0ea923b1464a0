//! Destinations that the snapshot does not know: the worker asks the control thread and waits, for a bounded time.
//!
//! One question for each destination is under way, whoever waits for it. That there is nobody is remembered for a while; that
//! there is somebody shows in the snapshot. Nothing here is touched for a destination that the snapshot knows. Without an answer
//! nothing may be assumed: a connection that might be for the mesh must not leave in the clear.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_auth::Reason;
use metrics::Counter;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::directory::{Destination, ServicePort};
use crate::lookups::{Found, Lookup, Lookups};
use crate::worker::Worker;
use crate::worker::places::Places;

/// How long a connection or request waits for an answer: two turns to the control API and room for a busy one.
pub const PATIENCE: Duration = Duration::from_millis(800);
/// How long it is remembered that there is nobody. Shorter than the control thread keeps an unused subscription, which tells it
/// if that changes.
pub const NOBODY_FOR: Duration = Duration::from_secs(10);
/// Destinations that are remembered or asked about.
const MAX_REMEMBERED: usize = 4096;
/// Connections and requests that wait at one time; others are refused at once.
const MAX_WAITING: usize = 1024;
/// Answers that may be outdated by a change before the destination is given up.
const TURNS: usize = 3;

/// What one worker asks and remembers.
#[derive(Debug)]
pub struct Unknown {
    lookups: Arc<Lookups>,
    asked: RefCell<HashMap<Lookup, Asked>>,
    waiting: Places,
    outcomes: [Counter; 3],
}

#[derive(Debug)]
struct Asked {
    answer: watch::Receiver<Option<Found>>,
    at: Instant,
}

impl Asked {
    /// Nobody is there, as was said not long ago.
    fn is_nobody(&self, now: Instant) -> bool {
        *self.answer.borrow() == Some(Found::Nobody)
            && now.saturating_duration_since(self.at) < NOBODY_FOR
    }

    /// The answer may still come. After a while it is asked again all the same, so that the control thread knows that somebody
    /// wants it still.
    fn is_open(&self, now: Instant) -> bool {
        self.answer.borrow().is_none()
            && self.answer.has_changed().is_ok()
            && now.saturating_duration_since(self.at) < NOBODY_FOR
    }
}

impl Unknown {
    /// Asks through `lookups`. The thread's recorder of metrics must be installed.
    pub fn new(lookups: Arc<Lookups>) -> Self {
        let outcome =
            |outcome| metrics::counter!("postern_destination_lookups_total", "outcome" => outcome);
        Self {
            lookups,
            asked: RefCell::default(),
            waiting: Places::new(MAX_WAITING),
            outcomes: ["found", "nobody", "unanswered"].map(outcome),
        }
    }

    /// Who `lookup` stands for; `None`: nobody can say.
    pub async fn ask(&self, lookup: &Lookup) -> Option<Found> {
        let now = Instant::now();
        if self.is_nobody(lookup, now) {
            return Some(Found::Nobody);
        }
        let found = self.wait(lookup, now).await;
        let outcome = match found {
            Some(Found::Somebody) => 0,
            Some(Found::Nobody) => 1,
            None => 2,
        };
        self.outcomes[outcome].increment(1);
        found
    }

    fn is_nobody(&self, lookup: &Lookup, now: Instant) -> bool {
        let asked = self.asked.borrow();
        asked.get(lookup).is_some_and(|asked| asked.is_nobody(now))
    }

    async fn wait(&self, lookup: &Lookup, now: Instant) -> Option<Found> {
        let _place = self.waiting.take()?;
        let mut answer = self.question(lookup, now)?;
        let answered = answer.wait_for(Option::is_some);
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.ok()?.ok().and_then(|found| *found)
    }

    /// The question that is under way, or another one.
    fn question(&self, lookup: &Lookup, now: Instant) -> Option<watch::Receiver<Option<Found>>> {
        let mut all = self.asked.borrow_mut();
        if let Some(asked) = all.get(lookup).filter(|asked| asked.is_open(now)) {
            return Some(asked.answer.clone());
        }
        if all.len() >= MAX_REMEMBERED {
            all.retain(|_, asked| asked.is_open(now) || asked.is_nobody(now));
            if all.len() >= MAX_REMEMBERED {
                return None;
            }
        }
        let answer = self.lookups.ask(lookup.clone())?;
        let asked = Asked {
            answer: answer.clone(),
            at: now,
        };
        all.insert(lookup.clone(), asked);
        Some(answer)
    }
}

/// Where traffic to `address` goes, asked for if the snapshot does not know.
///
/// # Errors
/// [`Reason::DestinationUnresolved`]: nobody can say.
pub async fn by_address(worker: &Worker, address: SocketAddr) -> Result<Destination, Reason> {
    for _ in 0..TURNS {
        match worker.snapshot().directory.by_address(address) {
            Destination::Unresolved => {}
            known => return Ok(known),
        }
        let lookup = Lookup::address(address.ip());
        // Boxed: connections to what is known do not carry the room for it.
        match Box::pin(worker.unknown.ask(&lookup)).await {
            Some(Found::Somebody) => {}
            Some(Found::Nobody) => return Ok(Destination::Outside),
            None => break,
        }
    }
    Err(Reason::DestinationUnresolved)
}

/// The port `port` of the service that requests to `host` (lower-case, no port) are for, asked for if the snapshot does not
/// know. Without `port`: 80, or the first.
///
/// # Errors
/// [`Reason::UnknownDestination`]: no such service or port. [`Reason::DestinationUnresolved`]: nobody can say.
pub async fn by_host(
    worker: &Worker,
    host: &str,
    port: Option<u16>,
) -> Result<Arc<ServicePort>, Reason> {
    for _ in 0..TURNS {
        let snapshot = worker.snapshot();
        if let Some(service) = snapshot.directory.by_host(host) {
            let port = match port {
                Some(port) => service.port(port),
                None => service.port(80).or(service.ports.first()),
            };
            return port.cloned().ok_or(Reason::UnknownDestination);
        }
        if snapshot.directory.is_everything() {
            return Err(Reason::UnknownDestination);
        }
        drop(snapshot);
        let lookup = Lookup::host(host).ok_or(Reason::UnknownDestination)?;
        match Box::pin(worker.unknown.ask(&lookup)).await {
            Some(Found::Somebody) => {}
            Some(Found::Nobody) => return Err(Reason::UnknownDestination),
            None => break,
        }
    }
    Err(Reason::DestinationUnresolved)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn host(host: &str) -> Lookup {
        Lookup::host(host).expect("a host")
    }

    fn next(lookups: &Lookups) -> Option<crate::lookups::Question> {
        tokio::task::unconstrained(lookups.next()).now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn many_ask_once_and_nobody_is_remembered_for_a_while() {
        let (a, lookups) = (host("a"), Lookups::new());
        let unknown = Unknown::new(Arc::clone(&lookups));
        let (first, second, ()) = tokio::join!(unknown.ask(&a), unknown.ask(&a), async {
            let question = lookups.next().await;
            assert_eq!(question.lookup, host("a"));
            question.answer.send_replace(Some(Found::Nobody));
        });
        assert_eq!((first, second), (Some(Found::Nobody), Some(Found::Nobody)));
        assert_eq!(unknown.ask(&host("a")).await, Some(Found::Nobody));
        assert!(next(&lookups).is_none(), "asked once");
        tokio::time::advance(NOBODY_FOR).await;
        assert_eq!(unknown.ask(&host("a")).now_or_never(), None);
        assert!(next(&lookups).is_some(), "asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_nothing_is_assumed_and_who_comes_later_gets_it() {
        let (a, lookups) = (host("a"), Lookups::new());
        let unknown = Unknown::new(Arc::clone(&lookups));
        let start = Instant::now();
        assert_eq!(unknown.ask(&host("a")).await, None);
        assert_eq!(start.elapsed(), PATIENCE);
        let question = next(&lookups).expect("asked");
        let (late, ()) = tokio::join!(unknown.ask(&a), async {
            question.answer.send_replace(Some(Found::Somebody));
        });
        assert_eq!(late, Some(Found::Somebody));
        assert!(next(&lookups).is_none(), "the question was under way");
        assert_eq!(unknown.ask(&host("b")).await, None);
        let question = next(&lookups).expect("asked");
        tokio::time::advance(NOBODY_FOR).await;
        assert_eq!(unknown.ask(&host("b")).now_or_never(), None);
        assert!(
            next(&lookups).is_some(),
            "asked again, for it is wanted still"
        );
        drop(question);
        // Somebody was there, and the snapshot does not know: asked anew. Dropped: it cannot be asked for.
        let (refused, ()) = tokio::join!(unknown.ask(&a), async {
            drop(lookups.next().await);
        });
        assert_eq!(refused, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_is_bounded() {
        let lookups = Lookups::new();
        let unknown = Unknown::new(Arc::clone(&lookups));
        let now = Instant::now();
        for i in 0..MAX_REMEMBERED {
            assert!(unknown.question(&host(&format!("h{i}")), now).is_some());
            let question = next(&lookups).expect("asked");
            question.answer.send_replace(Some(Found::Nobody));
        }
        assert!(unknown.question(&host("one-more"), now).is_none());
        assert!(
            unknown
                .question(&host("one-more"), now + NOBODY_FOR)
                .is_some()
        );
        let _all: Vec<_> = std::iter::from_fn(|| unknown.waiting.take()).collect();
        assert_eq!(unknown.ask(&host("another")).now_or_never(), Some(None));
    }
}
