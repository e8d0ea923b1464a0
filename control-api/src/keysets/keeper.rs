//! The owner of what is known of each issuer, and of the tasks that ask them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{Intervals, discovery, jwks};
use crate::clock::Clock;
use crate::fetch::{Fetch, Fetcher, Freshness, Url};
use crate::registry::{KeySource, Registry};
use crate::store::keysets::KeySetRecord;
use crate::store::{Store, keysets as stored};

/// How long a caller of [`Keeper::refetch`] waits for the fetch that serves it.
const REFETCH_WAIT: Duration = Duration::from_secs(15);
/// An address found by discovery is asked for again after this.
const REDISCOVER: Duration = Duration::from_secs(3_600);

/// What is known of one issuer's keys, for people and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The issuer.
    pub issuer: String,
    /// Where its keys are; empty: found by discovery.
    pub jwks_uri: String,
    /// When the issuer confirmed the keys in force last, Unix seconds; 0: never.
    pub fetched_at: i64,
    /// Keys in force.
    pub keys: usize,
    /// Keys of the last answer that cannot be used.
    pub ignored: usize,
    /// Fetches that brought or confirmed keys since the start.
    pub successes: u64,
    /// Fetches that failed since the start.
    pub failures: u64,
    /// Why the last fetch failed; empty if it did not.
    pub last_error: String,
}

/// What came of asking for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refetched {
    /// The issuer was asked after the caller asked, and answered well: what it does not have did not exist then.
    pub fetched: bool,
    /// Its keys changed, also by a fetch that was under way when the caller asked.
    pub changed: bool,
    /// When it can be asked again.
    pub retry_after: Duration,
}

/// One round of asking: how many there were, and how the last ended.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    number: u64,
    well: bool,
    changed: bool,
    /// One is under way, or about to be.
    running: bool,
}

/// One issuer.
struct Tracked {
    /// Of the key set.
    name: String,
    source: KeySource,
    state: Mutex<State>,
    rounds: watch::Sender<Round>,
    asked: Notify,
    /// When the last round began.
    began: Mutex<Option<Instant>>,
}

impl Tracked {
    fn new(name: String, source: KeySource, held: Option<&KeySetRecord>) -> Self {
        let keys = held.and_then(|h| jwks::read(h.jwks.as_bytes()).ok());
        let state = State {
            issuer: source.issuer.clone(),
            jwks_uri: source.jwks_uri.clone(),
            fetched_at: held.map_or(0, |h| h.fetched_at),
            keys: keys.map_or(0, |k| k.usable),
            ..State::default()
        };
        Self {
            name,
            source,
            state: Mutex::new(state),
            rounds: watch::Sender::new(Round::default()),
            asked: Notify::new(),
            began: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Nothing panics while one of these is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Owner of the tasks.
pub struct Keeper {
    fetcher: Arc<Fetcher>,
    registry: Arc<Registry>,
    store: Arc<Store>,
    clock: Clock,
    intervals: Intervals,
    tracked: Mutex<BTreeMap<String, Arc<Tracked>>>,
}

impl Keeper {
    /// Asks nobody yet.
    pub fn new(
        fetcher: Arc<Fetcher>,
        registry: Arc<Registry>,
        store: Arc<Store>,
        clock: Clock,
        intervals: Intervals,
    ) -> Self {
        Self {
            fetcher,
            registry,
            store,
            clock,
            intervals,
            tracked: Mutex::default(),
        }
    }

    /// What is known of each issuer.
    pub fn states(&self) -> Vec<State> {
        let tracked = lock(&self.tracked);
        tracked.values().map(|t| t.state().clone()).collect()
    }

    /// Follows the documents for ever: a task for each issuer they name, none for the others.
    pub async fn keep(self: Arc<Self>) {
        let mut worlds = self.registry.watch();
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<String, (KeySource, AbortHandle)> = BTreeMap::new();
        loop {
            let world = Arc::clone(&worlds.borrow_and_update());
            let wanted = world.key_sources();
            let gone: Vec<_> = running
                .iter()
                .filter(|(name, (source, _))| wanted.get(*name) != Some(source))
                .map(|(name, _)| name.clone())
                .collect();
            for name in &gone {
                if let Some((_, task)) = running.remove(name) {
                    task.abort();
                }
                lock(&self.tracked).remove(name);
            }
            if !gone.is_empty() {
                self.forget().await;
            }
            let new: Vec<_> = wanted
                .iter()
                .filter(|(name, _)| !running.contains_key(*name))
                .map(|(name, source)| (name.clone(), source.clone()))
                .collect();
            if !new.is_empty() {
                let held = self.load().await;
                for (name, source) in new {
                    let tracked = Tracked::new(name.clone(), source.clone(), held.get(&name));
                    let tracked = Arc::new(tracked);
                    lock(&self.tracked).insert(name.clone(), Arc::clone(&tracked));
                    let this = Arc::clone(&self);
                    let task = tasks.spawn(async move { this.follow(&tracked).await });
                    running.insert(name, (source, task));
                }
            }
            while tasks.try_join_next().is_some() {}
            if worlds.changed().await.is_err() {
                return;
            }
        }
    }

    async fn load(&self) -> BTreeMap<String, KeySetRecord> {
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || store.read(stored::load)).await;
        match read {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the key sets that were fetched earlier");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        }
    }

    async fn forget(&self) {
        let registry = Arc::clone(&self.registry);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || registry.forget_keys()).await {
            tracing::warn!(%error, "cannot forget key sets that no document names");
        }
    }

    /// Asks one issuer for ever.
    async fn follow(&self, tracked: &Tracked) {
        let mut memory = Memory::default();
        loop {
            *lock(&tracked.began) = Some(Instant::now());
            tracked.rounds.send_modify(|round| round.running = true);
            let result = self.ask(tracked, &mut memory).await;
            let wait = self.note(tracked, &mut memory, &result);
            tracked.rounds.send_modify(|round| {
                *round = Round {
                    number: round.number + 1,
                    well: result.is_ok(),
                    changed: matches!(result, Ok(Answer { changed: true, .. })),
                    running: false,
                };
            });
            self.pause(tracked, wait).await;
        }
    }

    /// Waits for the next round: `wait`, or until somebody asks for one that may be.
    async fn pause(&self, tracked: &Tracked, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = tracked.asked.notified() => {
                    let since = lock(&tracked.began).map(|began| began.elapsed());
                    // Whoever asked while a round was about to begin is served by that one.
                    if since.is_none_or(|s| s >= self.intervals.refetch) {
                        return;
                    }
                }
            }
        }
    }

