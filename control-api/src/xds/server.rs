//! The aggregated discovery service: a stream around each [`State`].
//!
//! A stream belongs to the workload named in `node.id` only as long as the connection's certificate is valid and its
//! identity is the one that the workload is registered with; both are looked at again with every new world.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_auth::svid::VerifiedPeer;
use mesh_proto::ResourceType;
use mesh_proto::admin::{Nack, SidecarStatus};
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::envoy::config::core::v3::node::UserAgentVersionType;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::state::State;
use crate::ca::hex;
use crate::clock::Clock;
use crate::listener::{self, Caller};
use crate::metrics::Metrics;
use crate::registry::{Registered, World};
use crate::status::{Tracker, Trusting};

/// Responses between us and the transport: each is bounded, and there is at most one per type.
const BUFFER: usize = 1;
/// How long a revoked sidecar is given to enforce what revokes it.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long the first request is waited for.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Longest text of a client that is shown to people.
const MAX_LABEL: usize = 128;

/// What the service works with.
pub struct Parts {
    /// What there is to send.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Told what clients hold.
    pub tracker: Arc<Tracker>,
    /// Told what happens.
    pub metrics: Arc<Metrics>,
    /// For certificates' ends and moments that people read.
    pub clock: Clock,
    /// Ends every stream.
    pub stop: CancellationToken,
    /// Owns the streams' tasks.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Discovery {
    parts: Arc<Parts>,
    streams: AtomicU64,
}

impl Discovery {
    /// A service that sends what its parts' worlds hold.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            streams: AtomicU64::new(1),
        }
    }
}

type Responses =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = Caller::of(&request);
        let peer = caller.current_peer(&self.parts.clock)?.cloned().ok_or_else(|| {
            Status::unauthenticated(
                "discovery needs the workload's certificate (X.509-SVID) as TLS client certificate",
            )
        })?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let stream = Stream {
            number: self.streams.fetch_add(1, Ordering::Relaxed),
            parts: Arc::clone(&self.parts),
            peer,
            address: caller.address,
            sender,
        };
        let requests = request.into_inner();
        // Ends when the requests end, when the transport drops the receiver, or when told to stop.
        self.parts.tasks.spawn(stream.run(requests));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
struct Stream {
    number: u64,
    parts: Arc<Parts>,
    peer: VerifiedPeer,
    address: String,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    async fn run(self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let (parts, work) = (&self.parts, self.follow(&mut requests));
        let ended =
            listener::within_bounds(&self.peer, &parts.clock, &parts.stop, &self.sender, work)
                .await;
        if let Err(status) = ended {
            tracing::info!(peer = %self.peer.id(), address = self.address, code = ?status.code(), reason = status.message(), "discovery stream ended");
            // The transport may be gone or stuck: nobody waits for it.
            let _ = self.sender.try_send(Err(status));
        }
    }

