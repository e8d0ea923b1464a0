//! mTLS connections to peers' mesh ports.
//!
//! Keyed by address and expected identity, so that an address that changes hands never carries another workload's
//! requests over an old connection. A connection is retired (no new streams) when its TLS contexts are no longer the
//! current ones, when it refuses a stream, or when it has been idle for long; streams on it finish.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mesh_auth::SpiffeId;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::client::{Client, Proven, tell_of_handshake};
use crate::directory::WorkloadEntry;
use crate::http::gather::{Gather, Turn, gather};
use crate::http::h2::{self as stream, Sender};
use crate::http::unsent::Piece;
use crate::snapshot::{MESH_ALPN, SharedSnapshot, Snapshot};
use crate::telemetry::observe::Observer;
use crate::worker::dial::{DialError, Dialer};
use crate::worker::expiry::Expiry;
use crate::worker::hold_back::HoldBack;
use crate::worker::metrics::Direction;
use crate::worker::peer_review::PeerReview;
use crate::worker::review::{CUT_AFTER, Review, Reviews};

/// Streams on a connection at which another one is opened.
const GROW_AT: u32 = 100;
/// How long after bulk went over a connection it is still taken to carry some.
const BULK_LASTS: Duration = Duration::from_millis(100);
/// Connections to one peer.
const MAX_CONNECTIONS: usize = 8;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Peers without a connection that are kept because a session can be resumed with them.
const MAX_RESUMABLE: usize = 256;
/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The TLS handshake failed.
    #[error("TLS handshake with {address} (expected {expected}): {error}")]
    Tls {
        /// The peer's mesh port.
        address: SocketAddr,
        /// Who should have answered.
        expected: SpiffeId,
        /// What went wrong.
        error: String,
    },
    /// HTTP/2 could not be started.
    #[error("HTTP/2 with {address}: {error}")]
    Http2 {
        /// The peer's mesh port.
        address: SocketAddr,
        /// What went wrong.
        error: h2::Error,
    },
    /// This sidecar has no certificate yet.
    #[error("no certificate is held yet")]
    NoIdentity,
    /// The workload has no address.
    #[error("workload {0} has no address")]
    NoAddress(Arc<str>),
    /// Another request's attempt failed just now.
    #[error("{0}")]
    Shared(Arc<str>),
}

/// One connection.
struct Shared {
    send: Sender,
    active: Cell<u32>,
    /// When bulk last went over it.
    bulk: Cell<Option<Instant>>,
    retired: Cell<bool>,
    tls_epoch: u64,
    last_used: Cell<Instant>,
    /// When its TLS handshake began.
    handshake: std::time::Instant,
}

/// A place for one stream on a connection.
pub struct Slot {
    connection: Rc<Shared>,
    handshake: Option<std::time::Instant>,
}

impl Slot {
    /// A handle to open the stream with.
    pub fn sender(&self) -> Sender {
        self.connection.send.clone()
    }

    /// No further stream is opened on this connection.
    pub fn retire(&self) {
        self.connection.retired.set(true);
    }

    /// When the connection's TLS handshake began, if it was opened for this place.
    pub fn handshake(&self) -> Option<std::time::Instant> {
        self.handshake
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let active = self.connection.active.get() - 1;
        self.connection.active.set(active);
        if active == 0 {
            self.connection.last_used.set(Instant::now());
        }
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    address: SocketAddr,
    id: SpiffeId,
}

impl Key {
    fn of(workload: &WorkloadEntry) -> Option<Self> {
        Some(Self {
            address: workload.mesh_address()?,
            id: workload.id.clone(),
        })
    }
}

/// Why dialling failed last, and under which epochs.
struct DialFailure {
    tls_epoch: u64,
    trust_epoch: u64,
    error: Arc<str>,
}

#[derive(Default)]
struct Peer {
    connections: RefCell<Vec<Rc<Shared>>>,
    dialing: Cell<bool>,
    dialed: Notify,
    last_error: RefCell<Option<DialFailure>>,
    client: RefCell<Option<Client>>,
}

/// The connections of one worker.
pub struct Pool {
    peers: RefCell<HashMap<Key, Rc<Peer>>>,
    dialer: Dialer,
    reviews: Rc<Reviews>,
    snapshot: SharedSnapshot,
    resumptions: metrics::Counter,
    dialed_ahead: metrics::Counter,
    handshakes: [metrics::Counter; 2],
    observer: Rc<Observer>,
}

impl Pool {
    /// An empty pool that dials with `dialer`, puts its connections under review and tells `observer` of them.
    pub fn new(
        dialer: Dialer,
        reviews: Rc<Reviews>,
        snapshot: SharedSnapshot,
        observer: Rc<Observer>,
    ) -> Rc<Self> {
        Rc::new(Self {
            peers: RefCell::default(),
            dialer,
            reviews,
            snapshot,
            dialed_ahead: metrics::counter!("postern_mesh_dialed_ahead_total"),
            resumptions: crate::worker::metrics::resumptions(Direction::Outbound),
            handshakes: crate::worker::metrics::handshakes(Direction::Outbound),
            observer,
        })
    }

