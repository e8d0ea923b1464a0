//! Who talks to this workload, and where it calls that nobody else would tell of, as one worker learns it.
//!
//! An [`Edge`] has one writer, its worker, and is read by the control thread. A connection looks for its edge once per
//! port; then a request costs a few additions. Tables are bounded whatever peers do: who names many ports, or comes from
//! many addresses, is counted together with others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_auth::latency::{self, BUCKETS};

use super::budgets::add_one;
use crate::telemetry::observe::{Observation, Outcome};
use crate::worker::metrics::Direction;

/// Identities, addresses, and ports of one of them, that are told apart.
const MAX_PEERS: usize = 512;
const MAX_ADDRESSES: usize = 128;
const MAX_PORTS: usize = 16;

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum From {
    /// A SPIFFE ID, proved by mutual TLS.
    Peer(Arc<str>),
    /// An address, in plaintext.
    Address(IpAddr),
    /// Further ones, with mutual TLS.
    OtherPeers,
    /// Further ones, in plaintext.
    OtherAddresses,
}

/// What came from one other end to one port.
#[derive(Debug)]
pub struct Edge {
    /// Which way.
    pub direction: Direction,
    /// The other end.
    pub from: From,
    /// Application port; 0: several.
    pub port: u16,
    requests: AtomicU64,
    failed: AtomicU64,
    denied: AtomicU64,
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

/// An edge's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// HTTP requests.
    pub requests: u64,
    /// Failed ones.
    pub failed: u64,
    /// Refused requests and connections.
    pub denied: u64,
    /// Opaque connections.
    pub connections: u64,
    /// Bytes towards the workload.
    pub sent: u64,
    /// Bytes back.
    pub received: u64,
    /// Durations by bucket.
    pub buckets: Box<[u64]>,
}

impl Edge {
    fn new(direction: Direction, from: From, port: u16) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            direction,
            from,
            port,
            requests: zero(),
            failed: zero(),
            denied: zero(),
            connections: zero(),
            sent: zero(),
            received: zero(),
            buckets: (0..BUCKETS).map(|_| zero()).collect(),
        }
    }

    /// A request ended after `took`.
    pub fn request(&self, outcome: &Outcome, denied: bool, took: Duration) {
        add_one(&self.requests);
        if denied {
            add_one(&self.denied);
        } else {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            add_one(&self.buckets[latency::bucket(nanos)]);
            if is_failed(outcome) {
                add_one(&self.failed);
            }
        }
        self.carried(outcome);
    }

    /// An opaque connection ended.
    pub fn connection(&self, outcome: &Outcome, denied: bool) {
        add_one(if denied {
            &self.denied
        } else {
            &self.connections
        });
        self.carried(outcome);
    }

    fn carried(&self, outcome: &Outcome) {
        add(&self.sent, outcome.sent);
        add(&self.received, outcome.received);
    }

    /// How often anything ended.
    pub fn ended(&self) -> u64 {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        of(&self.requests)
            .wrapping_add(of(&self.connections))
            .wrapping_add(of(&self.denied))
    }

    /// The numbers.
    pub fn numbers(&self) -> Numbers {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Numbers {
            requests: of(&self.requests),
            failed: of(&self.failed),
            denied: of(&self.denied),
            connections: of(&self.connections),
            sent: of(&self.sent),
            received: of(&self.received),
            buckets: self.buckets.iter().map(of).collect(),
        }
    }
}

fn add(cell: &AtomicU64, n: u64) {
    if n > 0 {
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }
}

/// No answer, a server's error, or a gRPC status that a server's error has (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS).
fn is_failed(outcome: &Outcome) -> bool {
    outcome.error.is_some()
        || outcome.status.is_none_or(|status| status.is_server_error())
        || matches!(outcome.grpc_status, Some(2 | 4 | 12..=15))
}

/// Where the control thread hears of one worker's edges.
#[derive(Debug)]
pub struct Learned {
    sender: Sender<Arc<Edge>>,
    receiver: Mutex<Receiver<Arc<Edge>>>,
}

impl Default for Learned {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self {
            sender,
            receiver: Mutex::new(receiver),
        }
    }
}

impl Learned {
    /// Edges that are new since the last time. For the control thread.
    pub fn take(&self) -> Vec<Arc<Edge>> {
        let receiver: MutexGuard<'_, _> =
            self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.try_iter().collect()
    }
}

/// One worker's edges.
pub struct Edges {
    /// By direction: destinations do not take the place of callers.
    tables: [RefCell<Tables>; 2],
    /// Bounded by the tables: every edge is sent once.
    learned: Sender<Arc<Edge>>,
}

#[derive(Default)]
struct Tables {
    edges: HashMap<(From, u16), Arc<Edge>>,
    /// Ports by other end.
    ports: HashMap<From, usize>,
    peers: usize,
    addresses: usize,
}

impl Edges {
    /// Tells `learned`.
    pub fn new(learned: &Learned) -> Self {
        Self {
            tables: [RefCell::default(), RefCell::default()],
            learned: learned.sender.clone(),
        }
    }

