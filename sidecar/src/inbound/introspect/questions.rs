//! Questions about opaque tokens that one of the workers is asking, and what was answered lately.
//!
//! Shared by the workers, and touched only for a token that a worker does not know. Whoever comes first asks; everybody
//! else, on whichever worker, waits for the same answer. A good answer is told to the workers that come later for as long
//! as it may be believed, counted from when it was given. Refusals and failures are told to those who wait and not kept:
//! made-up tokens must not take the room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_auth::claims::Object;
use mesh_auth::token::Provider;
use tokio::sync::watch;

use super::health::Endpoints;
use crate::inbound::token::digest::{Digest, Digester};

/// Answers kept; further ones are asked for by each worker.
const MAX_ANSWERS: usize = 4096;
/// Bytes that they may hold together, about.
const MAX_BYTES: usize = 16 << 20;
/// The largest that is kept, bytes.
const MAX_WEIGHT: usize = MAX_BYTES / 64;
/// How often those that may not be believed any more are thrown out, seconds.
const PURGE_EVERY: i64 = 10;

/// What an endpoint said, or that it did not.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// The token is active: the whole answer, and when it came, Unix seconds.
    Active(Arc<Object>, i64),
    /// It is not.
    Inactive,
    /// There was no answer.
    Failed,
}

impl Told {
    /// About how many bytes it takes with its place in the table.
    fn weight(&self) -> usize {
        let claims = match self {
            Self::Active(claims, _) => claims.weight(),
            Self::Inactive | Self::Failed => 0,
        };
        size_of::<(Subject, Answer)>() + claims
    }
}

/// A token and its rule. The rule is kept alive with whatever is kept under this.
type Subject = (Digest, usize);

struct Answer {
    told: Told,
    /// Unix seconds.
    until: i64,
    weight: usize,
    _provider: Arc<Provider>,
}

/// What was answered, bounded in number and bytes.
#[derive(Default)]
struct Answers {
    held: HashMap<Subject, Answer>,
    bytes: usize,
    /// When to purge again, Unix seconds.
    purge_at: i64,
}

impl Answers {
    /// What may be believed at `now`, Unix seconds.
    fn get(&mut self, subject: &Subject, now: i64) -> Option<Told> {
        if now >= self.purge_at {
            self.purge(now);
        }
        let answer = self.held.get(subject)?;
        if now < answer.until {
            return Some(answer.told.clone());
        }
        self.remove(subject);
        None
    }

    /// Keeps an answer until `until`, if there is room for it.
    fn put(&mut self, subject: Subject, told: Told, until: i64, provider: Arc<Provider>, now: i64) {
        let weight = told.weight();
        self.remove(&subject);
        if weight > MAX_WEIGHT {
            return;
        }
        if now >= self.purge_at || !self.has_room(weight) {
            self.purge(now);
        }
        if self.has_room(weight) {
            self.bytes += weight;
            let answer = Answer {
                told,
                until,
                weight,
                _provider: provider,
            };
            self.held.insert(subject, answer);
        }
    }

    fn has_room(&self, weight: usize) -> bool {
        self.held.len() < MAX_ANSWERS && self.bytes + weight <= MAX_BYTES
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some(answer) = self.held.remove(subject) {
            self.bytes -= answer.weight;
        }
    }

    fn purge(&mut self, now: i64) {
        self.held.retain(|_, answer| now < answer.until);
        self.bytes = self.held.values().map(|answer| answer.weight).sum();
        self.purge_at = now.saturating_add(PURGE_EVERY);
    }
}

#[derive(Default)]
struct Table {
    open: HashMap<Subject, watch::Receiver<Option<Told>>>,
    answers: Answers,
}

/// What the workers of a sidecar ask.
pub struct Questions {
    digester: Digester,
    /// Whom they ask.
    pub(super) endpoints: Endpoints,
    table: Mutex<Table>,
}

/// What somebody who wants to know has to do.
pub(super) enum Place {
    /// Nothing: this was answered.
    Answered(Told),
    /// Wait.
    Follow(Follower),
    /// Ask.
    Lead(Leader),
}

/// Waits for whoever asks.
pub(super) struct Follower(watch::Receiver<Option<Told>>);

/// Asks for everybody. Dropped before it told, one of the others asks.
pub(super) struct Leader {
    questions: Arc<Questions>,
    subject: Subject,
    provider: Arc<Provider>,
    sender: watch::Sender<Option<Told>>,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Questions").finish_non_exhaustive()
    }
}

