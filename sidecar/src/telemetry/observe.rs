//! What is told of a request or connection when it has ended: phases into histograms, a line into the access log, a span to
//! the exporter. One per worker; the hot path pays for two reads of the clock and some additions unless more is asked for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, header};
use mesh_auth::token::Verified;
use mesh_auth::{Reason, SpiffeId};
use mesh_trace::{Http, Phase, Span, SpanKind, Started, Subject, Timeline, Tracer, Verdict};
use metrics::{Key, Label};

use super::access_log::AccessLog;
pub use super::ended::{Ended, EndedHttp, Line, Outcome};
use super::histogram::Histogram;
use super::recorder::WorkerRecorder;
use super::wall::Wall;
use super::watch::Watch;
use crate::directory::{MeshProtocol, WorkloadEntry};
use crate::http::forward::{Exchanged, ForwardError};
use crate::worker::metrics::Direction;

/// How long a line may wait for others to be written with.
const FLUSH: Duration = Duration::from_millis(500);

/// What one worker tells.
pub struct Observer {
    tracer: Tracer,
    access_log: Option<AccessLog>,
    /// Who else looks at requests as they end.
    pub watch: Watch,
    /// Set when nobody wants to know how long anything took: no clock is read.
    timeless: Option<Timeline>,
    durations: [Option<Arc<Histogram>>; 2],
    phases: [[Option<Arc<Histogram>>; Phase::ALL.len()]; 2],
    wall: Wall,
}

/// A request or connection under way.
#[derive(Debug)]
pub struct Observation {
    /// Its phases; mark them as they end.
    pub timeline: Timeline,
    /// What was decided. An admission is written down only when [`Self::is_detailed`].
    pub verdict: Option<Verdict>,
    /// The peer that was chosen for it and has to prove it, outbound.
    pub peer: Option<SpiffeId>,
    /// Where it goes to, outbound.
    pub address: Option<SocketAddr>,
    /// Whether the verification of its token was remembered; `None`: it has none.
    pub token_cached: Option<bool>,
    /// Whether the decision was remembered; `None` where nothing is remembered.
    pub decision_cached: Option<bool>,
    /// Port of the service that it is for; inbound, the application's. 0: not known.
    pub port: u16,
    /// Whether the caller is told how long it took, inbound.
    pub tells_timing: bool,
    /// How often it was sent again.
    pub resends: u32,
    /// Its verified token.
    pub token: Option<Rc<Verified>>,
    /// A sidecar at the other end tells of it too.
    pub is_told_there: bool,
    direction: Direction,
    started: Option<Started>,
    detailed: bool,
}

impl Observation {
    /// True when somebody will read more than numbers: it is sampled, accesses are logged, or somebody watches.
    pub fn is_detailed(&self) -> bool {
        self.detailed
    }

    /// A connection to the peer is there. `handshake`: when its TLS handshake began, if it was opened for this.
    pub fn connected(&mut self, peer: &WorkloadEntry, handshake: Option<Instant>) {
        match handshake {
            Some(began) => {
                self.timeline.mark_at(Phase::Connect, began);
                self.timeline.mark(Phase::Handshake);
            }
            None => self.timeline.mark(Phase::Connect),
        }
        self.peer = Some(peer.id.clone());
        self.address = peer.mesh_address();
        self.is_told_there = peer.protocol != MeshProtocol::Mtls;
    }

    /// Marks the moment of the response's head, if there is one.
    pub fn answered(&mut self, result: &Result<Exchanged, ForwardError>) {
        match result {
            Ok(done) => self.timeline.mark_at(Phase::Upstream, done.answered_at),
            Err(_) => self.timeline.mark(Phase::Upstream),
        }
    }

    /// Writes down an admission, if somebody will read it.
    pub fn allowed(&mut self, reason: Reason, policy: impl FnOnce() -> Option<Arc<str>>) {
        if self.detailed {
            self.verdict = Some(Verdict {
                allowed: true,
                reason: reason.code(),
                policy: policy(),
                id: 0,
                token_cached: self.token_cached,
                decision_cached: self.decision_cached,
            });
        }
    }

    /// Writes down a refusal.
    pub fn refused(&mut self, reason: Reason, id: u64, policy: Option<&str>) {
        self.verdict = Some(Verdict {
            allowed: false,
            reason: reason.code(),
            policy: policy.map(Into::into),
            id,
            token_cached: self.token_cached,
            decision_cached: self.decision_cached,
        });
    }

