//! The report service: a stream around the [`Board`].
//!
//! A stream belongs to the workload of its hello only as long as the connection's certificate is valid and its identity
//! is the one that the workload is registered with, as for discovery.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_auth::svid::VerifiedPeer;
use mesh_proto::mesh::report_service_server::ReportService;
use mesh_proto::mesh::{ReportAnswer, ReportHello, ReportQuery, SidecarReport, sidecar_report};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::Board;
use crate::clock::Clock;
use crate::listener::{self, Caller};
use crate::registry::World;

/// Questions between us and the transport.
const BUFFER: usize = 4;
/// How long the hello is waited for.
const FIRST: Duration = Duration::from_secs(10);
/// Questions that wait for an answer of one sidecar.
const MAX_WAITING: usize = 64;
/// Longest text of a client that is shown to people.
const MAX_LABEL: usize = 128;

/// What the service works with.
pub struct Parts {
    /// Who is registered.
    pub worlds: watch::Receiver<Arc<World>>,
    /// Where reports go and questions come from.
    pub board: Arc<Board>,
    /// For certificates' ends and moments that people read.
    pub clock: Clock,
    /// Ends every stream.
    pub stop: CancellationToken,
    /// Owns the streams' tasks.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Reports {
    parts: Arc<Parts>,
    streams: AtomicU64,
}

impl Reports {
    /// A service that fills its parts' board.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            streams: AtomicU64::new(1),
        }
    }
}

type Queries = Pin<Box<dyn tokio_stream::Stream<Item = Result<ReportQuery, Status>> + Send>>;

#[tonic::async_trait]
impl ReportService for Reports {
    type ReportStream = Queries;

    async fn report(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Queries>, Status> {
        let caller = Caller::of(&request);
        let peer = caller.current_peer(&self.parts.clock)?.cloned().ok_or_else(|| {
            Status::unauthenticated(
                "reports need the workload's certificate (X.509-SVID) as TLS client certificate",
            )
        })?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let stream = Stream {
            number: self.streams.fetch_add(1, Ordering::Relaxed),
            parts: Arc::clone(&self.parts),
            peer,
            sender,
        };
        let reports = request.into_inner();
        // Ends when the reports end, when the transport drops the receiver, or when told to stop.
        self.parts.tasks.spawn(stream.run(reports));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
struct Stream {
    number: u64,
    parts: Arc<Parts>,
    peer: VerifiedPeer,
    sender: mpsc::Sender<Result<ReportQuery, Status>>,
}

impl Stream {
    async fn run(self, mut reports: Streaming<SidecarReport>) {
        let (parts, work) = (&self.parts, self.follow(&mut reports));
        let ended =
            listener::within_bounds(&self.peer, &parts.clock, &parts.stop, &self.sender, work)
                .await;
        if let Err(status) = ended {
            tracing::debug!(peer = %self.peer.id(), code = ?status.code(), reason = status.message(), "report stream ended");
            // The transport may be gone or stuck: nobody waits for it.
            let _ = self.sender.try_send(Err(status));
        }
    }

    async fn follow(&self, reports: &mut Streaming<SidecarReport>) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came on the stream"))??;
        let Some(sidecar_report::Kind::Hello(hello)) = first.and_then(|report| report.kind) else {
            return Err(Status::invalid_argument(
                "hello: must be the first message of the stream",
            ));
        };
        self.authorize(&self.parts.worlds.borrow(), &hello.workload)?;
        let mut open = Open::new(self, &hello);
        self.drive(reports, &hello.workload, &mut open.questions)
            .await
    }

    async fn drive(
        &self,
        reports: &mut Streaming<SidecarReport>,
        workload: &str,
        questions: &mut mpsc::Receiver<super::board::Question>,
    ) -> Result<(), Status> {
        let mut worlds = self.parts.worlds.clone();
        let mut waiting: BTreeMap<u64, oneshot::Sender<ReportAnswer>> = BTreeMap::new();
        loop {
            tokio::select! {
                report = reports.message() => match report?.map(|report| report.kind) {
                    None => return Ok(()),
                    Some(Some(sidecar_report::Kind::Batch(batch))) => {
                        self.parts.board.reported(self.number, workload, batch, self.parts.clock.seconds());
                    }
                    Some(Some(sidecar_report::Kind::Answer(answer))) => {
                        if let Some(asker) = waiting.remove(&answer.id) {
                            // Who asked may have gone.
                            let _ = asker.send(answer);
                        }
                    }
                    Some(Some(sidecar_report::Kind::Tap(batch))) => {
                        self.parts.board.taps.saw(workload, batch);
                    }
                    Some(Some(sidecar_report::Kind::Hello(_))) => {
                        return Err(Status::invalid_argument("hello: was said already"));
                    }
                    // Of a newer sidecar.
                    Some(None) => {}
                },
                Some((query, asker)) = questions.recv() => {
                    waiting.retain(|_, asker| !asker.is_closed());
                    if waiting.len() < MAX_WAITING {
                        waiting.insert(query.id, asker);
                        if self.sender.send(Ok(query)).await.is_err() {
                            return Ok(());
                        }
                    }
                },
                changed = worlds.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control API is stopping; connect again"));
                    }
                    let world = Arc::clone(&worlds.borrow_and_update());
                    self.authorize(&world, workload)?;
                }
            }
        }
    }

    /// Checks that this peer is the workload that it says it is, and is believed.
    fn authorize(&self, world: &World, workload: &str) -> Result<(), Status> {
        world.refuse_revoked(&self.peer, self.parts.clock.seconds())?;
        let id = self.peer.id();
        // One answer for "unknown" and for "not yours": who may not know learns nothing.
        if world.workload(workload).is_some_and(|w| w.id == *id) {
            return Ok(());
        }
        let workload: String = workload.chars().take(MAX_LABEL).collect();
        Err(Status::permission_denied(format!(
            "hello.workload: no workload '{}' is registered with identity '{id}'",
            workload.escape_default()
        )))
    }
}

/// While it lives the sidecar can be asked.
struct Open<'a> {
    stream: &'a Stream,
    workload: String,
    questions: mpsc::Receiver<super::board::Question>,
}

impl<'a> Open<'a> {
    fn new(stream: &'a Stream, hello: &ReportHello) -> Self {
        let now = stream.parts.clock.seconds();
        Self {
            stream,
            workload: hello.workload.clone(),
            questions: stream.parts.board.opened(stream.number, hello, now),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let board = &self.stream.parts.board;
        board.closed(self.stream.number, &self.workload);
    }
}
