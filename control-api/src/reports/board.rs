//! The latest totals of each workload, and the questions under way. Bounded whatever a sidecar sends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_proto::mesh::{
    LatencyBudgetState, LatencyBudgetStatus, PlaintextCaller, ReportAnswer, ReportBatch,
    ReportHello, ReportQuery, ShadowCount, report_answer, report_query,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::taps::Taps;

/// Entries of one kind for one workload; a sidecar holds no more.
const MAX_ENTRIES: usize = 4_096;
/// Latency budgets of one workload; a sidecar holds no more.
const MAX_BUDGETS: usize = 32;
/// Questions to one sidecar that wait to be sent.
const MAX_QUESTIONS: usize = 16;
/// Longest text kept.
const MAX_TEXT: usize = 512;

/// A question, and where its answer goes.
pub(super) type Question = (ReportQuery, oneshot::Sender<ReportAnswer>);

/// What distinguishes two shadow counts: port, method, route, verdicts, policy, rule.
type ShadowKey = (u32, String, String, i32, i32, String, u32);

/// What one workload reported.
#[derive(Debug, Default)]
pub(super) struct Held {
    stream: u64,
    questions: Option<mpsc::Sender<Question>>,
    /// Since when its sidecar counts, Unix seconds.
    pub(super) since: i64,
    /// Last report, Unix seconds.
    pub(super) reported_at: i64,
    shadows: BTreeMap<ShadowKey, ShadowCount>,
    plaintext: BTreeMap<(Vec<u8>, u32), PlaintextCaller>,
    /// How it stands with its latency budgets.
    pub(super) budgets: Vec<LatencyBudgetStatus>,
    /// Observations that did not fit.
    pub(super) overflow: u64,
}

impl Held {
    /// True while its stream is open.
    pub(super) fn is_connected(&self) -> bool {
        self.questions.is_some()
    }

    pub(super) fn shadows(&self) -> impl Iterator<Item = &ShadowCount> {
        self.shadows.values()
    }

    pub(super) fn plaintext(&self) -> impl Iterator<Item = &PlaintextCaller> {
        self.plaintext.values()
    }

    fn take(&mut self, workload: &str, batch: ReportBatch, now: i64) {
        let mut dropped = 0;
        for mut count in batch.shadows {
            for text in [
                &mut count.method,
                &mut count.route,
                &mut count.policy,
                &mut count.reason,
                &mut count.last_peer,
            ] {
                clean(text);
            }
            let key = (
                count.port,
                count.method.clone(),
                count.route.clone(),
                count.enforced,
                count.would_be,
                count.policy.clone(),
                count.rule,
            );
            dropped += put(&mut self.shadows, key, count);
        }
        for caller in batch.plaintext_callers {
            if !matches!(caller.address.len(), 4 | 16) {
                dropped += 1;
                continue;
            }
            let key = (caller.address.clone(), caller.port);
            dropped += put(&mut self.plaintext, key, caller);
        }
        if let Some(mut told) = batch.latency_budgets {
            told.budgets.truncate(MAX_BUDGETS);
            told.budgets.iter_mut().for_each(|b| clean(&mut b.budget));
            tell_breaches(workload, &self.budgets, &told.budgets);
            self.budgets = told.budgets;
        }
        self.overflow = batch.overflow.saturating_add(dropped);
        self.reported_at = now;
    }
}

/// Logs which budgets are breached now and were not `before`.
fn tell_breaches(workload: &str, before: &[LatencyBudgetStatus], now: &[LatencyBudgetStatus]) {
    let is_breached = |status: &LatencyBudgetStatus| status.state() == LatencyBudgetState::Breached;
    for status in now.iter().filter(|status| is_breached(status)) {
        let held = before.iter().find(|held| held.budget == status.budget);
        if !held.is_some_and(is_breached) {
            tracing::warn!(
                workload,
                budget = status.budget,
                percentile_us = status.percentile_nanos / 1_000,
                burn_rate = status.burn_rate,
                "latency budget breached"
            );
        }
    }
}

fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: V) -> u64 {
    if table.len() >= MAX_ENTRIES && !table.contains_key(&key) {
        return 1;
    }
    table.insert(key, value);
    0
}