    /// True if it was refused by a decision, and not because nobody answered.
    pub fn is_decided(&self) -> bool {
        let reason = self.verdict.as_ref().map(|verdict| verdict.reason);
        let unanswered = [Reason::ConnectFailed, Reason::NoHealthyEndpoint];
        self.is_denied() && !unanswered.iter().any(|r| reason == Some(r.code()))
    }

    /// True if it was refused, for whatever reason.
    pub fn is_denied(&self) -> bool {
        self.verdict.as_ref().is_some_and(|v| !v.allowed)
    }
}

/// What a line of the access log is made of.
#[derive(Debug)]
pub struct Entry<'a> {
    /// When it started.
    pub at: SystemTime,
    /// Which way.
    pub direction: Direction,
    /// Its phases.
    pub timeline: &'a Timeline,
    /// Its span.
    pub started: Option<Started>,
    /// What was decided.
    pub verdict: Option<&'a Verdict>,
    /// How it ended.
    pub ended: &'a Ended<'a>,
}

impl Observer {
    /// Resolves the handles. `recorder`: where the worker counts, if it does.
    pub fn new(
        tracer: Tracer,
        access_log: Option<AccessLog>,
        watch: Watch,
        recorder: Option<&WorkerRecorder>,
    ) -> Self {
        describe();
        let is_timed = recorder.is_some() || access_log.is_some() || tracer.is_on();
        let directions = [Direction::Inbound, Direction::Outbound];
        Self {
            tracer,
            access_log,
            watch,
            timeless: (!is_timed).then(Timeline::stopped),
            durations: directions.map(|d| {
                let labels = vec![Label::new("direction", d.as_str())];
                let key = Key::from_parts("postern_request_duration_seconds", labels);
                recorder?.histogram(&key)
            }),
            phases: directions.map(|d| {
                Phase::ALL.map(|phase| {
                    let labels = vec![
                        Label::new("direction", d.as_str()),
                        Label::new("phase", phase.as_str()),
                    ];
                    let key = Key::from_parts("postern_phase_duration_seconds", labels);
                    recorder?.histogram(&key)
                })
            }),
            wall: Wall::default(),
        }
    }

    /// Begins to observe.
    pub fn observe(&self, direction: Direction) -> Observation {
        Observation {
            timeline: self.timeless.unwrap_or_else(Timeline::start),
            verdict: None,
            peer: None,
            address: None,
            token_cached: None,
            decision_cached: None,
            port: 0,
            tells_timing: false,
            resends: 0,
            token: None,
            is_told_there: false,
            direction,
            started: None,
            detailed: self.access_log.is_some() || self.watch.is_tapped(),
        }
    }

    /// Begins the span of a request and tells the next hop of it.
    pub fn begin(&self, observation: &mut Observation, headers: &mut HeaderMap) {
        observation.started = self.tracer.start(headers);
        observation.detailed |= observation.started.is_some_and(|s| s.sampled);
    }

    /// Begins to observe an opaque connection.
    pub fn connection(&self, direction: Direction) -> Observation {
        let mut observation = self.observe(direction);
        observation.started = self.tracer.start_connection();
        observation.detailed |= observation.started.is_some_and(|s| s.sampled);
        observation
    }

