//! Answers what workers want to know about destinations, and gives up those that are not used any more.
//!
//! An answer is given only when the snapshot that knows it is in force. What is not answered yet is subscribed to, now or by the
//! next stream; who waits for it is told when the control API has said it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::stream::Discovery;
use super::xds::{Client, Wanted};
use crate::lookups::{Found, Lookup, Lookups, Question};

/// Between two looks at what is not used any more.
const LOOK: Duration = Duration::from_secs(60);

type Answer = watch::Sender<Option<Found>>;

/// Questions without an answer.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<Lookup, Vec<Answer>>>);

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Lookup, Vec<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, question: Question) {
        let mut waiting = self.lock();
        let answers = waiting.entry(question.lookup).or_default();
        answers.push(question.answer);
    }

    fn answer(&self, lookup: &Lookup, found: Found) {
        for answer in self.lock().remove(lookup).into_iter().flatten() {
            answer.send_replace(Some(found));
        }
    }

    /// The snapshot knows everything: they may look again.
    fn answer_all(&self) {
        for answer in std::mem::take(&mut *self.lock()).into_values().flatten() {
            answer.send_replace(Some(Found::Somebody));
        }
    }

    /// Forgets questions whose answer nobody takes any more.
    fn sweep(&self) {
        self.lock().retain(|_, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty()
        });
    }
}

impl Discovery {
    /// Takes questions for ever.
    pub(super) async fn answer_for_ever(&self, lookups: &Lookups) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                question = lookups.next() => self.take(question),
                _ = look.tick() => self.forget_unused(),
            }
        }
    }

    fn take(&self, question: Question) {
        let (now, open) = (self.clock.now(), self.is_open());
        let build = |resources: &_| self.build(resources, open);
        let (wanted, snapshot) = self.client().want(&question.lookup, now, build);
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        match wanted {
            Wanted::Found(found) => drop(question.answer.send_replace(Some(found))),
            Wanted::Asked => {
                self.waiters.add(question);
                self.demanded.notify_one();
            }
            // Unanswered: it is refused.
            Wanted::Full => tracing::warn!(
                destination = %question.lookup,
                "more destinations are in use than can be subscribed to by name; see --subscribe all"
            ),
        }
    }

    /// Tells who waits for what `client` has settled. The snapshot that knows it must be in force.
    pub(super) fn answer_settled(&self, client: &mut Client) {
        for (lookup, found) in client.take_settled() {
            self.waiters.answer(&lookup, found);
        }
        if client.holds_everything() {
            self.waiters.answer_all();
        }
        if let Some(counts) = client.destinations() {
            for (state, count) in ["known", "nobody", "asked"].into_iter().zip(counts) {
                #[allow(clippy::cast_precision_loss)]
                metrics::gauge!("postern_destinations", "state" => state).set(count as f64);
            }
            // Services that came bring questions about their endpoints.
            self.demanded.notify_one();
        }
    }

    fn forget_unused(&self) {
        self.waiters.sweep();
        let used = self.publisher.take_used();
        let open = self.is_open();
        let mut client = self.client();
        let build = |resources: &_| self.build(resources, open);
        let snapshot = client.forget(self.clock.now(), &used, build);
        // That there is nobody somewhere is not worth a write of its own.
        if client.take_unsaved() || snapshot.is_some() {
            self.changed.notify_one();
        }
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        self.answer_settled(&mut client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_and_who_left_is_forgotten() {
        let waiters = Waiters::default();
        let ask = |host: &str| {
            let (answer, answered) = watch::channel(None);
            let lookup = Lookup::host(host).expect("a host");
            waiters.add(Question { lookup, answer });
            answered
        };
        let (first, second, other) = (ask("a"), ask("a"), ask("b"));
        waiters.answer(&Lookup::host("a").expect("a host"), Found::Nobody);
        assert_eq!(*first.borrow(), Some(Found::Nobody));
        assert_eq!(*second.borrow(), Some(Found::Nobody));
        assert_eq!(*other.borrow(), None);
        waiters.sweep();
        assert_eq!(waiters.lock().len(), 1);
        drop(other);
        waiters.sweep();
        assert!(waiters.lock().is_empty());
        let last = ask("c");
        waiters.answer_all();
        assert_eq!(*last.borrow(), Some(Found::Somebody));
    }
}
