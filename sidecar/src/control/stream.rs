//! The discovery stream: sockets and timers around [`Client`].
//!
//! Owns the order of things that makes an acknowledgement true: decode, build, put in force, then answer. Until every
//! kind of resource was answered once, snapshots are published without mesh defaults, which denies everything: half a
//! policy set must never decide. A sidecar that read its last good state opens that gate when the control API is away.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use mesh_auth::tls::Identity;
use mesh_proto::ResourceType;
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::answers::Waiters;
use super::backoff::{Backoff, Limits};
use super::clock::Clock;
use super::connect::{Target, status_text};
use super::enforcement::Enforcement;
use super::publisher::Publisher;
use super::status::{ControlStatus, Stream};
use super::xds::Client;
use crate::admin::Readiness;
use crate::lookups::Lookups;
use crate::snapshot::{Resources, Snapshot};

/// Waits between streams.
const RECONNECT: Limits = Limits {
    base: Duration::from_millis(10),
    cap: Duration::from_secs(15),
};
/// A stream that lived this long was a success: the next failure is answered quickly again.
const STABLE: Duration = Duration::from_secs(15);
/// How long the start waits for the control API before it goes on with the last good state.
const LAST_GOOD_AFTER: Duration = Duration::from_secs(3);
/// A new stream must answer every subscription within this.
const FIRST_ANSWERS: Duration = Duration::from_secs(30);
/// How long the server may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest response.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Answers on their way out.
const QUEUE: usize = 32;
/// Requests that ask for other names than before: one for each type that is asked for by name.
const MOST_SUBSCRIPTIONS: usize = 2;

/// Why a stream ended.
enum End {
    /// There is another certificate: the next stream shows it.
    NewIdentity,
    /// More is held than it was opened with.
    Outgrown,
    /// It failed.
    Lost(String),
}

/// What to answer, and when.
struct Reply {
    request: DeltaDiscoveryRequest,
    delay: Duration,
    /// An acknowledgement of what forbids says that nothing forbidden is open any more: it waits until the workers have
    /// enforced this epoch.
    enforce: Option<u64>,
}

/// Whether something open may have to end when resources of this kind change.
fn forbids(kind: ResourceType) -> bool {
    match kind {
        ResourceType::MeshDefaults
        | ResourceType::Revocation
        | ResourceType::PeerAuthentication
        | ResourceType::RequestAuthentication
        | ResourceType::AuthorizationPolicy => true,
        ResourceType::TrustBundle
        | ResourceType::KeySet
        | ResourceType::LatencyBudget
        | ResourceType::Service
        | ResourceType::Workload => false,
    }
}

/// Owner of the stream.
pub struct Discovery {
    target: Target,
    client: Mutex<Client>,
    gate: Mutex<Gate>,
    pub(super) publisher: Arc<Publisher>,
    status: Arc<ControlStatus>,
    readiness: Arc<Readiness>,
    clock: Arc<dyn Clock>,
    channels: watch::Sender<Option<Channel>>,
    /// Told after every change of what is held, once it is complete.
    pub(super) changed: Notify,
    /// Told when there is something to subscribe to, or not any more.
    pub(super) demanded: Notify,
    pub(super) waiters: Waiters,
    /// Told when more is held than the stream that is open was opened with.
    reopen: Notify,
    /// Whether the stream that is open, if one is, has said what there is of what is looked up.
    pub(super) contact: watch::Sender<bool>,
    /// What use is told by: no clock that somebody may set.
    started: Instant,
}

/// Whether policies decide yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Nothing to go by: deny.
    Closed,
    /// As [`Self::Closed`], but a last good state, written at that time, could be used.
    LastGood(i64),
    /// Complete, or what was complete last.
    Open,
}

/// The parts that [`Discovery`] works with.
pub struct Parts {
    /// The control API.
    pub target: Target,
    /// What is held; may come from an earlier process, then written at `restored`.
    pub client: Client,
    /// When the state that `client` was restored from was written, Unix seconds.
    pub restored: Option<i64>,
    /// Puts snapshots in force.
    pub publisher: Arc<Publisher>,
    /// Told what happens.
    pub status: Arc<ControlStatus>,
    /// Told about the snapshot.
    pub readiness: Arc<Readiness>,
    /// For moments that people read.
    pub clock: Arc<dyn Clock>,
    /// Told the connection of each stream, which others may use as long as it lives.
    pub channels: watch::Sender<Option<Channel>>,
}