    /// A place on a connection that is ready now; the usual case, without waiting.
    pub fn ready(self: &Rc<Self>, workload: &WorkloadEntry, snapshot: &Snapshot) -> Option<Slot> {
        let tls = snapshot.tls.as_ref()?;
        let key = Key::of(workload)?;
        let peer = self.peers.borrow().get(&key).cloned()?;
        let slot = peer.least_used(tls.epoch)?;
        self.grow_if_busy(&slot, &peer, &key, snapshot);
        Some(slot)
    }

    /// A place for one stream to `workload`'s sidecar, on a pooled connection or a new one.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn slot(
        self: &Rc<Self>,
        workload: &WorkloadEntry,
        snapshot: &Snapshot,
    ) -> Result<Slot, ConnectError> {
        let key =
            Key::of(workload).ok_or_else(|| ConnectError::NoAddress(Arc::clone(&workload.uid)))?;
        let tls = snapshot.tls.as_ref().ok_or(ConnectError::NoIdentity)?;
        let peer = self.peer(&key);
        loop {
            if let Some(slot) = peer.least_used(tls.epoch) {
                self.grow_if_busy(&slot, &peer, &key, snapshot);
                return Ok(slot);
            }
            if !peer.dialing.get() {
                let shared = self.dial(&peer, &key, snapshot).await?;
                let mut slot = shared.slot();
                slot.handshake = Some(shared.handshake);
                return Ok(slot);
            }
            // Another request is dialling; share its outcome.
            peer.dialed.notified().await;
            if peer.least_used_exists(tls.epoch) {
                continue;
            }
            // What failed under other certificates, bundles or revocations may succeed under these.
            if let Some(failed) = peer.last_error.borrow().as_ref()
                && failed.tls_epoch == tls.epoch
                && failed.trust_epoch == snapshot.trust_epoch
            {
                return Err(ConnectError::Shared(Arc::clone(&failed.error)));
            }
        }
    }

    /// When a connection to `workload` was used last, were it one that takes no new streams any more.
    pub fn last_used(&self, workload: &WorkloadEntry) -> Option<Instant> {
        let key = Key::of(workload)?;
        let peers = self.peers.borrow();
        let connections = peers.get(&key)?.connections.borrow();
        let last = |c: &Rc<Shared>| match c.active.get() {
            0 => c.last_used.get(),
            _ => Instant::now(),
        };
        connections.iter().map(last).max()
    }

    /// Makes the first connection to `workload` before a request needs it. A failure is told to requests that came meanwhile.
    pub async fn dial_ahead(&self, workload: &WorkloadEntry, snapshot: &Snapshot) {
        let (Some(key), Some(tls)) = (Key::of(workload), &snapshot.tls) else {
            return;
        };
        let peer = self.peer(&key);
        if peer.dialing.get() || peer.least_used_exists(tls.epoch) {
            return;
        }
        match self.dial(&peer, &key, snapshot).await {
            Ok(_) => self.dialed_ahead.increment(1),
            Err(error) => tracing::debug!(peer = %key.id, %error, "not dialled ahead"),
        }
    }

    fn peer(&self, key: &Key) -> Rc<Peer> {
        let mut peers = self.peers.borrow_mut();
        match peers.get(key) {
            Some(peer) => Rc::clone(peer),
            None => Rc::clone(peers.entry(key.clone()).or_default()),
        }
    }

    /// Opens another connection to the peer of `slot` when that is the least used and yet has many streams, or bulk that
    /// what comes after it would have to wait for.
    fn grow_if_busy(self: &Rc<Self>, slot: &Slot, peer: &Rc<Peer>, key: &Key, snapshot: &Snapshot) {
        let Shared {
            active, tls_epoch, ..
        } = &*slot.connection;
        let busy = active.get() > GROW_AT || active.get() > 1 && slot.connection.carries_bulk();
        if busy && !peer.dialing.get() && peer.count(*tls_epoch) < MAX_CONNECTIONS {
            self.grow(peer, key, snapshot);
        }
    }

