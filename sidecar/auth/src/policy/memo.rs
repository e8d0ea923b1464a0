//! Decisions on requests that come again.
//!
//! A memo belongs to one [`Standing`](super::Standing): to one connection and port, and to the policies in force. Peer,
//! addresses, server name and the epochs of policy are the same for all that it holds, and other policies have other
//! standings, so that nothing is ever to be removed. What is left of a request is the key, whole: method, host, path, and
//! which verification its token came from. Keys, revocations and introspection have their say before: what they change is
//! another verification, or no request at all. Sets that look at headers or at the original client remember nothing.
//!
//! Its places are few and of one connection: who asks for many paths pays with his own.

use std::cell::RefCell;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;

use super::request::Request;
use crate::token::VerifiedToken;

const PLACES: usize = 8;
/// Bytes of host and path up to which a request is worth remembering.
const MAX_TEXT: usize = 256;

/// How many decisions all memos of the process hold. Written when one is held or given up, which is not when one is found.
#[derive(Debug, Default)]
pub struct Tally {
    held: AtomicU64,
    given_up: AtomicU64,
    replaced: AtomicU64,
}

static TALLY: Tally = Tally {
    held: AtomicU64::new(0),
    given_up: AtomicU64::new(0),
    replaced: AtomicU64::new(0),
};

impl Tally {
    /// Of this process.
    pub fn of_process() -> &'static Self {
        &TALLY
    }

    /// Decisions that are remembered.
    pub fn entries(&self) -> u64 {
        let given_up = self.given_up.load(Ordering::Relaxed);
        self.held.load(Ordering::Relaxed).saturating_sub(given_up)
    }

    /// Decisions that gave their place to another.
    pub fn evictions(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }
}

/// What was decided of the last few requests that came more than once.
#[derive(Debug)]
pub(super) struct Memo {
    places: RefCell<Option<Box<[Place; PLACES]>>>,
    tally: &'static Tally,
}

impl Default for Memo {
    fn default() -> Self {
        Self::counted_in(&TALLY)
    }
}

impl Drop for Memo {
    fn drop(&mut self) {
        let places = self.places.get_mut().as_deref().map_or(&[][..], |p| p);
        let held = places.iter().filter(|place| place.held.is_some()).count();
        if held > 0 {
            let given_up = &self.tally.given_up;
            given_up.fetch_add(held as u64, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    /// The key that was last missed here. It is held when it is missed again: most of those that come once never are.
    missed: u64,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    hash: u64,
    token: u64,
    method: Method,
    host: Box<str>,
    path: Box<str>,
    ruling: Ruling,
}

/// What decided: a rule, by the index of its policy in the table and its position in the policy, or the lack of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    Denied { policy: u32, rule: u32 },
    Allowed { policy: u32, rule: u32 },
    NothingMatched,
}

/// What tells one request of a connection from another.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    hash: u64,
    token: u64,
    method: &'a Method,
    host: &'a str,
    path: &'a str,
}

impl<'a> Key<'a> {
    /// `None` for one that is too long to be remembered.
    pub(super) fn of(request: &Request<'a>, seed: &foldhash::fast::RandomState) -> Option<Self> {
        let (method, host, path) = (request.method, request.host, request.path);
        if host.len() + path.len() > MAX_TEXT {
            return None;
        }
        let token = request.token.map_or(0, VerifiedToken::verification);
        let hash = seed.hash_one((token, method, host, path));
        Some(Self {
            hash,
            token,
            method,
            host,
            path,
        })
    }

    fn place(&self) -> usize {
        // Eight places: the lowest bits.
        (self.hash & (PLACES as u64 - 1)) as usize
    }

    fn is(&self, held: &Held) -> bool {
        self.hash == held.hash
            && self.token == held.token
            && *self.path == *held.path
            && *self.host == *held.host
            && *self.method == held.method
    }
}

impl Memo {
    fn counted_in(tally: &'static Tally) -> Self {
        Self {
            places: RefCell::default(),
            tally,
        }
    }

    /// What was decided of `key` before.
    pub(super) fn get(&self, key: &Key<'_>) -> Option<Ruling> {
        let places = self.places.borrow();
        let held = places.as_ref()?[key.place()].held.as_ref()?;
        key.is(held).then_some(held.ruling)
    }

    /// `key` was missed, and `ruling` is what was decided.
    pub(super) fn missed(&self, key: &Key<'_>, ruling: Ruling) {
        let mut places = self.places.borrow_mut();
        let place = &mut places.get_or_insert_default()[key.place()];
        if place.missed != key.hash {
            place.missed = key.hash;
            return;
        }
        let counted = match place.held {
            Some(_) => &self.tally.replaced,
            None => &self.tally.held,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        place.held = Some(Held {
            hash: key.hash,
            token: key.token,
            method: key.method.clone(),
            host: key.host.into(),
            path: key.path.into(),
            ruling,
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::request::Connection;
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_its_connection_is_gone() {
        let tally: &'static Tally = Box::leak(Box::default());
        let seed = foldhash::fast::RandomState::default();
        let memo = Memo::counted_in(tally);
        let path = |number: u64| format!("/{number}");
        for number in 0..64 {
            let path = path(number);
            let key = Key {
                hash: seed.hash_one(&path),
                token: 0,
                method: &Method::GET,
                host: "h",
                path: &path,
            };
            memo.missed(&key, Ruling::NothingMatched);
            memo.missed(&key, Ruling::NothingMatched);
        }
        assert_eq!(tally.entries() + tally.evictions(), 64);
        assert!((1..=PLACES as u64).contains(&tally.entries()), "{tally:?}");
        drop(memo);
        assert_eq!(tally.entries(), 0);
    }

    #[test]
    fn what_comes_twice_is_held_and_every_part_of_it_counts() {
        let (headers, long) = (HeaderMap::new(), "/".repeat(MAX_TEXT));
        let seed = foldhash::fast::RandomState::default();
        let connection = Connection {
            peer: None,
            source_ip: "10.0.0.1".parse().unwrap(),
            destination_ip: "10.0.0.2".parse().unwrap(),
            destination_port: 80,
            sni: None,
        };
        let request = |method, host, path| Request {
            connection,
            method,
            host,
            path,
            headers: &headers,
            token: None,
        };
        let ruling = Ruling::Allowed { policy: 3, rule: 1 };
        let memo = Memo::default();
        let one = request(&Method::GET, "h", "/a");
        let key = Key::of(&one, &seed).unwrap();
        assert_eq!(memo.get(&key), None);
        memo.missed(&key, ruling);
        assert_eq!(memo.get(&key), None, "once is not enough");
        memo.missed(&key, ruling);
        assert_eq!(memo.get(&key), Some(ruling));
        for (method, host, path) in [
            (&Method::POST, "h", "/a"),
            (&Method::GET, "i", "/a"),
            (&Method::GET, "h/", "a"),
            (&Method::GET, "h", "/b"),
        ] {
            let other = request(method, host, path);
            assert_eq!(
                memo.get(&Key::of(&other, &seed).unwrap()),
                None,
                "{host} {path}"
            );
        }
        assert!(Key::of(&request(&Method::GET, "h", &long), &seed).is_none());
    }
}
