//! Tokens whose key is not in the issuer's key set: unknown, or not known yet.
//!
//! An issuer that rotates may sign with a key before anybody heard of it, and everybody can make up a key id. So the first
//! token with an unknown key has the set fetched again and is answered "not now"; once a fetch that was asked for after it did not
//! bring the key, the answer is "unknown". What is remembered is bounded: in a flood of made-up keys the answer stays "not
//! now" for those that find no room, so that nobody can make a good key be called unknown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::key_requests::{KeyRequests, Questions};
use crate::worker::places::Places;

/// Unknown keys that are remembered for each key set.
const MAX_KEYS: usize = 64;
/// Key sets that are remembered.
const MAX_SETS: usize = 256;
/// How long a key stays refuted: then it may have come into being.
const REFUTED: Duration = Duration::from_secs(60);
/// Requests that wait for keys at one time; the others are answered at once.
const MAX_WAITING: usize = 1024;
/// Between two requests for one set.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a token with an unknown key is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The issuer was asked and does not have the key.
    Unknown,
    /// The issuer is being asked: 503, try again.
    Unsure {
        /// How often there was news of this key set.
        news: u64,
    },
}

/// What a request that may wait waits for: an answer, or other keys.
#[derive(Debug)]
pub struct Pending {
    /// The key set.
    pub name: Box<str>,
    /// How often there had been news of it when the request was judged.
    pub news: u64,
    /// How long it may wait in all.
    pub patience: Duration,
}

/// What one worker remembers.
#[derive(Debug)]
pub struct KeyMisses {
    requests: Arc<KeyRequests>,
    hasher: RandomState,
    sets: RefCell<HashMap<Box<str>, Set>>,
    waiting: Places,
}

#[derive(Debug, Default)]
struct Set {
    /// The last question that had begun when the key was seen first, and when that was. Its answer says nothing of the key.
    keys: HashMap<u64, (u64, Instant)>,
    asked: Option<Instant>,
}

impl KeyMisses {
    /// Nothing is remembered.
    pub fn new(requests: Arc<KeyRequests>) -> Self {
        Self {
            requests,
            hasher: RandomState::new(),
            sets: RefCell::default(),
            waiting: Places::new(MAX_WAITING),
        }
    }

    /// Waits for news of the key set that is newer than `pending`; false: none came by `until`, or too many wait.
    pub async fn wait(&self, pending: &Pending, until: Instant) -> bool {
        let Some(_place) = self.waiting.take() else {
            return false;
        };
        let news = self.requests.newer(&pending.name, pending.news);
        tokio::time::timeout_at(until.into(), news).await.is_ok()
    }

    /// Judges a token whose key, named by `header` (its first segment), is not in key set `name`.
    pub fn judge(&self, name: &str, header: &[u8], now: Instant) -> Miss {
        let Questions {
            begun,
            answered,
            news,
        } = self.requests.questions(name);
        let mut sets = self.sets.borrow_mut();
        if !sets.contains_key(name) && sets.len() >= MAX_SETS {
            sets.clear();
        }
        let set = sets.entry(name.into()).or_default();
        let key = self.hasher.hash_one(header);
        set.keys
            .retain(|_, (seen, at)| answered <= *seen || now.duration_since(*at) < REFUTED);
        match set.keys.get(&key) {
            Some((seen, _)) if answered > *seen => return Miss::Unknown,
            Some(_) => {}
            None if set.keys.len() < MAX_KEYS => {
                set.keys.insert(key, (begun, now));
            }
            None => {}
        }
        if set
            .asked
            .is_none_or(|at| now.duration_since(at) >= ASK_AGAIN)
        {
            set.asked = Some(now);
            self.requests.ask(name);
        }
        Miss::Unsure { news }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn asked(requests: &KeyRequests) -> Vec<Box<str>> {
        std::iter::from_fn(|| requests.next().now_or_never()).collect()
    }

    const FIRST: Miss = Miss::Unsure { news: 0 };
    const SECOND: Miss = Miss::Unsure { news: 1 };

    #[test]
    fn a_key_is_unknown_only_after_the_issuer_was_asked() {
        let requests = KeyRequests::new();
        let misses = KeyMisses::new(Arc::clone(&requests));
        let start = Instant::now();
        assert_eq!(misses.judge("issuer/a", b"new", start), FIRST);
        assert_eq!(misses.judge("issuer/a", b"new", start), FIRST);
        assert_eq!(asked(&requests), ["issuer/a".into()], "asked once");
        let question = requests.begin("issuer/a");
        // Met while the issuer is being asked: it may have answered before the key came into being.
        assert_eq!(misses.judge("issuer/a", b"late", start), FIRST);
        requests.answered("issuer/a", question);
        assert_eq!(misses.judge("issuer/a", b"new", start), Miss::Unknown);
        assert_eq!(misses.judge("issuer/a", b"late", start), SECOND);
        assert_eq!(misses.judge("issuer/b", b"new", start), FIRST);
        // A key that came into being later gets its own question.
        assert_eq!(misses.judge("issuer/a", b"newer", start), SECOND);
        assert_eq!(misses.judge("issuer/a", b"new", start + REFUTED), SECOND);
    }

    #[test]
    fn in_a_flood_of_keys_it_is_asked_once_a_second_and_no_key_is_called_unknown_for_want_of_room()
    {
        let requests = KeyRequests::new();
        let misses = KeyMisses::new(Arc::clone(&requests));
        let start = Instant::now();
        for i in 0..10_000_u32 {
            let miss = misses.judge("issuer/a", &i.to_be_bytes(), start);
            assert_eq!(miss, FIRST, "{i}");
        }
        misses.judge("issuer/a", &[0; 4], start + ASK_AGAIN);
        assert_eq!(asked(&requests).len(), 2);
        assert_eq!(misses.sets.borrow()["issuer/a"].keys.len(), MAX_KEYS);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_wait_goes_on_with_the_answer_or_when_his_time_is_up() {
        let requests = KeyRequests::new();
        let misses = KeyMisses::new(Arc::clone(&requests));
        let pending = |news| Pending {
            name: "issuer/a".into(),
            news,
            patience: Duration::from_secs(1),
        };
        let until = || Instant::from(tokio::time::Instant::now() + Duration::from_secs(1));
        assert!(!misses.wait(&pending(0), until()).await, "nobody answers");
        let other = pending(0);
        let (went_on, ()) = tokio::join!(misses.wait(&other, until()), async {
            requests.answered("issuer/b", 1);
            tokio::task::yield_now().await;
            requests.answered("issuer/a", 1);
        });
        assert!(went_on);
        assert!(misses.wait(&pending(0), until()).await, "answered before");
        // Keys that came without being asked for here may be the right ones; they refute none.
        let second = pending(1);
        let (went_on, ()) = tokio::join!(misses.wait(&second, until()), async {
            requests.arrived("issuer/a");
        });
        assert!(went_on);
        assert_eq!(requests.questions("issuer/a").answered, 1);
        let _all: Vec<_> = std::iter::from_fn(|| misses.waiting.take()).collect();
        assert!(!misses.wait(&pending(0), until()).await, "too many");
    }
}