impl Questions {
    /// Nothing was asked. `secret` keys the digests of tokens.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            digester: Digester::new(secret),
            endpoints: Endpoints::default(),
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who want to know what `provider` says of a token at `now`, Unix seconds.
    pub(super) fn join(
        self: &Arc<Self>,
        provider: &Arc<Provider>,
        token: &[u8],
        now: i64,
    ) -> Place {
        let subject = (self.digester.digest(token), Arc::as_ptr(provider).addr());
        let mut table = self.table();
        if let Some(told) = table.answers.get(&subject, now) {
            return Place::Answered(told);
        }
        if let Some(open) = table.open.get(&subject) {
            return Place::Follow(Follower(open.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        table.open.insert(subject, receiver);
        Place::Lead(Leader {
            questions: Arc::clone(self),
            subject,
            provider: Arc::clone(provider),
            sender,
        })
    }
}

impl Follower {
    /// The answer; `None` if whoever asked has given up. It comes within the time that the rule gives the endpoint.
    pub(super) async fn answer(mut self) -> Option<Told> {
        let told = self.0.wait_for(Option::is_some).await.ok()?;
        told.clone()
    }
}

impl Leader {
    /// Tells everybody who waits, and until `until`, Unix seconds, those who come, if it is given.
    pub(super) fn tell(self, told: Told, until: Option<i64>, now: i64) {
        if let Some(until) = until {
            let provider = Arc::clone(&self.provider);
            let answers = &mut self.questions.table().answers;
            answers.put(self.subject, told.clone(), until, provider, now);
        }
        self.sender.send_replace(Some(told));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.questions.table().open.remove(&self.subject);
    }
}

#[cfg(test)]
mod tests {
    use mesh_auth::claims;

    use super::super::testing;
    use super::*;

    const NOW: i64 = 1000;

    fn provider() -> Arc<Provider> {
        testing::provider(None)
    }

    /// An answer with a claim of `bytes`.
    fn told(bytes: usize) -> Told {
        let text = format!(r#"{{"active":true,"note":"{}"}}"#, "x".repeat(bytes));
        Told::Active(Arc::new(claims::parse(text.as_bytes()).expect("JSON")), NOW)
    }

    fn tell(
        questions: &Arc<Questions>,
        provider: &Arc<Provider>,
        token: u32,
        told: Told,
        now: i64,
    ) {
        match questions.join(provider, &token.to_le_bytes(), now) {
            Place::Lead(leader) => leader.tell(told, Some(now + 30), now),
            _ => panic!("nobody else asks"),
        }
    }

    fn held(questions: &Questions) -> (usize, usize) {
        let answers = &questions.table().answers;
        let sum: usize = answers.held.values().map(|answer| answer.weight).sum();
        assert_eq!(sum, answers.bytes);
        (answers.held.len(), sum)
    }

    #[test]
    fn answers_are_bounded_in_number_and_in_bytes() {
        let provider = provider();
        for (bytes, kept) in [(10, MAX_ANSWERS), (60_000, MAX_BYTES / 60_300)] {
            let questions = Arc::new(Questions::new([1; 32]));
            let told = told(bytes);
            for token in 0..MAX_ANSWERS as u32 + 10 {
                tell(&questions, &provider, token, told.clone(), NOW);
            }
            let (number, bytes) = held(&questions);
            assert!((kept - 2..=kept + 2).contains(&number), "{number}");
            assert!(bytes <= MAX_BYTES, "{bytes}");
            // What is over makes room.
            tell(&questions, &provider, u32::MAX, told, NOW + 30);
            assert_eq!(held(&questions).0, 1);
        }
        let questions = Arc::new(Questions::new([1; 32]));
        tell(&questions, &provider, 1, told(MAX_WEIGHT), NOW);
        assert_eq!(held(&questions), (0, 0), "one takes too much of the room");
    }

    #[test]
    fn what_is_over_goes_now_and_then_though_there_is_room_and_nobody_asks_for_it() {
        let provider = provider();
        let questions = Arc::new(Questions::new([1; 32]));
        for token in 0..10 {
            tell(&questions, &provider, token, told(10), NOW);
        }
        let ask = |token: u32, now| {
            let place = questions.join(&provider, &token.to_le_bytes(), now);
            matches!(place, Place::Answered(_))
        };
        assert!(ask(3, NOW + 29));
        assert_eq!(held(&questions).0, 10);
        assert!(!ask(99, NOW + 29 + PURGE_EVERY));
        assert_eq!(held(&questions), (0, 0));
    }
}
