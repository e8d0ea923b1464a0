//! Workers: single-threaded runtimes, each with its own listeners, pools, caches and counters.
//!
//! Nothing on the way of a request leaves its worker: no lock is shared, no task is woken on another thread. What
//! workers share is read-only ([`Settings`]) or swapped whole ([`crate::snapshot::Snapshot`]), but for the number of
//! connections that each serves, by which a new one may be passed on ([`crew`]).

pub mod accepted;
mod accepting;
pub mod crew;
pub mod dial;
pub mod drain;
pub mod expiry;
pub mod hold_back;
mod listener;
pub mod metrics;
pub mod peer_review;
pub mod places;
pub mod prefixed;
pub mod probe;
pub mod progress;
pub mod rechecks;
pub mod review;
pub mod turns;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use mesh_http1::Limits;
use mesh_trace::Tracer;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::key_requests::KeyRequests;
use crate::ledger::{Ledger, Notebook};
use crate::lookups::Lookups;
use crate::pool::balance::Balancer;
use crate::pool::{app, clear, direct, mesh, warm};
use crate::snapshot::{SharedSnapshot, Snapshot};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::observe::Observer;
use crate::telemetry::watch::Watch;
use crate::{inbound, outbound};
use accepting::Accepting;
use crew::Desk;
use dial::Dialer;
use drain::Drain;
use listener::Listener;
use metrics::Counters;
use review::Reviews;

/// Period of housekeeping: idle connections, forgotten endpoints.
const SWEEP: Duration = Duration::from_secs(5);

/// Whether traffic is redirected to the sidecar or sent to it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Destinations come from the redirected connection.
    Capture,
    /// Destinations come from `Host` or from the listener.
    Explicit,
}

/// What happens to connections that leave the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Passed through as they are.
    Allow,
    /// The same, and also what may be a connection within the mesh, while the control API cannot say.
    AllowUnresolved,
    /// Refused.
    Refuse,
}

/// An explicit listener for one service port.
#[derive(Debug, Clone)]
pub struct TcpService {
    /// Host of the service.
    pub host: String,
    /// Port of the service.
    pub port: u16,
}

/// What every worker is told at start and never changes.
#[derive(Debug)]
pub struct Settings {
    /// Capture or explicit.
    pub mode: Mode,
    /// Policy on destinations outside the mesh.
    pub egress: Egress,
    /// Where application ports are served, if elsewhere than at the workload's own address.
    pub apps: HashMap<u16, SocketAddr>,
    /// Application port that explicit plaintext on the inbound listener is for.
    pub inbound_port: Option<u16>,
    /// The sidecar's own ports, which are never a destination.
    pub internal_ports: Vec<u16>,
    /// How connections are opened.
    pub dialer: Dialer,
    /// How long draining may take.
    pub drain_timeout: Duration,
    /// HTTP/1.1 limits.
    pub limits: Limits,
    /// Answers the capture self-check.
    pub probe: Arc<probe::Probe>,
    /// Takes the names of key sets that have to be fetched again.
    pub key_requests: Arc<KeyRequests>,
    /// Takes questions about destinations that the snapshot does not know.
    pub lookups: Arc<Lookups>,
    /// Certificates that peers presented.
    pub recent: Arc<inbound::token::Recent>,
    /// What is asked about opaque tokens.
    pub questions: Arc<inbound::introspect::Questions>,
}

/// The listening sockets of one worker.
#[derive(Debug)]
pub struct Listeners {
    /// Outbound: captured traffic, or HTTP by host.
    pub outbound: std::net::TcpListener,
    /// Inbound plaintext and captured TLS.
    pub inbound: std::net::TcpListener,
    /// mTLS from peers.
    pub mesh: std::net::TcpListener,
    /// Explicit listeners for opaque services.
    pub tcp_services: Vec<(TcpService, std::net::TcpListener)>,
    /// What each of them, in this order, knows of the same one of other workers.
    pub desks: Vec<Desk>,
}

