//! The report stream: the plumbing around [`Totals`] and the ledgers.
//!
//! It rides on the connection that the discovery stream opened, and ends with it. A control API that is too slow is
//! skipped: what it did not get stays new and goes with a later batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_proto::mesh::report_service_client::ReportServiceClient;
use mesh_proto::mesh::{
    DecisionFacts, Edges, LatencyBudgets, ReportAnswer, ReportBatch, ReportHello, ReportQuery,
    RequestFacts, SidecarReport, StartTap, TapStarted, TokenFacts, report_answer, report_query,
    sidecar_report,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::Totals;
use super::budgets::Trackers;
use super::edges::EdgeBook;
use crate::control::backoff::{Backoff, Limits};
use crate::control::clock::Clock;
use crate::control::connect::status_text;
use crate::ledger::{Denial, Ledger};
use crate::snapshot::SharedSnapshot;
use crate::telemetry::watch::tap;

/// Period of batches.
const PERIOD: Duration = Duration::from_secs(1);
/// Period in which what a tap saw is sent.
const TAP_PERIOD: Duration = Duration::from_millis(250);
/// Reports on their way out.
const QUEUE: usize = 16;
/// How long the server may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest question.
const MAX_MESSAGE: usize = 64 * 1024;
/// Waits between streams on one connection.
const RECONNECT: Limits = Limits {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(30),
};
/// A stream that lived this long was a success.
const STABLE: Duration = Duration::from_secs(15);

/// Why a stream ended.
enum End {
    /// The control API knows no reports: it is older. Another connection may lead to a newer one.
    Unknown,
    /// It failed.
    Lost(String),
}

/// Owner of the stream.
pub struct Reporter {
    workload: String,
    instance: String,
    since: i64,
    ledgers: Vec<Arc<Ledger>>,
    snapshot: SharedSnapshot,
    clock: Arc<dyn Clock>,
    started: Instant,
    totals: Mutex<Totals>,
    budgets: Mutex<Trackers>,
    edges: Mutex<EdgeBook>,
}

impl Reporter {
    /// Reports what `ledgers` hold, and how that stands with the budgets of the snapshot in force.
    pub fn new(
        workload: &str,
        ledgers: Vec<Arc<Ledger>>,
        snapshot: SharedSnapshot,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut random = [0; 8];
        // Without randomness the time of the start tells two processes apart as well.
        let instance = match aws_lc_rs::rand::fill(&mut random) {
            Ok(()) => u64::from_be_bytes(random),
            Err(_) => clock.now().unsigned_abs(),
        };
        Self {
            workload: workload.to_owned(),
            instance: format!("{instance:016x}"),
            since: clock.now(),
            ledgers,
            snapshot,
            clock,
            started: Instant::now(),
            totals: Mutex::default(),
            budgets: Mutex::default(),
            edges: Mutex::default(),
        }
    }

    /// Reports over whatever connection there is, for ever.
    pub async fn follow(&self, mut channels: watch::Receiver<Option<Channel>>) {
        let mut backoff = Backoff::new(RECONNECT);
        loop {
            let Some(channel) = channels.borrow_and_update().clone() else {
                if self.collect_until_changed(&mut channels).await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            };
            let opened = Instant::now();
            let end = tokio::select! {
                end = self.stream(channel) => end,
                _ = channels.changed() => continue,
            };
            if opened.elapsed() >= STABLE {
                backoff.reset();
            }
            let delay = match end {
                End::Unknown => {
                    tracing::info!("the control API takes no reports: it is of an older version");
                    Duration::MAX
                }
                End::Lost(reason) => {
                    let delay = backoff.failed();
                    tracing::debug!(
                        reason,
                        retry_in_ms = delay.as_millis(),
                        "the report stream is down"
                    );
                    delay
                }
            };
            let _ = tokio::time::timeout(delay, self.collect_until_changed(&mut channels)).await;
        }
    }

    /// Goes on adding up, so that the workers' tables do not fill.
    async fn collect_until_changed(
        &self,
        channels: &mut watch::Receiver<Option<Channel>>,
    ) -> Result<(), watch::error::RecvError> {
        loop {
            tokio::select! {
                changed = channels.changed() => return changed,
                () = tokio::time::sleep(PERIOD) => self.collect(),
            }
        }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) {
        let mut totals = self.totals();
        for ledger in &self.ledgers {
            totals.add(ledger.take());
        }
        let tallies: Vec<_> = self
            .ledgers
            .iter()
            .flat_map(|ledger| ledger.tallies.tallies().clone())
            .collect();
        let budgets = Arc::clone(&self.snapshot.load().budgets);
        let (elapsed, now) = (self.started.elapsed(), self.clock.now());
        self.budgets().tick(&budgets, &tallies, elapsed, now);
        drop(self.learn(now));
    }

    fn learn(&self, now: i64) -> MutexGuard<'_, EdgeBook> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.tick(self.ledgers.iter().flat_map(|l| l.edges.take()), now);
        edges
    }

    fn edges(&self) -> Edges {
        Edges {
            edges: self.learn(self.clock.now()).all(),
            instance: self.instance.clone(),
            since: self.since,
        }
    }

    fn budgets(&self) -> MutexGuard<'_, Trackers> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stream, from opening to its end.
    async fn stream(&self, channel: Channel) -> End {
        let (reports, outgoing) = mpsc::channel(QUEUE);
        let hello = ReportHello {
            workload: self.workload.clone(),
            instance: self.instance.clone(),
            since: self.since,
        };
        // One fits into an empty queue.
        let _ = reports.try_send(report(sidecar_report::Kind::Hello(hello)));
        let mut service = ReportServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opening = service.report(ReceiverStream::new(outgoing));
        let mut queries = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if status.code() == Code::Unimplemented => return End::Unknown,
            Ok(Err(status)) => return End::Lost(status_text(&status)),
            Err(_) => return End::Lost(format!("no answer within {OPEN_TIMEOUT:?}")),
        };
        self.totals().renew();
        self.budgets().renew();
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taps = tokio::time::interval(TAP_PERIOD);
        taps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = queries.message() => match message {
                    // Full: not answered, and the one who asked is told so there.
                    Ok(Some(query)) => drop(reports.try_send(self.answer(query))),
                    Ok(None) => return End::Lost("the control API closed the stream".into()),
                    Err(status) => return End::Lost(status_text(&status)),
                },
                _ = taps.tick(), if self.is_tapped() => self.send_taps(&reports),
                _ = period.tick() => {
                    self.collect();
                    self.send_batches(&reports);
                }
            }
        }
    }

    fn send_batches(&self, reports: &mpsc::Sender<SidecarReport>) {
        let mut totals = self.totals();
        while let Ok(place) = reports.try_reserve() {
            let batch = totals.batch().or_else(|| {
                let budgets = self.budgets().take_fresh()?;
                Some(ReportBatch {
                    overflow: totals.overflow(),
                    latency_budgets: Some(LatencyBudgets { budgets }),
                    ..ReportBatch::default()
                })
            });
            match batch {
                Some(batch) => place.send(report(sidecar_report::Kind::Batch(batch))),
                None => return,
            }
        }
    }

    fn is_tapped(&self) -> bool {
        self.ledgers.iter().any(|ledger| ledger.tap.is_on())
    }

    fn send_taps(&self, reports: &mpsc::Sender<SidecarReport>) {
        for ledger in &self.ledgers {
            // What finds no place stays, bounded, and is sent or counted as dropped the next time.
            ledger.tap.take(Instant::now().into_std(), |batch| {
                let place = reports.try_reserve().map_err(|_| ())?;
                place.send(report(sidecar_report::Kind::Tap(batch)));
                Ok(())
            });
        }
    }

    fn start_tap(&self, start: StartTap) -> report_answer::Answer {
        let per_worker = tap::Wanted::new(start, self.ledgers.len(), TAP_PERIOD);
        for ledger in &self.ledgers {
            ledger
                .tap
                .start(per_worker.clone(), Instant::now().into_std());
        }
        report_answer::Answer::TapStarted(TapStarted {})
    }

    fn answer(&self, query: ReportQuery) -> SidecarReport {
        let answer = match query.ask {
            Some(report_query::Ask::StartTap(start)) => Some(self.start_tap(start)),
            Some(report_query::Ask::GetEdges(_)) => {
                Some(report_answer::Answer::Edges(self.edges()))
            }
            Some(report_query::Ask::FindDecision(find)) => u64::from_str_radix(&find.id, 16)
                .ok()
                .and_then(|id| self.ledgers.iter().find_map(|ledger| ledger.denial(id)))
                .map(|denial| report_answer::Answer::Decision(facts(denial))),
            None => None,
        };
        report(sidecar_report::Kind::Answer(ReportAnswer {
            id: query.id,
            answer,
        }))
    }
}

fn report(kind: sidecar_report::Kind) -> SidecarReport {
    SidecarReport { kind: Some(kind) }
}

fn facts(denial: Denial) -> DecisionFacts {
    DecisionFacts {
        id: format!("{:016x}", denial.id),
        at_unix_ms: denial.at,
        reason: denial.reason.code().to_owned(),
        policy: denial.policy.as_deref().unwrap_or_default().to_owned(),
        rule: denial.rule.map_or(0, |rule| rule.saturating_add(1)),
        revision: denial.revision,
        peer: denial.peer.as_deref().unwrap_or_default().to_owned(),
        source: denial.source.to_string(),
        port: u32::from(denial.port),
        request: denial.request.map(|request| RequestFacts {
            method: request.method.into(),
            host: request.host.into(),
            path: request.path.into(),
        }),
        token: denial.token.map(|token| TokenFacts {
            issuer: token.issuer.into(),
            subject: token.subject.into(),
            audiences: token.audiences.into_iter().map(Into::into).collect(),
            scopes: token.scopes.into_iter().map(Into::into).collect(),
        }),
    }
}
