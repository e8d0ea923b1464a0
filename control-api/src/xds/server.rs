//! The aggregated discovery service: authorizes a stream by its TLS identity and drives its state.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_proto::admin::{Nack, SidecarStatus};
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::envoy::config::core::v3::node::UserAgentVersionType;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::state::State;
use crate::listener::Caller;
use crate::program::now;
use crate::registry::{Registered, World};
use crate::status::Tracker;

/// Responses buffered per stream.
const BUFFER: usize = 8;
/// How long the first request is waited for.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The service.
pub struct Discovery {
    worlds: watch::Receiver<Arc<World>>,
    tracker: Arc<Tracker>,
    streams: AtomicU64,
}

impl Discovery {
    /// A service that sends what `worlds` publishes.
    pub fn new(worlds: watch::Receiver<Arc<World>>, tracker: Arc<Tracker>) -> Self {
        Self {
            worlds,
            tracker,
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
        let Some(peer) = caller.peer.clone() else {
            return Err(Status::unauthenticated(
                "discovery needs the workload's certificate (X.509-SVID) as TLS client certificate",
            ));
        };
        let mut requests = request.into_inner();
        let worlds = self.worlds.clone();
        let first = tokio::time::timeout(FIRST_REQUEST, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no request on the stream"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first request"))?;
        let node = first
            .node
            .clone()
            .ok_or_else(|| Status::invalid_argument("node: must be set on the first request"))?;
        let workload = authorize(&worlds.borrow(), &node.id, peer.id())?;
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let version = match node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => {
                format!("{} {version}", node.user_agent_name)
                    .trim()
                    .to_owned()
            }
            None => node.user_agent_name,
        };
        self.tracker.connected(
            stream,
            SidecarStatus {
                workload: workload.uid.clone(),
                spiffe_id: workload.id.to_string(),
                connected: true,
                since: now(),
                version,
                peer_address: caller.address,
                ..Default::default()
            },
        );
        tracing::info!(workload = workload.uid, "discovery stream opened");
        let (sender, receiver) = mpsc::channel(BUFFER);
        let tracker = Arc::clone(&self.tracker);
        // Ends with the stream: the receiver is dropped by the transport, or the requests end.
        tokio::spawn(async move {
            let uid = workload.uid.clone();
            let result = drive(first, requests, worlds, &sender, &tracker, stream, workload).await;
            if let Err(status) = result {
                tracing::info!(workload = uid, %status, "discovery stream ended");
                let _ = sender.send(Err(status)).await;
            }
            tracker.disconnected(stream, &uid, now());
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn authorize(
    world: &World,
    node: &str,
    id: &mesh_auth::SpiffeId,
) -> Result<Arc<Registered>, Status> {
    // One answer for "unknown" and "not yours": who may not know learns nothing.
    world
        .workload(node)
        .filter(|w| w.id == *id)
        .cloned()
        .ok_or_else(|| {
            Status::permission_denied(format!(
                "node.id: no workload '{}' is registered with identity '{id}'",
                node.escape_default()
            ))
        })
}

async fn drive(
    first: DeltaDiscoveryRequest,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    mut worlds: watch::Receiver<Arc<World>>,
    sender: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    tracker: &Tracker,
    stream: u64,
    workload: Arc<Registered>,
) -> Result<(), Status> {
    let (uid, id) = (workload.uid.clone(), workload.id.clone());
    let mut state = State::new(workload);
    let exhausted = |e: super::state::StreamError| Status::resource_exhausted(e.to_string());
    state.request(&first).map_err(exhausted)?;
    loop {
        let world = Arc::clone(&worlds.borrow_and_update());
        state.set_workload(authorize(&world, &uid, &id)?);
        for response in state.responses(&world) {
            if sender.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        let nacks = state
            .rejected()
            .map(|(kind, name, rejected)| Nack {
                type_url: kind.type_url().to_owned(),
                name: name.clone(),
                version: rejected.version.clone(),
                reason: rejected.reason.clone(),
                at: now(),
            })
            .collect();
        tracker.progressed(stream, &uid, state.acked_revision(), nacks);
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => state.request(&request).map_err(exhausted)?,
                None => return Ok(()),
            },
            changed = worlds.changed() => if changed.is_err() {
                return Ok(());
            },
            () = sender.closed() => return Ok(()),
        }
    }
}