    /// The edge from `from` to `port`; outbound, the one to `port` of `from`.
    pub fn find(&self, direction: Direction, from: From, port: u16) -> Arc<Edge> {
        let mut tables = self.tables[direction as usize].borrow_mut();
        let key = (from, port);
        if let Some(edge) = tables.edges.get(&key) {
            return Arc::clone(edge);
        }
        let key = tables.place(key);
        if let Some(edge) = tables.edges.get(&key) {
            return Arc::clone(edge);
        }
        let edge = Arc::new(Edge::new(direction, key.0.clone(), key.1));
        tables.edges.insert(key, Arc::clone(&edge));
        // The control thread ends after the workers.
        let _ = self.learned.send(Arc::clone(&edge));
        edge
    }
}

impl Edges {
    /// Something went out and ended. Counted where no sidecar tells of it at the other end.
    pub fn left(&self, observation: &Observation, is_request: bool, outcome: &Outcome) {
        let to = match (&observation.peer, observation.address) {
            (Some(_), _) if observation.is_told_there => return,
            (Some(peer), _) => From::Peer(peer.to_shared()),
            (None, Some(address)) => From::Address(address.ip().to_canonical()),
            (None, None) => return,
        };
        let edge = self.find(Direction::Outbound, to, observation.port);
        let is_denied = observation.is_decided();
        if is_request {
            edge.request(outcome, is_denied, observation.timeline.total());
        } else {
            edge.connection(outcome, is_denied);
        }
    }
}

impl Tables {
    /// Where a new edge is counted: as itself, or with others.
    fn place(&mut self, (from, port): (From, u16)) -> (From, u16) {
        if let Some(ports) = self.ports.get_mut(&from) {
            if *ports >= MAX_PORTS {
                return (from, 0);
            }
            *ports += 1;
            return (from, port);
        }
        let (known, most, others) = match from {
            From::Peer(_) => (&mut self.peers, MAX_PEERS, From::OtherPeers),
            From::Address(_) => (&mut self.addresses, MAX_ADDRESSES, From::OtherAddresses),
            From::OtherPeers | From::OtherAddresses => return (from, 0),
        };
        if *known >= most {
            return (others, 0);
        }
        *known += 1;
        self.ports.insert(from.clone(), 1);
        (from, port)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn outcome(status: u16, grpc_status: Option<u32>) -> Outcome {
        Outcome {
            status: StatusCode::from_u16(status).ok(),
            grpc_status,
            sent: 2,
            received: 3,
            error: None,
        }
    }

    #[test]
    fn requests_and_connections_are_counted_by_how_they_ended() {
        let learned = Learned::default();
        let edges = Edges::new(&learned);
        let from = From::Peer("spiffe://td/a".into());
        let edge = edges.find(Direction::Inbound, from.clone(), 80);
        let took = Duration::from_micros(300);
        edge.request(&outcome(200, None), false, took);
        edge.request(&outcome(404, None), false, took);
        edge.request(&outcome(503, None), false, took);
        edge.request(&outcome(200, Some(14)), false, took);
        edge.request(&outcome(200, Some(5)), false, took);
        edge.request(&outcome(403, None), true, took);
        edge.connection(&outcome(0, None), false);
        edge.connection(&outcome(0, None), true);
        let numbers = edges.find(Direction::Inbound, from, 80).numbers();
        assert_eq!((numbers.requests, numbers.failed), (6, 2));
        assert_eq!((numbers.denied, numbers.connections), (2, 1));
        assert_eq!((numbers.sent, numbers.received), (16, 24));
        assert_eq!(numbers.buckets[latency::bucket(300_000)], 5);
        assert_eq!(learned.take().len(), 1, "told once");
        assert!(learned.take().is_empty());
    }

    #[test]
    fn tables_are_bounded_and_what_is_known_stays_apart() {
        let learned = Learned::default();
        let edges = Edges::new(&learned);
        let peer = |n: usize| From::Peer(format!("spiffe://td/{n}").into());
        for port in 1..1_000 {
            edges.find(Direction::Inbound, peer(0), port);
        }
        assert_eq!(edges.find(Direction::Inbound, peer(0), 5).port, 5);
        assert_eq!(edges.find(Direction::Inbound, peer(0), 999).port, 0);
        for n in 0..2_000 {
            edges.find(Direction::Inbound, peer(n), 80);
            let address = u32::try_from(n).unwrap().to_be_bytes();
            edges.find(Direction::Inbound, From::Address(address.into()), 80);
        }
        assert_eq!(edges.find(Direction::Inbound, peer(7), 80).from, peer(7));
        assert_eq!(
            edges.find(Direction::Inbound, peer(1_999), 80).from,
            From::OtherPeers
        );
        assert_eq!(
            edges
                .find(Direction::Inbound, From::Address([9, 9, 9, 9].into()), 80)
                .from,
            From::OtherAddresses
        );
        let all = learned.take().len();
        assert!(
            all <= MAX_PEERS + MAX_ADDRESSES + MAX_PORTS + 2,
            "{all} edges"
        );
    }
}
