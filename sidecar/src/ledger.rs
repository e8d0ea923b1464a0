//! What workers note for the control thread to report: one [`Ledger`] per worker, and the worker's [`Notebook`] on it.
//!
//! A worker never waits here. It notes into memory of its own and hands that over when the control thread is not reading
//! at this very moment; otherwise it tries again later. Every table is bounded: what does not fit is counted, not kept.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_auth::Reason;
use mesh_auth::policy::Verdict;
use tokio::sync::Notify;

use crate::telemetry::watch::budgets::Shelf;
use crate::telemetry::watch::edges::Learned;
use crate::telemetry::watch::tap::Tap;
use crate::wall_clock::unix_seconds;

/// Denied decisions that a worker remembers.
pub const MAX_DENIALS: usize = 512;
/// Entries of one kind between two readings by the control thread.
const MAX_NOTES: usize = 1_024;
/// How long notes may lie before they are handed over.
const HAND_OVER: Duration = Duration::from_millis(500);
/// Longest text that is kept of a request.
const MAX_TEXT: usize = 256;

/// A denied decision, cut to what explains it: no query, no header value, no token.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Its id, as the caller was told.
    pub id: u64,
    /// When, Unix milliseconds.
    pub at: i64,
    /// Why.
    pub reason: Reason,
    /// The deciding policy, `namespace/name`.
    pub policy: Option<Arc<str>>,
    /// Position of the deciding rule, from 0.
    pub rule: Option<u32>,
    /// Store revision of the resources that it was decided with.
    pub revision: u64,
    /// The peer's SPIFFE ID; `None` for plaintext.
    pub peer: Option<Arc<str>>,
    /// Where the connection came from.
    pub source: SocketAddr,
    /// Application port.
    pub port: u16,
    /// The request, when there was one.
    pub request: Option<RequestFacts>,
    /// The verified token, when there was one.
    pub token: Option<TokenFacts>,
}

/// A request as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// Method.
    pub method: Box<str>,
    /// Host.
    pub host: Box<str>,
    /// Path without query.
    pub path: Box<str>,
}

impl RequestFacts {
    /// Keeps what fits, without control characters and without the query.
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Self {
            method: cut(method),
            host: cut(host),
            path: cut(path),
        }
    }
}

/// A verified token as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenFacts {
    /// Issuer.
    pub issuer: Box<str>,
    /// Subject.
    pub subject: Box<str>,
    /// Audiences.
    pub audiences: Vec<Box<str>>,
    /// Scopes.
    pub scopes: Vec<Box<str>>,
}

/// At most [`MAX_TEXT`] bytes of a text, without control characters.
pub fn cut(text: &str) -> Box<str> {
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text[..end].chars().map(clean).collect()
}

/// What distinguishes two shadow counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShadowKey {
    /// Application port.
    pub port: u16,
    /// Method; empty for an opaque connection.
    pub method: Box<str>,
    /// Path with identifiers replaced; empty for an opaque connection.
    pub route: Box<str>,
    /// What was decided.
    pub enforced: Verdict,
    /// What would have been decided.
    pub would_be: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policy that would have decided.
    pub policy: Option<Arc<str>>,
    /// Position of its rule, from 0.
    pub rule: Option<u32>,
}

/// How often something was seen, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// First time, Unix seconds.
    pub first: i64,
    /// Last time, Unix seconds.
    pub last: i64,
}

impl Seen {
    /// Once, at `now`.
    pub fn once(now: i64) -> Self {
        Self {
            count: 1,
            first: now,
            last: now,
        }
    }

    /// Adds what somebody else saw.
    pub fn merge(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// A shadow count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// How often.
    pub seen: Seen,
    /// The last caller; `None` for plaintext.
    pub last_peer: Option<Arc<str>>,
}

/// A plaintext caller and the port it came to; true: refused because the port demands mutual TLS.
pub type PlaintextKey = (IpAddr, u16, bool);

/// What was noted since it was read last.
#[derive(Debug, Default)]
pub struct Notes {
    /// Decisions that dry-run policies would have made.
    pub shadows: HashMap<ShadowKey, Shadow>,
    /// Plaintext connections.
    pub plaintext: HashMap<PlaintextKey, Seen>,
    /// What did not fit.
    pub overflow: u64,
}

impl Notes {
    fn is_empty(&self) -> bool {
        self.shadows.is_empty() && self.plaintext.is_empty() && self.overflow == 0
    }

