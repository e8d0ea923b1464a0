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

use crate::inbound::token::digest::{Digest, Digester};

/// Answers kept; further ones are asked for by each worker.
const MAX_ANSWERS: usize = 4096;

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

/// A token and its rule. The rule is kept alive with whatever is kept under this.
type Subject = (Digest, usize);

struct Answer {
    told: Told,
    /// Unix seconds.
    until: i64,
    _provider: Arc<Provider>,
}

#[derive(Default)]
struct Table {
    open: HashMap<Subject, watch::Receiver<Option<Told>>>,
    answers: HashMap<Subject, Answer>,
}

/// What the workers of a sidecar ask.
pub struct Questions {
    digester: Digester,
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
        if let Some(answer) = table.answers.get(&subject) {
            if now < answer.until {
                return Place::Answered(answer.told.clone());
            }
            table.answers.remove(&subject);
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
            let mut table = self.questions.table();
            if table.answers.len() >= MAX_ANSWERS {
                table.answers.retain(|_, answer| now < answer.until);
            }
            if table.answers.len() < MAX_ANSWERS {
                let answer = Answer {
                    told: told.clone(),
                    until,
                    _provider: Arc::clone(&self.provider),
                };
                table.answers.insert(self.subject, answer);
            }
        }
        self.sender.send_replace(Some(told));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.questions.table().open.remove(&self.subject);
    }
}