    fn grow(self: &Rc<Self>, peer: &Rc<Peer>, key: &Key, snapshot: &Snapshot) {
        let (pool, peer, key) = (Rc::clone(self), Rc::clone(peer), key.clone());
        let Ok(client) = peer.client(&key, snapshot) else {
            return;
        };
        peer.dialing.set(true);
        // Owned by the peer's `dialing` flag, bounded by the dial and handshake timeouts.
        tokio::task::spawn_local(async move {
            let guard = Dialing(&peer);
            match pool.connect(&key, &client).await {
                Ok(shared) => peer.connections.borrow_mut().push(shared),
                Err(error) => {
                    tracing::debug!(peer = %key.id, %error, "no further connection to peer");
                }
            }
            drop(guard);
        });
    }

    async fn dial(
        &self,
        peer: &Peer,
        key: &Key,
        snapshot: &Snapshot,
    ) -> Result<Rc<Shared>, ConnectError> {
        let client = peer.client(key, snapshot)?;
        peer.dialing.set(true);
        let guard = Dialing(peer);
        let result = self.connect(key, &client).await;
        match &result {
            Ok(shared) => {
                peer.connections.borrow_mut().push(Rc::clone(shared));
                peer.last_error.borrow_mut().take();
            }
            Err(error) => {
                *peer.last_error.borrow_mut() = Some(DialFailure {
                    tls_epoch: client.tls_epoch,
                    trust_epoch: client.trust_epoch,
                    error: error.to_string().into(),
                });
            }
        }
        drop(guard);
        result
    }

    async fn connect(&self, key: &Key, client: &Client) -> Result<Rc<Shared>, ConnectError> {
        let connected = self.open(key, client).await;
        match &connected {
            Err(ConnectError::Tls { .. }) => self.handshakes[1].increment(1),
            Ok(_) | Err(ConnectError::Http2 { .. }) => self.handshakes[0].increment(1),
            Err(_) => {}
        }
        connected
    }

    async fn shake_hands(
        &self,
        address: SocketAddr,
        client: &Client,
        tcp: TcpStream,
    ) -> Result<Proven, String> {
        let own_id = || self.snapshot.load().identity().map(SpiffeId::to_shared);
        let handshake = client.handshake(tcp, self.snapshot.load().clock_skew);
        tell_of_handshake(&self.observer, address, own_id, handshake).await
    }

    async fn open(&self, key: &Key, client: &Client) -> Result<Rc<Shared>, ConnectError> {
        let tcp = self.dialer.connect(key.address).await?;
        let fail = |error: String| ConnectError::Tls {
            address: key.address,
            expected: key.id.clone(),
            error,
        };
        let began = std::time::Instant::now();
        // Boxed: whoever waits for a connection is a task that is larger than its request needs.
        let handshake = Box::pin(self.shake_hands(key.address, client, tcp));
        let Proven {
            stream: mut tls,
            peer,
            resumed,
        } = handshake.await.map_err(fail)?;
        if resumed {
            self.resumptions.increment(1);
        }
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(fail("the peer does not speak h2 (ALPN)".into()));
        }
        let expiry = Expiry::of(&peer, client.own_not_after);
        let subject = PeerReview::new(
            tls.get_ref().1,
            peer,
            &client.trust.chains,
            Direction::Outbound,
        );
        let review = self
            .reviews
            .register(Box::new(subject), &self.snapshot.load());
        if let Some(reason) = review.verdict() {
            return Err(fail(reason.to_string()));
        }
        stream::take_frames_whole(tls.get_mut().1);
        let (tls, turn) = gather(tls);
        let (send, connection) =
            stream::client_builder()
                .handshake(tls)
                .await
                .map_err(|error| ConnectError::Http2 {
                    address: key.address,
                    error,
                })?;
        let shared = Rc::new(Shared {
            send: Sender::new(send),
            active: Cell::new(0),
            bulk: Cell::new(None),
            retired: Cell::new(false),
            tls_epoch: client.tls_epoch,
            last_used: Cell::new(Instant::now()),
            handshake: began,
        });
        // Ends when every sender is gone and the last stream has finished, with the connection, or when it has to.
        tokio::task::spawn_local(drive(
            connection,
            turn,
            Rc::downgrade(&shared),
            key.id.clone(),
            review,
            expiry,
        ));
        Ok(shared)
    }

    /// Retires what is outdated or idle and forgets what is closed. Of peers without a connection some are kept that a session
    /// can be resumed with.
    pub fn sweep(&self, now: Instant, snapshot: &Snapshot) {
        let tls_epoch = snapshot.tls.as_ref().map(|t| t.epoch);
        let mut kept = 0;
        let mut peers = self.peers.borrow_mut();
        peers.retain(|_, peer| {
            peer.connections.borrow_mut().retain(|c| {
                let idle =
                    c.active.get() == 0 && now.duration_since(c.last_used.get()) > IDLE_TIMEOUT;
                !(c.retired.get() || idle || Some(c.tls_epoch) != tls_epoch)
            });
            if !peer.connections.borrow().is_empty() || peer.dialing.get() {
                return true;
            }
            let resumable = |client: &Client| client.is_current(snapshot) && client.has_session();
            let keep = kept < MAX_RESUMABLE && peer.client.borrow().as_ref().is_some_and(resumable);
            kept += usize::from(keep);
            keep
        });
    }

    /// Connections held.
    pub fn len(&self) -> usize {
        self.peers
            .borrow()
            .values()
            .map(|p| p.connections.borrow().len())
            .sum()
    }

    /// True when no connection is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Dialing<'a>(&'a Peer);

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.dialed.notify_waiters();
    }
}