/// A sidecar's text, fit for a table.
pub(super) fn clean(text: &mut String) {
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
}

/// What the sidecars that were asked said.
#[derive(Debug, Default)]
pub struct Answers {
    /// Answers by workload; `None` where the sidecar knew nothing.
    pub answers: Vec<(String, Option<report_answer::Answer>)>,
    /// Workloads whose sidecars did not answer in time.
    pub silent: Vec<String>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    /// Who watches live.
    pub(super) taps: Taps,
    workloads: Mutex<BTreeMap<String, Held>>,
    next_query: AtomicU64,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        // Nothing panics while it is held, and half a report would still be one.
        self.workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream opened; of several of one workload the newest counts. What its sidecar counted before comes again.
    pub(super) fn opened(
        &self,
        stream: u64,
        hello: &ReportHello,
        now: i64,
    ) -> mpsc::Receiver<Question> {
        let (questions, receiver) = mpsc::channel(MAX_QUESTIONS);
        let held = Held {
            stream,
            questions: Some(questions),
            since: hello.since,
            reported_at: now,
            ..Held::default()
        };
        self.lock().insert(hello.workload.clone(), held);
        receiver
    }

    /// A batch came on a stream.
    pub(super) fn reported(&self, stream: u64, workload: &str, batch: ReportBatch, now: i64) {
        if let Some(held) = self.lock().get_mut(workload)
            && held.stream == stream
        {
            held.take(workload, batch, now);
        }
    }

    /// A stream ended. What it brought stays.
    pub(super) fn closed(&self, stream: u64, workload: &str) {
        if let Some(held) = self.lock().get_mut(workload)
            && held.stream == stream
        {
            held.questions = None;
        }
    }

    /// How many latency budgets are breached, each counted at every connected sidecar.
    pub fn breached(&self) -> usize {
        let workloads = self.lock();
        let connected = workloads.values().filter(|held| held.is_connected());
        connected
            .flat_map(|held| &held.budgets)
            .filter(|budget| budget.state() == LatencyBudgetState::Breached)
            .count()
    }

    /// Looks at what every workload reported; those that are away and no longer `registered` are forgotten.
    pub(super) fn look<T>(
        &self,
        registered: impl Fn(&str) -> bool,
        look: impl FnOnce(&BTreeMap<String, Held>) -> T,
    ) -> T {
        let mut workloads = self.lock();
        workloads.retain(|workload, held| held.is_connected() || registered(workload));
        look(&workloads)
    }