    /// Notes a decision that dry-run policies would have made.
    pub fn shadow(&mut self, key: ShadowKey, shadow: Shadow) {
        let into = |held: &mut Shadow, new: Shadow| {
            held.seen.merge(new.seen);
            held.last_peer = new.last_peer;
        };
        self.overflow += add(&mut self.shadows, key, shadow, MAX_NOTES, into);
    }

    /// Notes a plaintext connection.
    pub fn plaintext(&mut self, key: PlaintextKey, seen: Seen) {
        self.overflow += add(&mut self.plaintext, key, seen, MAX_NOTES, Seen::merge);
    }

    fn merge(&mut self, other: Self) {
        for (key, shadow) in other.shadows {
            self.shadow(key, shadow);
        }
        for (key, seen) in other.plaintext {
            self.plaintext(key, seen);
        }
        self.overflow += other.overflow;
    }
}

/// Adds to a bounded table; returns how many entries did not fit.
fn add<K: Hash + Eq, V>(
    table: &mut HashMap<K, V>,
    key: K,
    value: V,
    bound: usize,
    merge: impl FnOnce(&mut V, V),
) -> u64 {
    if let Some(held) = table.get_mut(&key) {
        merge(held, value);
    } else if table.len() < bound {
        table.insert(key, value);
    } else {
        return 1;
    }
    0
}

/// Where one worker's notes are read.
#[derive(Debug, Default)]
pub struct Ledger {
    shared: Mutex<Shared>,
    /// What it counts for latency budgets.
    pub tallies: Arc<Shelf>,
    /// Who talks to the workload.
    pub edges: Learned,
    /// Who watches it live.
    pub tap: Arc<Tap>,
}

#[derive(Debug, Default)]
struct Shared {
    notes: Notes,
    /// Oldest first.
    denials: VecDeque<Denial>,
}

impl Ledger {
    /// Nothing noted.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the notes. For the control thread: it may wait for a worker, never the other way round.
    pub fn take(&self) -> Notes {
        std::mem::take(&mut self.lock().notes)
    }