/// One worker's world.
pub struct Worker {
    /// What it was told at start.
    pub settings: Arc<Settings>,
    snapshot: SharedSnapshot,
    /// Connections to peers.
    pub mesh: Rc<mesh::Pool>,
    /// TLS clients for opaque connections to workloads without a sidecar.
    pub direct: direct::Clients,
    /// HTTP/1.1 connections to the application.
    pub apps: Rc<app::Pool>,
    /// HTTP/2 connections to the application.
    pub clear: Rc<clear::Pool>,
    /// Choice of endpoints.
    pub balancer: Balancer,
    /// Services that get connections ahead.
    pub in_use: warm::InUse,
    /// Destinations that the snapshot does not know.
    pub unknown: outbound::unknown::Unknown,
    /// Protocols learned per destination.
    pub learned: outbound::detect::Learned,
    /// Credentials that come again.
    pub repeated: crate::http::carried::Repeated,
    /// Drain state.
    pub drain: Rc<Drain>,
    /// Turns of handshakes that peers begin.
    pub turns: turns::Turns,
    /// What is open and reviewed when the snapshot changes.
    pub reviews: Rc<Reviews>,
    /// Tokens that were verified.
    pub tokens: inbound::token::Tokens,
    /// Counters.
    pub counters: Counters,
    /// What is told of every request and connection.
    pub observer: Rc<Observer>,
    /// What is reported to the control API.
    pub notebook: Notebook,
    decisions: Cell<u64>,
}

impl Worker {
    /// The snapshot in force. Load it once per request.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// A fresh decision id: unique in this process, unpredictable across processes.
    pub fn decision_id(&self) -> u64 {
        let id = self.decisions.get();
        self.decisions.set(id.wrapping_add(1));
        id
    }

    /// Where the application port `port` is served; `own` is the address at which this workload was reached.
    pub fn app_address(&self, port: u16, own: IpAddr) -> SocketAddr {
        if let Some(address) = self.settings.apps.get(&port) {
            return *address;
        }
        match self.settings.mode {
            Mode::Capture => SocketAddr::new(own, port),
            Mode::Explicit => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        }
    }

    /// True for the sidecar's own ports, which no traffic may be sent to.
    pub fn is_internal(&self, port: u16) -> bool {
        self.settings.internal_ports.contains(&port)
    }
}

/// How a worker hears of snapshots and tells what it has enforced.
#[derive(Debug)]
pub struct Epochs {
    /// Epochs of the snapshots put in force.
    pub published: watch::Receiver<u64>,
    /// Told the newest epoch under which nothing forbidden is open any more.
    pub enforced: watch::Sender<u64>,
    /// Told when the connections are there that were wanted at the start.
    pub warm: watch::Sender<bool>,
}

/// What a worker tells, and to whom.
#[derive(Debug)]
pub struct Telling {
    /// Where it counts; `None`: it does not.
    pub metrics: Option<Metrics>,
    /// Makes its spans.
    pub tracer: Tracer,
    /// Takes its lines.
    pub access_log: Option<AccessLog>,
    /// What the control API is told of.
    pub ledger: Arc<Ledger>,
}

/// Runs one worker on the calling thread until `shutdown` is cancelled and its connections have drained.
///
/// # Errors
/// The runtime or a listener cannot be set up.
pub fn run(
    settings: Arc<Settings>,
    snapshot: SharedSnapshot,
    epochs: Epochs,
    listeners: Listeners,
    telling: Telling,
    shutdown: &CancellationToken,
    seed: u64,
) -> io::Result<()> {
    // Before anything resolves a handle: what this thread counts is its own.
    let recorder = telling.metrics.as_ref().map(Metrics::worker_recorder);
    let _installed = match &recorder {
        Some(recorder) => ::metrics::set_default_local_recorder(recorder),
        None => ::metrics::set_default_local_recorder(&::metrics::NoopRecorder),
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(31)
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let reviews = Reviews::new(epochs.enforced);
        let observer = Rc::new(Observer::new(
            telling.tracer,
            telling.access_log,
            Watch::new(&telling.ledger),
            recorder.as_ref(),
        ));
        let worker = Rc::new(Worker {
            mesh: mesh::Pool::new(
                settings.dialer,
                Rc::clone(&reviews),
                snapshot.clone(),
                Rc::clone(&observer),
            ),
            direct: direct::Clients::default(),
            apps: app::Pool::new(settings.dialer),
            clear: clear::Pool::new(settings.dialer),
            balancer: Balancer::new(seed),
            in_use: warm::InUse::default(),
            unknown: outbound::unknown::Unknown::new(Arc::clone(&settings.lookups)),
            learned: outbound::detect::Learned::default(),
            repeated: crate::http::carried::Repeated::default(),
            drain: Drain::new(),
            turns: turns::Turns::default(),
            reviews,
            tokens: inbound::token::Tokens::new(
                secret()?,
                Arc::clone(&settings.key_requests),
                Arc::clone(&settings.recent),
                Arc::clone(&settings.questions),
                settings.dialer,
                snapshot.clone(),
            ),
            counters: Counters::new(),
            observer,
            notebook: Notebook::new(telling.ledger),
            decisions: Cell::new(seed.rotate_left(17)),
            settings,
            snapshot,
        });
        serve(
            &worker,
            listeners,
            (epochs.published, epochs.warm),
            shutdown,
        )
        .await
    })
}