    /// Keeps what came of a round; returns how long to wait for the next.
    fn note(
        &self,
        tracked: &Tracked,
        memory: &mut Memory,
        result: &Result<Answer, String>,
    ) -> Duration {
        let jitter = jitter();
        let mut state = tracked.state();
        match result {
            Ok(answer) => {
                memory.failures = 0;
                state.successes += 1;
                state.fetched_at = self.clock.seconds();
                state.last_error.clear();
                if let Some((keys, ignored)) = answer.keys {
                    (state.keys, state.ignored) = (keys, ignored);
                }
                self.intervals.after_success(answer.lifetime, jitter)
            }
            Err(reason) => {
                memory.failures = memory.failures.saturating_add(1);
                // Another address may be the right one now.
                memory.found = None;
                state.failures += 1;
                let has_keys = state.fetched_at != 0;
                if state.last_error != *reason {
                    tracing::warn!(
                        issuer = state.issuer,
                        reason,
                        has_keys,
                        "cannot fetch the issuer's keys; the last good ones stay in force"
                    );
                    state.last_error.clone_from(reason);
                }
                self.intervals
                    .after_failure(memory.failures, has_keys, jitter)
            }
        }
    }

    /// One round: find, fetch, read, publish.
    async fn ask(&self, tracked: &Tracked, memory: &mut Memory) -> Result<Answer, String> {
        let source = &tracked.source;
        let url = match (&memory.found, source.jwks_uri.as_str()) {
            (Some((url, at)), "") if at.elapsed() < REDISCOVER => url.clone(),
            (_, "") => {
                let url =
                    discovery::jwks_uri(&self.fetcher, &source.issuer, source.timeout).await?;
                memory.found = Some((url.clone(), Instant::now()));
                url
            }
            (_, given) => Url::parse(given).map_err(|e| format!("jwksUri: {e}"))?,
        };
        let mut fetch = Fetch::get(url);
        fetch.limit = jwks::MAX_BYTES;
        fetch.timeout = source.timeout;
        // A condition makes sense only about what is held from the same place.
        if let Some(held) = &memory.held
            && memory.held_from.as_ref() == Some(&fetch.url)
        {
            held.condition(&mut fetch.headers);
        }
        let fetched = self
            .fetcher
            .fetch(&fetch)
            .await
            .map_err(|e| e.to_string())?;
        let freshness = Freshness::of(&fetched.headers, self.clock.seconds());
        let lifetime = freshness.lifetime;
        match (fetched.status, &mut memory.record) {
            (StatusCode::NOT_MODIFIED, Some(record)) => {
                record.fetched_at = self.clock.seconds();
                let record = record.clone();
                self.publish(&record).await?;
                Ok(Answer {
                    keys: None,
                    changed: false,
                    lifetime,
                })
            }
            (StatusCode::OK, _) => {
                let keys =
                    jwks::read(&fetched.body).map_err(|e| format!("{}: {e}", fetched.url))?;
                if keys.ignored > 0 {
                    tracing::debug!(
                        issuer = source.issuer, ignored = keys.ignored, reasons = ?keys.reasons,
                        "keys that cannot be used"
                    );
                }
                let record = KeySetRecord {
                    name: tracked.name.clone(),
                    jwks: keys.document,
                    since: self.clock.seconds(),
                    fetched_at: self.clock.seconds(),
                };
                let changed = self.publish(&record).await?;
                if changed {
                    tracing::info!(
                        issuer = source.issuer,
                        keys = keys.usable,
                        ignored = keys.ignored,
                        "the issuer's keys changed"
                    );
                }
                memory.held = Some(freshness);
                memory.held_from = Some(fetch.url);
                memory.record = Some(record);
                Ok(Answer {
                    keys: Some((keys.usable, keys.ignored)),
                    changed,
                    lifetime,
                })
            }
            (other, _) => Err(format!(
                "{}: answered with status {}",
                fetched.url,
                other.as_u16()
            )),
        }
    }