    /// A denied decision that is still remembered.
    pub fn denial(&self, id: u64) -> Option<Denial> {
        let shared = self.lock();
        shared.denials.iter().rev().find(|d| d.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while it is held; half a note would still be one.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's side of its ledger.
#[derive(Debug)]
pub struct Notebook {
    ledger: Arc<Ledger>,
    notes: RefCell<Notes>,
    denials: RefCell<VecDeque<Denial>>,
    is_dirty: Cell<bool>,
    dirtied: Notify,
}

impl Notebook {
    /// Hands over to `ledger`.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            notes: RefCell::default(),
            denials: RefCell::default(),
            is_dirty: Cell::new(false),
            dirtied: Notify::new(),
        }
    }

    /// Remembers a denied decision; the oldest is forgotten for it. Found at once, unless the control thread reads now.
    pub fn denied(&self, denial: Denial) {
        let mut denials = self.denials.borrow_mut();
        push(&mut denials, denial);
        drop(denials);
        if !self.hand_over() {
            self.touch();
        }
    }

    /// Counts a decision that dry-run policies would have made.
    pub fn shadow(&self, key: ShadowKey, last_peer: Option<Arc<str>>) {
        let seen = Seen::once(unix_seconds());
        let shadow = Shadow { seen, last_peer };
        self.notes.borrow_mut().shadow(key, shadow);
        self.touch();
    }

    /// Counts a plaintext connection from `address` to `port`.
    pub fn plaintext(&self, address: IpAddr, port: u16, refused: bool) {
        let seen = Seen::once(unix_seconds());
        self.notes
            .borrow_mut()
            .plaintext((address, port, refused), seen);
        self.touch();
    }

    fn touch(&self) {
        if !self.is_dirty.replace(true) {
            self.dirtied.notify_one();
        }
    }

    /// Hands everything over, unless the control thread reads at this moment. True if nothing is left.
    fn hand_over(&self) -> bool {
        let mut shared = match self.ledger.shared.try_lock() {
            Ok(shared) => shared,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return false,
        };
        for denial in self.denials.borrow_mut().drain(..) {
            push(&mut shared.denials, denial);
        }
        let mut notes = self.notes.borrow_mut();
        if !notes.is_empty() {
            shared.notes.merge(std::mem::take(&mut notes));
        }
        self.is_dirty.set(false);
        true
    }

    /// Hands over what is noted soon after it is, for ever. An idle worker is not woken.
    pub async fn keep_handing_over(&self) {
        loop {
            self.dirtied.notified().await;
            loop {
                tokio::time::sleep(HAND_OVER).await;
                if self.hand_over() {
                    break;
                }
            }
        }
    }
}

fn push(denials: &mut VecDeque<Denial>, denial: Denial) {
    if denials.len() >= MAX_DENIALS {
        denials.pop_front();
    }
    denials.push_back(denial);
}

/// The route of a path for counting: what looks like an identifier becomes `{id}`, so that a route is one line, whoever
/// is asked for. Deep paths are cut after [`MAX_SEGMENTS`].
pub fn route(path: &str) -> Box<str> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut route = String::with_capacity(path.len().min(MAX_TEXT));
    for (index, segment) in path.trim_start_matches('/').split('/').enumerate() {
        route.push('/');
        if index == MAX_SEGMENTS {
            route.push_str("**");
            break;
        }
        route.push_str(if is_identifier(segment) {
            "{id}"
        } else {
            segment
        });
    }
    cut(&route)
}

/// Segments of a route.
const MAX_SEGMENTS: usize = 6;

/// A number, a UUID or hash, or anything long with a digit in it.
fn is_identifier(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let all = |accept: fn(&u8) -> bool| segment.bytes().all(|b| accept(&b));
    match segment.len() {
        0 => false,
        len if digits == len => true,
        len if len >= 8 && digits > 0 && all(|b| b.is_ascii_hexdigit() || *b == b'-') => true,
        len => len >= 20 && digits > 0 || len > 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(id: u64) -> Denial {
        Denial {
            id,
            at: 0,
            reason: Reason::DeniedByPolicy,
            policy: None,
            rule: None,
            revision: 1,
            peer: None,
            source: ([127, 0, 0, 1], 1).into(),
            port: 80,
            request: None,
            token: None,
        }
    }

    #[test]
    fn denials_are_found_until_newer_ones_push_them_out() {
        let ledger = Ledger::new();
        let notebook = Notebook::new(Arc::clone(&ledger));
        for id in 0..=MAX_DENIALS as u64 {
            notebook.denied(denial(id));
        }
        assert!(ledger.denial(0).is_none(), "the oldest is forgotten");
        assert!(ledger.denial(1).is_some());
        assert!(ledger.denial(MAX_DENIALS as u64).is_some());
    }

    #[test]
    fn a_worker_does_not_wait_for_a_reader_and_loses_nothing() {
        let ledger = Ledger::new();
        let notebook = Notebook::new(Arc::clone(&ledger));
        let reading = ledger.lock();
        notebook.denied(denial(7));
        notebook.plaintext([10, 0, 0, 1].into(), 80, false);
        assert!(!notebook.hand_over());
        drop(reading);
        assert!(notebook.hand_over());
        assert!(ledger.denial(7).is_some());
        assert_eq!(ledger.take().plaintext.len(), 1);
        assert!(ledger.take().plaintext.is_empty(), "taken once");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut notes = Notes::default();
        for n in 0..MAX_NOTES + 5 {
            let address = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            notes.plaintext((address, 80, false), Seen::once(1));
        }
        notes.plaintext((IpAddr::from([0, 0, 0, 0]), 80, false), Seen::once(9));
        assert_eq!((notes.plaintext.len(), notes.overflow), (MAX_NOTES, 5));
        let first = notes.plaintext[&(IpAddr::from([0, 0, 0, 0]), 80, false)];
        assert_eq!((first.count, first.first, first.last), (2, 1, 9));
    }

    #[test]
    fn routes_do_not_grow_with_what_is_asked_for() {
        for (path, expected) in [
            ("/", "/"),
            ("/orders", "/orders"),
            ("/orders/42?user=bob", "/orders/{id}"),
            ("/orders/42/items/", "/orders/{id}/items/"),
            ("/v1/orders", "/v1/orders"),
            ("/users/0191d3b8-7c1e-7000-8000-1234567890ab", "/users/{id}"),
            ("/blobs/deadbeef01", "/blobs/{id}"),
            ("/facade", "/facade"),
            ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/**"),
            ("*", "/*"),
        ] {
            assert_eq!(&*route(path), expected, "{path}");
        }
    }

    #[test]
    fn requests_are_remembered_without_query_and_without_control_characters() {
        let facts = RequestFacts::new("GET", "orders\u{1b}[2J", "/a?token=canary");
        assert_eq!(&*facts.path, "/a");
        assert!(!facts.host.contains('\u{1b}'));
        assert!(RequestFacts::new("GET", "h", &"é".repeat(400)).path.len() <= MAX_TEXT);
    }
}