impl Discovery {
    /// Not started yet.
    pub fn new(parts: Parts) -> Self {
        parts.publisher.trust(parts.client.resources());
        Self {
            target: parts.target,
            client: Mutex::new(parts.client),
            gate: Mutex::new(parts.restored.map_or(Gate::Closed, Gate::LastGood)),
            publisher: parts.publisher,
            status: parts.status,
            readiness: parts.readiness,
            clock: parts.clock,
            channels: parts.channels,
            changed: Notify::new(),
            demanded: Notify::new(),
            reopen: Notify::new(),
            started: Instant::now(),
            waiters: Waiters::default(),
            contact: watch::Sender::new(false),
        }
    }

    /// Seconds since the start.
    pub(super) fn age(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX)
    }

    /// What is held.
    pub fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves after what is held has changed and is complete.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Follows the control API for ever, with whatever identity is current, and answers what workers want to know of it.
    pub async fn follow(
        &self,
        mut identities: watch::Receiver<Option<Arc<Identity>>>,
        mut enforcement: Enforcement,
        lookups: &Lookups,
    ) {
        tokio::join!(
            self.stream_for_ever(&mut identities, &mut enforcement),
            self.fall_back_in_time(),
            self.answer_for_ever(lookups),
            self.doubt_in_time(),
        );
    }

    /// Goes on with the last good state if the control API has not brought a complete one soon after the start.
    async fn fall_back_in_time(&self) {
        tokio::time::sleep(LAST_GOOD_AFTER).await;
        self.fall_back();
    }

    async fn stream_for_ever(
        &self,
        identities: &mut watch::Receiver<Option<Arc<Identity>>>,
        enforcement: &mut Enforcement,
    ) {
        let mut backoff = Backoff::new(RECONNECT);
        loop {
            let identity = identities.borrow_and_update().clone();
            let Some(identity) = identity else {
                self.status
                    .update(|view| view.stream = Stream::WaitingForCertificate);
                if identities.changed().await.is_err() {
                    return pending().await;
                }
                continue;
            };
            let opened = Instant::now();
            let end = self.stream(&identity, identities, enforcement).await;
            self.channels.send_replace(None);
            if opened.elapsed() >= STABLE {
                backoff.reset();
            }
            match end {
                End::NewIdentity => {
                    tracing::debug!("reopening the control stream with the current certificate");
                }
                End::Outgrown => {
                    tracing::debug!("reopening the control stream with what is held by now");
                }
                End::Lost(reason) => {
                    let delay = backoff.failed();
                    self.lost(&reason, delay);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        _ = identities.changed() => {}
                    }
                }
            }
        }
    }

    fn lost(&self, reason: &str, delay: Duration) {
        let now = self.clock.now();
        self.contact.send_replace(false);
        metrics::gauge!("postern_control_connected").set(0.0);
        metrics::counter!("postern_control_stream_failures_total").increment(1);
        tracing::warn!(
            reason,
            retry_in_ms = delay.as_millis(),
            "the control stream is down"
        );
        self.status.update(|view| {
            view.stream = Stream::Unreachable;
            view.unreachable_since.get_or_insert(now);
            view.stream_error = Some(reason.to_owned());
        });
        self.fall_back();
        self.report_snapshot();
    }

    /// One stream, from opening to its end.
    async fn stream(
        &self,
        identity: &Identity,
        identities: &mut watch::Receiver<Option<Arc<Identity>>>,
        enforcement: &mut Enforcement,
    ) -> End {
        self.status.update(|view| {
            if view.stream == Stream::WaitingForCertificate {
                view.stream = Stream::Connecting;
            }
        });
        let roots = match self.publisher.roots() {
            Ok(roots) => roots,
            Err(reason) => return End::Lost(reason),
        };
        let channel = match self.target.connect(Some(identity), roots).await {
            Ok(channel) => channel,
            Err(error) => return End::Lost(error.to_string()),
        };
        self.channels.send_replace(Some(channel.clone()));
        let (requests, outgoing) = mpsc::channel(QUEUE);
        // What came to be held before is claimed now.
        let _ = self.reopen.notified().now_or_never();
        for request in self.client().open() {
            // One for each type: they fit into an empty queue.
            let _ = requests.try_send(request);
        }
        let mut service =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opening = service.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let mut incoming = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return End::Lost(status_text(&status)),
            Err(_) => return End::Lost(format!("no answer within {OPEN_TIMEOUT:?}")),
        };
        let complete_by = Instant::now() + FIRST_ANSWERS;
        let mut delayed: Vec<(Instant, DeltaDiscoveryRequest)> = Vec::new();
        let mut demanded = false;
        // At most one of a type is unanswered.
        let mut enforcing: Vec<(u64, Instant, DeltaDiscoveryRequest)> = Vec::new();
        loop {
            let incomplete = !self.client().missing().is_empty();
            let next_due = delayed.iter().map(|(at, _)| *at).min();
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(response)) => {
                        let received = Instant::now();
                        let Reply { request, delay, enforce } = self.apply(response);
                        took("applied", received);
                        if let Some(epoch) = enforce.filter(|epoch| enforcement.epoch() < *epoch) {
                            enforcing.push((epoch, received, request));
                        } else if !delay.is_zero() {
                            delayed.push((Instant::now() + delay, request));
                        } else if requests.send(request).await.is_err() {
                            return End::Lost("the control API closed the stream".into());
                        }
                    }
                    Ok(None) => return End::Lost("the control API closed the stream".into()),
                    Err(status) => return End::Lost(status_text(&status)),
                },
                () = self.demanded.notified(), if !demanded => demanded = true,
                () = self.reopen.notified() => return End::Outgrown,
                // Only where there is room: a server that reads nothing until it is read must not be waited for.
                room = requests.reserve_many(MOST_SUBSCRIPTIONS), if demanded => {
                    let Ok(room) = room else {
                        return End::Lost("the control API closed the stream".into());
                    };
                    demanded = false;
                    let subscriptions = self.client().subscriptions();
                    room.zip(subscriptions).for_each(|(place, request)| place.send(request));
                }
                () = enforcement.changed(), if !enforcing.is_empty() => {
                    let enforced = enforcement.epoch();
                    for (_, received, request) in enforcing.extract_if(.., |(epoch, ..)| *epoch <= enforced) {
                        took("enforced", received);
                        if requests.try_send(request).is_err() {
                            return End::Lost("the control API reads no answers".into());
                        }
                    }
                }
                () = sleep_until(next_due.unwrap_or(complete_by)), if next_due.is_some() => {
                    for (_, request) in delayed.extract_if(.., |(at, _)| *at <= Instant::now()) {
                        if requests.try_send(request).is_err() {
                            return End::Lost("the control API reads no answers".into());
                        }
                    }
                }
                () = sleep_until(complete_by), if incomplete || !*self.contact.borrow() => {
                    if !incomplete {
                        // It has nothing newer of what is looked up.
                        self.heard();
                    } else if let Err(missing) = self.take_silence_for_consent() {
                        return End::Lost(format!("no answer for {missing} within {FIRST_ANSWERS:?}"));
                    }
                }
                changed = identities.changed() => match changed {
                    Ok(()) => return End::NewIdentity,
                    // Nobody will ever bring another one; this one goes on.
                    Err(_) => return End::Lost("shutting down".into()),
                },
            }
        }
    }

    /// Applies one response and says what to answer, and when.
    fn apply(&self, response: DeltaDiscoveryResponse) -> Reply {
        let forbids = ResourceType::from_type_url(&response.type_url).is_some_and(forbids);
        let now = self.clock.now();
        let open = self.is_open();
        let mut client = self.client();
        let (answer, snapshot) = client.receive(response, |resources| self.build(resources, open));
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        self.answer_settled(&mut client);
        self.publisher.trust(client.resources());
        let missing = client.missing();
        let rejections = client.rejections();
        let revision = client.resources().revision;
        let is_told = client.is_told();
        drop(client);
        if missing.is_empty() && !open {
            self.open_gate("complete");
        }
        for rejection in &answer.rejected {
            metrics::counter!("postern_resource_rejections_total", "kind" => rejection.kind)
                .increment(1);
            tracing::warn!(
                kind = rejection.kind,
                name = rejection.name,
                version = rejection.version,
                reason = rejection.reason,
                "resource rejected; what was in force stays"
            );
        }
        if is_told {
            self.heard();
        }
        metrics::gauge!("postern_control_connected").set(1.0);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_control_last_contact_timestamp_seconds").set(now as f64);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_resources_rejected").set(rejections.len() as f64);
        self.status.update(|view| {
            view.stream = Stream::Connected;
            view.unreachable_since = None;
            view.last_contact = Some(now);
            view.held_revision = revision;
            view.rejected = rejections;
            if missing.is_empty() {
                view.serving_state_of = None;
            }
            view.waiting_for = missing;
        });
        if answer.changed {
            self.changed.notify_one();
        }
        self.report_snapshot();
        Reply {
            request: answer.request,
            delay: answer.delay,
            enforce: (forbids && answer.delay.is_zero()).then(|| self.publisher.epoch()),
        }
    }

    /// A server that answers pings and claims of versions with silence has nothing newer. Without a state whose versions
    /// were claimed there is nothing to consent to: names what is missing.
    fn take_silence_for_consent(&self) -> Result<(), String> {
        let mut client = self.client();
        if *self.gate() != Gate::Open {
            return Err(client.missing().join(", "));
        }
        let snapshot = client.assume_current(|resources| self.build(resources, true));
        drop(client);
        if let Some(snapshot) = snapshot {
            self.publisher.store(snapshot);
        }
        self.heard();
        let now = self.clock.now();
        self.status.update(|view| {
            view.stream = Stream::Connected;
            view.unreachable_since = None;
            view.last_contact = Some(now);
            view.serving_state_of = None;
            view.waiting_for.clear();
        });
        self.changed.notify_one();
        Ok(())
    }

    fn heard(&self) {
        self.contact
            .send_if_modified(|is_there| !std::mem::replace(is_there, true));
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        *self.gate() == Gate::Open
    }

    /// The snapshot of `resources`; while the gate is closed, one that denies, but only if the real one would do.
    pub(super) fn build(&self, resources: &Arc<Resources>, open: bool) -> Result<Snapshot, String> {
        let snapshot = self.publisher.build(resources).map_err(|e| e.to_string())?;
        if open || resources.defaults.is_none() {
            return Ok(snapshot);
        }
        let closed = Resources {
            defaults: None,
            ..(**resources).clone()
        };
        self.publisher
            .build(&Arc::new(closed))
            .map_err(|e| e.to_string())
    }

    /// Lets the policies held decide from now on.
    fn open_gate(&self, why: &str) {
        let resources = Arc::clone(self.client().resources());
        match self.build(&resources, true) {
            Ok(snapshot) => {
                tracing::info!(
                    why,
                    revision = resources.revision,
                    epoch = snapshot.epoch,
                    "policies are in force"
                );
                self.publisher.store(snapshot);
                *self.gate() = Gate::Open;
                self.answer_known();
                self.demanded.notify_one();
                self.changed.notify_one();
            }
            Err(error) => tracing::error!(
                error,
                "the resources held make no snapshot; everything stays refused"
            ),
        }
    }

    /// Goes on with the last good state, if there is one and nothing better.
    fn fall_back(&self) {
        let gate = *self.gate();
        if let Gate::LastGood(written_at) = gate {
            if self.client().believe_restored(self.age()) {
                self.reopen.notify_one();
            }
            self.open_gate("control API away, last good state");
            self.status
                .update(|view| view.serving_state_of = Some(written_at));
            self.report_snapshot();
        }
    }

    /// Tells whether there is a snapshot that may decide.
    pub fn report_snapshot(&self) {
        let state = if *self.gate() == Gate::Open {
            Ok(())
        } else {
            let missing = self.client().missing().join(", ");
            let error = self.status.view().stream_error;
            let why = error.map_or_else(String::new, |e| format!(" ({e})"));
            Err(format!("waiting for the control API: {missing}{why}"))
        };
        self.readiness.set("snapshot", state);
    }

    /// True once what is held may be written down: a part of it must never be what the next process starts from.
    pub fn is_complete(&self) -> bool {
        *self.gate() == Gate::Open && self.client().missing().is_empty()
    }
}
/// Tells how long an update took to get to a stage.
fn took(stage: &'static str, since: Instant) {
    metrics::describe_histogram!(
        "postern_update_duration_seconds",
        "Time from an update's arrival until it is in force (applied), and until nothing is open any more that it forbids (enforced)."
    );
    metrics::histogram!("postern_update_duration_seconds", "stage" => stage)
        .record(since.elapsed().as_secs_f64());
}