    /// Asks the connected sidecars of the `wanted` workloads, and waits at most `patience` for all of them together.
    pub async fn ask(
        &self,
        ask: &report_query::Ask,
        wanted: impl Fn(&str) -> bool,
        patience: Duration,
    ) -> Answers {
        let deadline = Instant::now() + patience;
        let mut asked = Vec::new();
        let mut answers = Answers::default();
        for (workload, held) in self.lock().iter() {
            let Some(questions) = held.questions.as_ref().filter(|_| wanted(workload)) else {
                continue;
            };
            let query = ReportQuery {
                id: self.next_query.fetch_add(1, Ordering::Relaxed),
                ask: Some(ask.clone()),
            };
            let (sender, receiver) = oneshot::channel();
            match questions.try_send((query, sender)) {
                Ok(()) => asked.push((workload.clone(), receiver)),
                // It is asked more than it answers.
                Err(_) => answers.silent.push(workload.clone()),
            }
        }
        for (workload, receiver) in asked {
            match tokio::time::timeout_at(deadline, receiver).await {
                Ok(Ok(answer)) => answers.answers.push((workload, answer.answer)),
                _ => answers.silent.push(workload),
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> ReportHello {
        ReportHello {
            workload: "ns/a".into(),
            instance: "1".into(),
            since: 3,
        }
    }

    fn batch(port: u32) -> ReportBatch {
        ReportBatch {
            plaintext_callers: vec![PlaintextCaller {
                address: vec![10, 0, 0, 1],
                port,
                ..PlaintextCaller::default()
            }],
            ..ReportBatch::default()
        }
    }

    fn callers(board: &Board) -> usize {
        board.look(|_| true, |all| all["ns/a"].plaintext().count())
    }

    #[test]
    fn the_newest_stream_speaks_for_a_workload_and_starts_from_nothing() {
        let board = Board::default();
        let _first = board.opened(1, &hello(), 5);
        board.reported(1, "ns/a", batch(80), 6);
        assert_eq!(callers(&board), 1);
        let _second = board.opened(2, &hello(), 7);
        assert_eq!(callers(&board), 0);
        board.reported(1, "ns/a", batch(80), 8);
        board.closed(1, "ns/a");
        assert_eq!(callers(&board), 0, "the old stream is no longer heard");
        board.reported(2, "ns/a", batch(81), 9);
        board.reported(2, "ns/a", batch(81), 10);
        assert_eq!(callers(&board), 1, "totals replace each other");
        board.closed(2, "ns/a");
        assert_eq!(callers(&board), 1, "what was reported stays");
        assert!(board.look(|_| false, BTreeMap::is_empty));
    }

    #[test]
    fn a_sidecar_cannot_fill_the_memory_or_the_terminal() {
        let board = Board::default();
        let _questions = board.opened(1, &hello(), 5);
        for port in 0..6_000 {
            board.reported(1, "ns/a", batch(port), 6);
        }
        assert_eq!(callers(&board), MAX_ENTRIES);
        let shadow = ShadowCount {
            route: format!("/\u{1b}[2J{}", "x".repeat(10_000)),
            ..ShadowCount::default()
        };
        let batch = ReportBatch {
            shadows: vec![shadow],
            ..ReportBatch::default()
        };
        board.reported(1, "ns/a", batch, 7);
        let route = board.look(
            |_| true,
            |all| all["ns/a"].shadows().next().map(|s| s.route.clone()),
        );
        let route = route.unwrap();
        assert!(
            route.len() <= MAX_TEXT + 2 && !route.contains('\u{1b}'),
            "{route:?}"
        );
    }

    #[test]
    fn the_last_word_on_budgets_stands_and_breaches_count_while_connected() {
        let board = Board::default();
        let _questions = board.opened(1, &hello(), 5);
        let status = |state: LatencyBudgetState| LatencyBudgetStatus {
            budget: "ns/b\u{1b}".into(),
            state: state.into(),
            ..LatencyBudgetStatus::default()
        };
        let say = |budgets| {
            let batch = ReportBatch {
                latency_budgets: Some(mesh_proto::mesh::LatencyBudgets { budgets }),
                ..ReportBatch::default()
            };
            board.reported(1, "ns/a", batch, 6);
        };
        say(vec![status(LatencyBudgetState::Breached)]);
        board.reported(1, "ns/a", batch(80), 7);
        assert_eq!(board.breached(), 1, "a batch about something else");
        board.look(
            |_| true,
            |all| {
                assert_eq!(all["ns/a"].budgets[0].budget, "ns/b\u{fffd}");
            },
        );
        say(vec![status(LatencyBudgetState::Met)]);
        assert_eq!(board.breached(), 0);
        say(vec![status(LatencyBudgetState::Breached); 99]);
        assert_eq!(board.breached(), MAX_BUDGETS);
        board.closed(1, "ns/a");
        assert_eq!(board.breached(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_does_not_answer_is_named_and_nobody_waits_for_ever() {
        let board = Board::default();
        let mut questions = board.opened(1, &hello(), 5);
        let ask = report_query::Ask::FindDecision(mesh_proto::mesh::FindDecision::default());
        let asking = board.ask(&ask, |_| true, Duration::from_secs(2));
        let answering = async {
            let (query, answer) = questions.recv().await.unwrap();
            let _ = answer.send(ReportAnswer {
                id: query.id,
                answer: None,
            });
        };
        let (answers, ()) = tokio::join!(asking, answering);
        assert_eq!(answers.answers.len(), 1);
        let answers = board.ask(&ask, |_| true, Duration::from_secs(2)).await;
        assert_eq!(answers.silent, ["ns/a"]);
        assert!(
            board
                .ask(&ask, |_| false, Duration::ZERO)
                .await
                .silent
                .is_empty()
        );
    }
}