    /// A request ended: its phases are counted, and what else there is to tell is told.
    pub fn request_ended<'a>(
        &self,
        observation: &mut Observation,
        ended: impl FnOnce(&Observation) -> Ended<'a>,
    ) {
        if self.timeless.is_some() {
            return;
        }
        observation.timeline.mark(Phase::Response);
        let direction = observation.direction as usize;
        let total = observation.timeline.total_nanos();
        if let Some(durations) = &self.durations[direction] {
            let sampled = observation.started.filter(|s| s.sampled);
            durations.add_traced(total, sampled.map(|s| s.trace));
        }
        let phases = &self.phases[direction];
        for (histogram, took) in phases.iter().zip(observation.timeline.nanos()) {
            if let (Some(histogram), 1..) = (histogram, *took) {
                histogram.add_nanos(*took);
            }
        }
        let is_of = |issuer: &str| {
            let token = observation.token.as_ref();
            token.is_some_and(|t| t.token().issuer() == Some(issuer))
        };
        let timeline = &observation.timeline;
        let is_over = self.watch.ended(observation.direction, timeline, is_of);
        self.tell(observation, Duration::from_nanos(total), is_over, ended);
    }

    /// An opaque connection ended.
    pub fn connection_ended<'a>(
        &self,
        observation: &mut Observation,
        ended: impl FnOnce(&Observation) -> Ended<'a>,
    ) {
        observation.timeline.mark(Phase::Response);
        // How long a connection is open says nothing of how slow it was.
        self.tell(observation, Duration::ZERO, false, ended);
    }

    /// The TLS handshake of an inbound connection ended. One that is refused is told of like anything refused.
    pub fn handshake_ended<'a>(
        &self,
        observation: &mut Observation,
        ended: impl FnOnce(&Observation) -> Ended<'a>,
    ) {
        if self.timeless.is_some() {
            return;
        }
        observation.timeline.mark(Phase::Handshake);
        let took = observation.timeline.total();
        let phases = &self.phases[observation.direction as usize];
        if let Some(histogram) = &phases[Phase::Handshake as usize] {
            histogram.add_nanos(observation.timeline.total_nanos());
        }
        let is_over = self
            .watch
            .shook_hands(observation.direction, &observation.timeline);
        self.tell(observation, took, is_over, ended);
    }

    /// The TLS handshake of an outbound connection ended. Requests that waited for it have it among their phases, where it
    /// is counted; this tells of it as a connection's, which may be dialled ahead of all requests.
    pub fn dialled<'a>(
        &self,
        observation: &mut Observation,
        is_failed: bool,
        ended: impl FnOnce(&Observation) -> Ended<'a>,
    ) {
        if self.timeless.is_some() {
            return;
        }
        observation.timeline.mark(Phase::Handshake);
        let took = observation.timeline.total();
        self.tell(observation, took, is_failed, ended);
    }

    fn tell<'a>(
        &self,
        observation: &Observation,
        took: Duration,
        is_bad: bool,
        ended: impl FnOnce(&Observation) -> Ended<'a>,
    ) {
        let is_bad = is_bad || observation.is_denied();
        let kept = observation
            .started
            .filter(|started| self.tracer.keeps(*started, is_bad, took));
        let is_tapped = self.watch.is_tapped();
        if kept.is_none() && self.access_log.is_none() && !is_tapped {
            return;
        }
        let ended = ended(observation);
        let entry = Entry {
            at: self.wall.at(&observation.timeline),
            direction: observation.direction,
            timeline: &observation.timeline,
            started: observation.started,
            verdict: observation.verdict.as_ref(),
            ended: &ended,
        };
        // What comes over a connection that was let in has its own lines.
        let is_line = !matches!(ended.line, Line::Handshake { .. }) || observation.is_denied();
        if is_line && let Some(log) = &self.access_log {
            log.log(&entry);
        }
        if is_line && is_tapped {
            self.watch.tapped(&entry);
        }
        if let Some(started) = kept {
            self.tracer
                .hand_over(|| span(started, &entry, observation.resends));
        }
    }

    /// Hands collected lines to their writer now and then, for ever.
    pub async fn keep_flushing(&self) {
        let Some(log) = &self.access_log else {
            return;
        };
        let mut period = tokio::time::interval(FLUSH);
        loop {
            period.tick().await;
            log.flush();
        }
    }
}

fn span(started: Started, entry: &Entry<'_>, resends: u32) -> Span {
    let ended = entry.ended;
    Span {
        started,
        kind: match entry.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        },
        at: entry.at,
        timeline: *entry.timeline,
        subject: match &ended.line {
            Line::Connection => Subject::Connection,
            Line::Handshake { resumed } => Subject::Handshake { resumed: *resumed },
            Line::Http(http) => Subject::Request(Http {
                method: http.head.method.clone(),
                path: http.head.uri.path_and_query().cloned(),
                authority: http.head.uri.authority().cloned(),
                version: http.head.version,
                user_agent: http.head.headers.get(header::USER_AGENT).cloned(),
                status: http.status,
                is_grpc: is_grpc(&http.head.headers),
                grpc_status: http.grpc_status,
                resends,
            }),
        },
        peer_address: ended.peer_address,
        port: ended.port,
        peer_id: ended.peer_id.clone(),
        own_id: ended.own_id.clone(),
        verdict: entry.verdict.cloned(),
        sent: ended.sent,
        received: ended.received,
        error: ended.error,
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

fn describe() {
    metrics::describe_histogram!(
        "postern_request_duration_seconds",
        "Time from a request's head to the end of its response, by direction."
    );
    metrics::describe_histogram!(
        "postern_phase_duration_seconds",
        "Time that requests spent in each phase, by direction and phase."
    );
    metrics::describe_counter!(
        "postern_access_log_lines_dropped_total",
        "Access log lines lost because the writer was behind or failed."
    );
}