    async fn follow(&self, requests: &mut Streaming<DeltaDiscoveryRequest>) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no request came on the stream"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first request"))?;
        let node = first
            .node
            .clone()
            .ok_or_else(|| Status::invalid_argument("node: must be set in the first request"))?;
        let workload = self.admit(&self.parts.worlds.borrow(), &node.id)?;
        let _open = Open::new(self, &workload, &node);
        tracing::info!(
            workload = workload.uid,
            address = self.address,
            "discovery stream opened"
        );
        self.drive(first, requests, workload).await
    }

    fn admit(&self, world: &World, node: &str) -> Result<Arc<Registered>, Status> {
        world.refuse_revoked(&self.peer, self.parts.clock.seconds())?;
        self.authorize(world, node)
    }

    /// The workload that `node` names, if this peer is it.
    fn authorize(&self, world: &World, node: &str) -> Result<Arc<Registered>, Status> {
        let id = self.peer.id();
        // One answer for "unknown" and for "not yours": who may not know learns nothing.
        let workload = world.workload(node).filter(|w| w.id == *id);
        workload.cloned().ok_or_else(|| {
            let node: String = node.chars().take(MAX_LABEL).collect();
            Status::permission_denied(format!(
                "node.id: no workload '{}' is registered with identity '{id}'",
                node.escape_default()
            ))
        })
    }

    async fn drive(
        &self,
        first: DeltaDiscoveryRequest,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        workload: Arc<Registered>,
    ) -> Result<(), Status> {
        let uid = workload.uid.clone();
        let mut worlds = self.parts.worlds.clone();
        let mut state = State::new(workload);
        self.take(&mut state, &first, &uid)?;
        loop {
            let world = Arc::clone(&worlds.borrow_and_update());
            if let Err(refused) = world.refuse_revoked(&self.peer, self.parts.clock.seconds()) {
                let told = self.tell_revocations(&mut state, &world, requests, &uid);
                let _ = tokio::time::timeout(LAST_WORD, told).await;
                return Err(refused);
            }
            state.set_workload(self.authorize(&world, &uid)?);
            for response in state.responses(&world) {
                if self.sender.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            self.report(&state, &uid);
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.take(&mut state, &request, &uid)?,
                    None => return Ok(()),
                },
                changed = worlds.changed() => if changed.is_err() {
                    return Err(Status::unavailable("the control API is stopping; connect again"));
                },
            }
        }
    }

    /// The last that a revoked sidecar hears is what is revoked: two of them must not go on talking to each other.
    async fn tell_revocations(
        &self,
        state: &mut State,
        world: &World,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        uid: &str,
    ) -> Result<(), Status> {
        loop {
            if let Some(response) = state.responses_of(ResourceType::Revocation, world)
                && self.sender.send(Ok(response)).await.is_err()
            {
                return Ok(());
            }
            self.report(state, uid);
            if state.enforced_revision() >= world.revision {
                return Ok(());
            }
            match requests.message().await? {
                Some(request) => self.take(state, &request, uid)?,
                None => return Ok(()),
            }
        }
    }

    fn take(
        &self,
        state: &mut State,
        request: &DeltaDiscoveryRequest,
        uid: &str,
    ) -> Result<(), Status> {
        let rejected = state
            .request(request, self.parts.clock.seconds())
            .map_err(|e| Status::resource_exhausted(e.to_string()))?;
        if rejected > 0 {
            self.parts.metrics.nacks.add(rejected as u64);
            tracing::warn!(
                workload = uid,
                type_url = request.type_url,
                rejected,
                "a sidecar rejected resources"
            );
        }
        Ok(())
    }

    fn report(&self, state: &State, uid: &str) {
        let domain = self.peer.id().trust_domain();
        let trusting = Trusting {
            bundle_revision: state.acknowledged(ResourceType::TrustBundle, domain),
            serial: hex(self.peer.serial()),
        };
        self.parts.tracker.trusts(self.number, uid, trusting);
        let nacks = state.rejected().map(|(kind, name, rejected)| Nack {
            type_url: kind.type_url().to_owned(),
            name: name.to_owned(),
            version: rejected.version.clone(),
            reason: rejected.reason.clone(),
            at: rejected.at,
        });
        self.parts
            .tracker
            .progressed(self.number, uid, state.acked_revision(), nacks.collect());
        self.parts
            .tracker
            .enforced(self.number, uid, state.enforced_revision());
    }
}

/// While it lives the sidecar counts as connected.
struct Open<'a> {
    stream: &'a Stream,
    workload: String,
}

impl<'a> Open<'a> {
    fn new(stream: &'a Stream, workload: &Registered, node: &Node) -> Self {
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => {
                format!("{} {version}", node.user_agent_name)
            }
            None => node.user_agent_name.clone(),
        };
        stream.parts.tracker.connected(
            stream.number,
            SidecarStatus {
                workload: workload.uid.clone(),
                spiffe_id: workload.id.to_string(),
                connected: true,
                since: stream.parts.clock.seconds(),
                version: label(&version),
                peer_address: stream.address.clone(),
                ..SidecarStatus::default()
            },
        );
        Self {
            stream,
            workload: workload.uid.clone(),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let parts = &self.stream.parts;
        parts
            .tracker
            .disconnected(self.stream.number, &self.workload, parts.clock.seconds());
    }
}

/// A client's text, fit for a table.
fn label(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_LABEL)
        .collect()
}
