//! Between the workers, who meet tokens with unknown keys, and the control thread, who asks the control API for them.
//!
//! Workers leave names of key sets here, which never blocks; the control thread counts the answers. A request that may wait
//! for one is woken by it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc, watch};

/// Names that wait. What does not fit is asked for by the next token with an unknown key.
const QUEUE: usize = 64;

/// What is asked and answered.
#[derive(Debug)]
pub struct KeyRequests {
    sender: mpsc::Sender<Box<str>>,
    /// Only the control thread takes.
    receiver: Mutex<mpsc::Receiver<Box<str>>>,
    /// How often each key set was fetched again for us.
    answers: ArcSwap<HashMap<Box<str>, u64>>,
    /// Tells that there is another answer, after it was counted.
    news: watch::Sender<()>,
}

impl KeyRequests {
    /// Nothing is asked.
    pub fn new() -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Arc::new(Self {
            sender,
            receiver: Mutex::new(receiver),
            answers: ArcSwap::default(),
            news: watch::Sender::default(),
        })
    }

    /// The next name that is asked for.
    pub async fn next(&self) -> Box<str> {
        match self.receiver.lock().await.recv().await {
            Some(name) => name,
            // Never: the sender is a part of this.
            None => std::future::pending().await,
        }
    }

    /// Asks for key set `name` to be fetched again.
    pub fn ask(&self, name: &str) {
        let _ = self.sender.try_send(name.into());
    }

    /// How often `name` was fetched again for us.
    pub fn answers(&self, name: &str) -> u64 {
        self.answers.load().get(name).copied().unwrap_or(0)
    }

    /// Waits until `name` was fetched again more than `answers` times.
    pub async fn newer(&self, name: &str, answers: u64) {
        let mut news = self.news.subscribe();
        while self.answers(name) <= answers {
            if news.changed().await.is_err() {
                // Never: the sender is a part of this.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Counts an answer. Only the control thread does.
    pub fn answered(&self, name: &str) {
        let mut answers = HashMap::clone(&self.answers.load());
        *answers.entry(name.into()).or_default() += 1;
        self.answers.store(Arc::new(answers));
        self.news.send_replace(());
    }
}