/// Bytes that nobody can foresee.
///
/// # Errors
/// When the system has none.
pub fn secret() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(bytes)
}

async fn serve(
    worker: &Rc<Worker>,
    listeners: Listeners,
    (epochs, warm): (watch::Receiver<u64>, watch::Sender<bool>),
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut loops = tokio::task::JoinSet::new();
    // End by themselves: what others have passed on by then is served.
    let mut inboxes = tokio::task::JoinSet::new();
    let mut desks = listeners.desks.into_iter();
    let mut desk = || desks.next().ok_or(io::ErrorKind::InvalidInput);
    let mut open = Accepting {
        worker,
        listeners: &mut loops,
        inboxes: &mut inboxes,
        shutdown,
    };
    let outbound = Listener::register(listeners.outbound)?;
    open.begin(
        desk()?,
        async move || outbound.accept().await,
        |worker, stream, live| async move {
            outbound::accept(&worker, stream, &live).await;
        },
    );
    let inbound = Listener::register(listeners.inbound)?;
    open.begin(
        desk()?,
        async move || inbound.accept_from().await,
        |worker, accepted, live| async move {
            inbound::plain::accept(&worker, accepted, &live).await;
        },
    );
    let mesh = Listener::register(listeners.mesh)?;
    mesh.acknowledge_with_answers();
    open.begin(
        desk()?,
        async move || mesh.accept_from().await,
        |worker, accepted, live| async move {
            inbound::mesh::accept(&worker, accepted, &live).await;
        },
    );
    for (service, listener) in listeners.tcp_services {
        let service = Rc::new(service);
        let listener = Listener::register(listener)?;
        open.begin(
            desk()?,
            async move || listener.accept().await,
            move |worker, stream, live| {
                let service = Rc::clone(&service);
                async move { outbound::accept_service(&worker, stream, &live, &service).await }
            },
        );
    }
    loops.spawn_local(sweep(Rc::clone(worker)));
    let (warming, mut heard) = (Rc::clone(worker), epochs.clone());
    loops.spawn_local(async move {
        warm::begin(&warming, &mut heard).await;
        warm.send_replace(true);
        warm::follow(warming, heard).await;
    });
    // Goes on while connections drain: what is revoked then is not left to the drain deadline.
    let mut review = tokio::task::JoinSet::new();
    let (watching, changes) = (Rc::clone(worker), epochs.clone());
    let reviewed = Rc::clone(worker);
    review.spawn_local(async move { reviewed.reviews.follow(&reviewed.snapshot, epochs).await });
    let turning = Rc::clone(worker);
    review.spawn_local(async move { turning.turns.keep().await });
    let noting = Rc::clone(worker);
    loops.spawn_local(async move { noting.notebook.keep_handing_over().await });
    let telling = Rc::clone(worker);
    loops.spawn_local(async move { telling.observer.keep_flushing().await });
    review.spawn_local(async move {
        let watch = &watching.observer.watch;
        watch.follow(&watching.snapshot, changes).await;
    });

    shutdown.cancelled().await;
    // New connections are refused by closing the listeners; the others end at their next message boundary.
    loops.shutdown().await;
    while inboxes.join_next().await.is_some() {}
    worker.drain.begin();
    let drained =
        tokio::time::timeout(worker.settings.drain_timeout, worker.drain.finished()).await;
    if drained.is_err() {
        tracing::warn!(
            connections = worker.drain.live(),
            "drain deadline reached: remaining connections are cut"
        );
    }
    Ok(())
}

async fn sweep(worker: Rc<Worker>) {
    let sizes = metrics::Sizes::new();
    let mut period = tokio::time::interval(SWEEP);
    loop {
        period.tick().await;
        let now = Instant::now();
        let snapshot = worker.snapshot();
        worker.mesh.sweep(now, &snapshot);
        worker.direct.sweep(now, &snapshot);
        worker.apps.sweep(now);
        worker.clear.sweep(now);
        worker
            .balancer
            .retain(|uid| snapshot.directory.workload(uid).is_some());
        worker.learned.sweep(now);
        sizes.tell(&worker);
    }
}