impl Peer {
    fn usable(&self, epoch: u64, f: impl FnMut(&&Rc<Shared>) -> bool) -> usize {
        self.connections
            .borrow()
            .iter()
            .filter(|c| !c.retired.get() && c.tls_epoch == epoch)
            .filter(f)
            .count()
    }

    fn count(&self, epoch: u64) -> usize {
        self.usable(epoch, |_| true)
    }

    fn least_used_exists(&self, epoch: u64) -> bool {
        self.count(epoch) > 0
    }

    fn least_used(&self, epoch: u64) -> Option<Slot> {
        let mut connections = self.connections.borrow_mut();
        if connections
            .iter()
            .any(|c| c.retired.get() || c.tls_epoch != epoch)
        {
            connections.retain(|c| !c.retired.get() && c.tls_epoch == epoch);
        }
        connections
            .iter()
            .min_by_key(|c| (c.active.get() >= GROW_AT, c.carries_bulk(), c.active.get()))
            .map(Shared::slot)
    }

    /// The TLS client for this peer.
    fn client(&self, key: &Key, snapshot: &Snapshot) -> Result<Client, ConnectError> {
        let own = snapshot.tls.as_ref().ok_or(ConnectError::NoIdentity)?;
        let mut held = self.client.borrow_mut();
        if let Some(client) = held.as_ref().filter(|held| held.is_current(snapshot)) {
            return Ok(client.clone());
        }
        let client =
            Client::new(&key.id, own, snapshot, MESH_ALPN).map_err(|error| ConnectError::Tls {
                address: key.address,
                expected: key.id.clone(),
                error: error.to_string(),
            })?;
        *held = Some(client.clone());
        Ok(client)
    }
}

impl Shared {
    /// True while a stream of it moves much.
    fn carries_bulk(&self) -> bool {
        let lasts = |at: Instant| at.elapsed() < BULK_LASTS;
        self.active.get() > 0 && self.bulk.get().is_some_and(lasts)
    }

    fn slot(self: &Rc<Self>) -> Slot {
        self.active.set(self.active.get() + 1);
        Slot {
            connection: Rc::clone(self),
            handshake: None,
        }
    }
}

async fn drive(
    connection: h2::client::Connection<Gather<TlsStream<HoldBack<TcpStream>>>, Piece>,
    turn: Turn<TlsStream<HoldBack<TcpStream>>>,
    shared: Weak<Shared>,
    peer: SpiffeId,
    review: Review,
    expiry: Expiry,
) {
    let retire = || {
        if let Some(shared) = shared.upgrade() {
            shared.retired.set(true);
        }
    };
    let mut connection = pin!(connection);
    let mut leave = pin!(tokio::time::sleep(expiry.drain));
    let mut cut = pin!(tokio::time::sleep(expiry.cut));
    let (mut leaving, mut ended) = (false, false);
    let result = poll_fn(|cx| {
        let polled = turn.poll(cx, |cx| connection.as_mut().poll(cx));
        if turn.carried_much()
            && let Some(shared) = shared.upgrade()
        {
            shared.bulk.set(Some(Instant::now()));
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(Some(result));
        }
        if !leaving && leave.as_mut().poll(cx).is_ready() {
            leaving = true;
            retire();
        }
        if !ended && review.poll(cx).is_ready() {
            ended = true;
            retire();
            cut.as_mut().reset(Instant::now() + CUT_AFTER);
        }
        cut.as_mut().poll(cx).map(|()| None)
    })
    .await;
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "connection to peer ended"),
        None => tracing::info!(%peer, "connection to peer cut"),
    }
    retire();
}