    async fn publish(&self, record: &KeySetRecord) -> Result<bool, String> {
        let (registry, record) = (Arc::clone(&self.registry), record.clone());
        let now = self.clock.seconds();
        tokio::task::spawn_blocking(move || registry.set_keys(&record, now))
            .await
            .map_err(|_| "the write was not finished".to_owned())?
            .map(|(_, changed)| changed)
            .map_err(|e| e.to_string())
    }

    /// Has the issuer of key set `name` asked again, once for everybody who asks meanwhile, and waits for the answer. A
    /// fetch that is under way is waited for, but may have begun before the key that the caller misses came into being:
    /// it does not count as asked for. `None`: no document names that key set.
    pub async fn refetch(&self, name: &str) -> Option<Refetched> {
        let tracked = Arc::clone(lock(&self.tracked).get(name)?);
        let mut rounds = tracked.rounds.subscribe();
        let seen = *rounds.borrow_and_update();
        let left = self.left(&tracked);
        if !seen.running {
            if !left.is_zero() {
                return Some(Refetched {
                    fetched: false,
                    changed: false,
                    retry_after: left,
                });
            }
            tracked.asked.notify_one();
        }
        let done = rounds.wait_for(|round| round.number > seen.number);
        let round = match tokio::time::timeout(REFETCH_WAIT, done).await {
            Ok(Ok(round)) => *round,
            _ => Round::default(),
        };
        Some(Refetched {
            fetched: round.well && !seen.running,
            changed: round.changed,
            retry_after: match seen.running {
                true => self.left(&tracked),
                false => self.intervals.refetch,
            },
        })
    }

    /// Until the issuer may be asked again.
    fn left(&self, tracked: &Tracked) -> Duration {
        let since = lock(&tracked.began).map(|began| began.elapsed());
        since.map_or(Duration::ZERO, |s| self.intervals.refetch.saturating_sub(s))
    }
}

/// A good round.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// Usable and ignored keys; `None`: not modified.
    keys: Option<(usize, usize)>,
    changed: bool,
    lifetime: Option<Duration>,
}

/// What a task remembers between rounds.
#[derive(Default)]
struct Memory {
    /// By discovery, and when.
    found: Option<(Url, Instant)>,
    /// Condition under which the same need not be sent again.
    held: Option<Freshness>,
    held_from: Option<Url>,
    /// What the last full answer was.
    record: Option<KeySetRecord>,
    failures: u32,
}

/// A number from 0 to 1.
fn jitter() -> f64 {
    let mut byte = [0; 2];
    // Without randomness nothing is spread, which is all that it is for.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX)
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
