//! Between the workers, who meet tokens with unknown keys, and the control thread, who asks the control API for them.
//!
//! Workers leave names of key sets here, which never blocks; the control thread numbers the questions. A request that may wait
//! for one is woken by it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::mailbox::Mailbox;

/// Names that wait. What does not fit is asked for by the next token with an unknown key.
const QUEUE: usize = 64;

/// What is asked and answered.
#[derive(Debug)]
pub struct KeyRequests {
    names: Mailbox<Box<str>>,
    /// Questions about each key set.
    questions: ArcSwap<HashMap<Box<str>, Questions>>,
    /// Tells that there is news, after it was counted.
    news: watch::Sender<()>,
}

/// Questions about one key set, numbered from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Questions {
    /// The last that was begun.
    pub begun: u64,
    /// The last that was answered: the set was fetched again.
    pub answered: u64,
    /// How often there was news: an answer, or other keys without one.
    pub news: u64,
}

impl KeyRequests {
    /// Nothing is asked.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            names: Mailbox::new(QUEUE),
            questions: ArcSwap::default(),
            news: watch::Sender::default(),
        })
    }

    /// The next name that is asked for.
    pub async fn next(&self) -> Box<str> {
        self.names.next().await
    }

    /// Asks for key set `name` to be fetched again.
    pub fn ask(&self, name: &str) {
        let _ = self.names.leave(name.into());
    }

    /// What was asked and answered about `name`.
    pub fn questions(&self, name: &str) -> Questions {
        self.questions.load().get(name).copied().unwrap_or_default()
    }

    /// Waits until there was news of `name` more than `seen` times.
    pub async fn newer(&self, name: &str, seen: u64) {
        let mut news = self.news.subscribe();
        while self.questions(name).news <= seen {
            if news.changed().await.is_err() {
                // Never: the sender is a part of this.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Begins a question and returns its number: keys that are met from now on are not what it asks about. Only the control thread
    /// does.
    pub fn begin(&self, name: &str) -> u64 {
        self.change(name, |questions| questions.begun += 1).begun
    }

    /// Question `number` was answered. Only the control thread says so.
    pub fn answered(&self, name: &str, number: u64) {
        self.change(name, |questions| {
            questions.answered = number;
            questions.news += 1;
        });
        self.news.send_replace(());
    }

    /// Other keys of `name` are in force, which nothing that was asked here has brought. Only the control thread says so.
    pub fn arrived(&self, name: &str) {
        self.change(name, |questions| questions.news += 1);
        self.news.send_replace(());
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Questions)) -> Questions {
        let mut all = HashMap::clone(&self.questions.load());
        let questions = all.entry(name.into()).or_default();
        change(questions);
        let changed = *questions;
        self.questions.store(Arc::new(all));
        changed
    }
}
