//! A constant load over kept connections that counts what fails: for what must not be felt while it happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::http1::Connection;
use crate::wrk::Target;

/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for a load to begin, and between two looks whether it has.
const BEGINNING: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);
/// Failures that are kept in words.
const TOLD: usize = 5;

/// A load under way.
pub(crate) struct Constant {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// The first failures.
    pub(crate) failures: Vec<String>,
}

impl Constant {
    /// `rate` requests per second, spread over `connections`. Each is one of `target`'s, and has to be answered with 200.
    pub(crate) fn start(target: &Target, rate: u32, connections: u32) -> Self {
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        let between = Duration::from_secs(1) * connections / rate.max(1);
        for _ in 0..connections {
            tasks.spawn(ask(target.clone(), between, Arc::clone(&shared)));
        }
        Self { tasks, shared }
    }

    /// Waits until it goes: `requests` were answered.
    pub(crate) async fn goes(&self, requests: u64) -> anyhow::Result<()> {
        let answered = async {
            while self.answered() < requests {
                sleep(LOOK).await;
            }
        };
        let goes = timeout(BEGINNING, answered).await;
        goes.with_context(|| {
            format!(
                "the load does not go: {} requests were answered within {BEGINNING:?}",
                self.answered()
            )
        })
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Lets what is under way finish.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.shared.ended.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let failures = self.shared.failures.lock();
        Outcome {
            answered: self.shared.answered.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            failures: failures.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

async fn ask(target: Target, between: Duration, shared: Arc<Shared>) {
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", target.host);
    let mut due = interval(between);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held: Option<Connection> = None;
    while !shared.ended.load(Ordering::Relaxed) {
        due.tick().await;
        let once = async {
            let connection = match held.as_mut() {
                Some(connection) => connection,
                None => held.insert(Connection::open(&target.address).await?),
            };
            connection.ask(request.as_bytes()).await
        };
        let failure = match timeout(PATIENCE, once).await {
            Ok(Ok(answer)) if answer.status == 200 => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
                if answer.last {
                    held = None;
                }
                continue;
            }
            Ok(Ok(answer)) => format!(
                "{} {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        held = None;
        shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if failures.len() < TOLD {
            failures.push(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::http1::App;

    #[tokio::test]
    async fn what_is_answered_and_what_is_not_is_counted() {
        let app = App::start().await.unwrap();
        let target = Target {
            address: app.address.to_string(),
            host: "a".to_owned(),
        };
        let load = Constant::start(&target, 1_000, 4);
        while load.answered() < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let outcome = load.stop().await;
        assert!(outcome.answered >= 20);
        assert_eq!((outcome.failed, outcome.failures.len()), (0, 0));

        drop(app);
        let load = Constant::start(&target, 1_000, 1);
        while load.shared.failed.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let outcome = load.stop().await;
        assert_eq!((outcome.answered, outcome.failures.len()), (0, TOLD));
    }
}
