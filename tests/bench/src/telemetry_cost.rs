//! `mesh-bench telemetry-cost`: what spans, metrics and the access log cost a request in each sidecar, and what a collector
//! that is dead, slow or hostile does to requests.
//!
//! Every arm is a pair of sidecars of one mesh that tells more or less; the arms take turns on one processor. CPU is that of
//! the processes of both sidecars, halved, from the scheduler's account; medians of rounds are judged. "Added" is what a
//! request takes more than in the arm that tells nothing, round by round.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tempfile::TempDir;

use crate::args::{Common, Placement, Turns};
use crate::arms::nginx::App;
use crate::collector::{Collector, Fault};
use crate::cpu::Sample;
use crate::machine::Machine;
use crate::mesh::{self, ControlApi, NAMESPACE, Sidecar, SidecarOptions, TRUST_DOMAIN};
use crate::placement::Processors;
use crate::ports;
use crate::probe;
use crate::programs::{self, Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::{median, range, ratio};
use crate::wrk::{self, Target};

const CONNECTIONS: u32 = 32;
const APP_PORT: u16 = 8080;
/// Metrics, access log of every request, 1 % of traces.
const ALL_ON_US: f64 = 1.5;
/// The same with every trace.
const ALL_TRACES_US: f64 = 8.0;
/// Least share of the spans of the arm that keeps every trace which the collector must have seen: else less was measured
/// than was asked for.
const SEEN: f64 = 0.95;
/// What a bad collector may do to latency, relative to no collector. Equal but for what rounds differ by.
const P50_RATIO: f64 = 1.05;
const P99_RATIO: f64 = 1.10;
/// How often a round measures each arm's latency: few of its requests make a p99.
const LATENCY_TURNS: usize = 3;
/// Until what waits in queues and buffers has been sent and written.
const SETTLE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    turns: Turns,
}

/// What an arm's sidecars tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Nothing.
    Nothing,
    /// Metrics, which is what a sidecar tells when nobody says anything.
    Metrics,
    /// Metrics, and a line of every request.
    Lines,
    /// That, and spans of a share of the traces.
    Spans(&'static str),
}

/// The arms whose CPU is compared, the first with every other; and those whose latency is, by the collector's fault.
const COST: [(&str, Telling); 5] = [
    ("off", Telling::Nothing),
    ("metrics", Telling::Metrics),
    ("access-log", Telling::Lines),
    ("all-on", Telling::Spans("0.01")),
    ("all-traces", Telling::Spans("1")),
];
const FAULTS: [(&str, Fault); 3] = [
    ("dead", Fault::Dead),
    ("slow", Fault::Slow),
    ("hostile", Fault::Hostile),
];

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut programs = Programs::find();
    let mut problem = None;
    let missing = programs.missing(&[]);
    if arguments.common.install && !missing.is_empty() {
        problem = programs::install(&missing).await.err();
        programs = Programs::find();
    }
    let missing = programs.missing(&[]);
    let mut report = Report::new("telemetry-cost", Machine::look(&programs).await);
    report.missing(&missing, true);
    report.concluded(problem.map_or(Ok(()), Err));
    if missing.is_empty() {
        let outcome = measure(arguments, &programs, &mut report).await;
        report.concluded(outcome);
    }
    report
}

async fn measure(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let wrk = programs.wrk.as_deref().context("wrk is missing")?;
    let ours = Ours::find().await?;
    let processors = Processors::choose(Placement::Same)?;
    report.placed(Some(processors.describe()));
    let app = App::start(nginx).await?;
    let mut world = World::start(&ours, app).await?;
    let collector = Collector::counting().await?;
    let mut cost = Vec::new();
    for (name, telling) in COST {
        cost.push(world.arm(&ours, name, telling, Some(&collector)).await?);
    }
    let mut faulty = Vec::new();
    for (name, fault) in FAULTS {
        let collector = Collector::faulty(fault).await?;
        let arm = world.arm(&ours, name, Telling::Spans("1"), Some(&collector));
        faulty.push((arm.await?, collector));
    }

    let (rounds, seconds) = arguments.turns.length(arguments.common.quick);
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}: CPU"));
        // Nobody is always first, or always after the same neighbour's heat.
        for turn in 0..cost.len() {
            let arm = (turn + round as usize) % cost.len();
            cost[arm].spend(wrk, seconds, &collector).await?;
        }
        say(&format!("round {round} of {rounds}: latency"));
        // The arm with lines and without spans is what a bad collector is compared with.
        let arms = faulty.len() + 1;
        for turn in 0..LATENCY_TURNS * arms {
            let (lap, place) = (turn / arms, turn % arms);
            match (place + lap + round as usize) % arms {
                0 => cost[2].wait(wrk, seconds).await?,
                bad => faulty[bad - 1].0.wait(wrk, seconds).await?,
            }
        }
    }

    let off = cost[0].cpu.clone();
    for arm in &cost {
        report.figure(format!("cpu_us.{}", arm.name), median(&arm.cpu));
        report.figure(format!("cpu_us_range.{}", arm.name), range(&arm.cpu));
    }
    let added = |arm: &Arm| {
        let pairs = arm.cpu.iter().zip(&off);
        median(
            &pairs
                .map(|(with, without)| with - without)
                .collect::<Vec<_>>(),
        )
    };
    report.figure("metrics_added_us", added(&cost[1]));
    report.figure("access_log_added_us", added(&cost[2]));
    report.at_most("all_on_added_us", added(&cost[3]), ALL_ON_US);
    report.at_most("all_traces_added_us", added(&cost[4]), ALL_TRACES_US);
    report.at_least("all_traces_seen", median(&cost[4].seen), SEEN);
    for (arm, _) in &faulty {
        for (what, ours, without, limit) in [
            ("p50", &arm.p50, &cost[2].p50, P50_RATIO),
            ("p99", &arm.p99, &cost[2].p99, P99_RATIO),
        ] {
            report.figure(format!("{what}_us.{}", arm.name), median(ours));
            report.figure(format!("{what}_us.without"), median(without));
            let ratios: Vec<f64> = ours
                .iter()
                .zip(without)
                .filter_map(|(with, without)| ratio(Some(*with), Some(*without)))
                .collect();
            report.at_most(
                format!("{what}_{}_to_without", arm.name),
                median(&ratios),
                limit,
            );
        }
    }
    Ok(())
}

/// A control API and an application that every arm shares.
struct World {
    api: ControlApi,
    app: App,
    folder: TempDir,
}

/// Two sidecars that tell what is asked of them.
struct Arm {
    name: &'static str,
    target: Target,
    client: Sidecar,
    server: Sidecar,
    logs: Vec<PathBuf>,
    /// Per request and sidecar, microseconds.
    cpu: Vec<f64>,
    /// Spans that the collector got, of those that there were.
    seen: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl World {
    async fn start(ours: &Ours, app: App) -> anyhow::Result<Self> {
        let mut api = ControlApi::start(ours, &[]).await?;
        api.apply(&format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: {NAMESPACE}}}\n\
             spec: {{action: ALLOW, rules: [{{from: [{{source: {{namespaces: [\"{NAMESPACE}\"]}}}}], to: [{{operation: {{ports: [\"{APP_PORT}\"]}}}}]}}]}}\n"
        ))
        .await
        .with_context(|| format!("the policy of {TRUST_DOMAIN} was not taken"))?;
        Ok(Self {
            api,
            app,
            folder: ports::folder()?,
        })
    }

    /// Starts an arm and waits until its application answers through it.
    async fn arm(
        &mut self,
        ours: &Ours,
        name: &'static str,
        telling: Telling,
        collector: Option<&Collector>,
    ) -> anyhow::Result<Arm> {
        say(&format!("starting {name}"));
        let [client_port, server_port] = ports::free()?;
        let (client, server) = (format!("{name}-client"), format!("{name}-server"));
        let manifest = mesh::workload(&client, client_port)
            + &mesh::workload(&server, server_port)
            + &mesh::service(&server, &[(80, APP_PORT, "HTTP")]);
        self.api.apply(&manifest).await?;
        let mut logs = Vec::new();
        let mut options = |name: &str, mesh_port| {
            let log = self.folder.path().join(format!("{name}.access.jsonl"));
            let flags = telling.flags(&log);
            logs.extend(telling.has_lines().then_some(log));
            SidecarOptions {
                name: name.to_owned(),
                mesh_port,
                flags,
                environment: telling.environment(collector),
                ..SidecarOptions::default()
            }
        };
        let server_options = SidecarOptions {
            apps: vec![(APP_PORT, self.app.address.clone())],
            ..options(&server, server_port)
        };
        let client_options = options(&client, client_port);
        let server_sidecar = Sidecar::start(ours, &mut self.api, &server_options).await?;
        let client_sidecar = Sidecar::start(ours, &mut self.api, &client_options).await?;
        let target = Target {
            address: client_sidecar.ready.outbound.to_string(),
            host: server,
        };
        probe::wait_for_answer(&target, "", &self.app.body)
            .await
            .with_context(|| format!("{name} does not answer"))?;
        Ok(Arm {
            name,
            target,
            client: client_sidecar,
            server: server_sidecar,
            logs,
            cpu: Vec::new(),
            seen: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        })
    }
}

impl Telling {
    fn has_lines(self) -> bool {
        matches!(self, Self::Lines | Self::Spans(_))
    }

    /// The flags of a sidecar whose access log is `log`, if it has one.
    pub(crate) fn flags(self, log: &Path) -> Vec<String> {
        match self {
            Self::Nothing => vec!["--request-metrics=false".to_owned()],
            Self::Metrics => Vec::new(),
            Self::Lines | Self::Spans(_) => {
                vec!["--access-log".to_owned(), log.display().to_string()]
            }
        }
    }

    /// The environment of a sidecar whose spans go to `collector`, if they go anywhere.
    pub(crate) fn environment(self, collector: Option<&Collector>) -> Vec<(&'static str, String)> {
        match (self, collector) {
            (Self::Spans(share), Some(collector)) => vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
                ("OTEL_TRACES_SAMPLER_ARG", share.to_owned()),
                ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
            ],
            _ => vec![("OTEL_SDK_DISABLED", "true".to_owned())],
        }
    }
}

impl Arm {
    /// One turn under load: CPU per request and sidecar.
    async fn spend(
        &mut self,
        wrk: &Path,
        seconds: u32,
        collector: &Collector,
    ) -> anyhow::Result<()> {
        self.begin_turn()?;
        let pids = [self.client.kid.pid(), self.server.kid.pid()];
        let (before, seen) = (Sample::take(&pids)?, collector.requests());
        let run = wrk::run(wrk, &self.target, CONNECTIONS, seconds).await?;
        tokio::time::sleep(SETTLE).await;
        let spent = Sample::take(&pids)?.since(&before);
        let handled = run.requests as f64 * pids.len() as f64;
        self.cpu.push(spent.nanoseconds as f64 / 1e3 / handled);
        self.seen
            .push((collector.requests() - seen) as f64 / handled);
        Ok(())
    }

    /// One turn with one request at a time: latency.
    async fn wait(&mut self, wrk: &Path, seconds: u32) -> anyhow::Result<()> {
        self.begin_turn()?;
        let run = wrk::run(wrk, &self.target, 1, seconds).await?;
        self.p50.push(run.p50_us);
        self.p99.push(run.p99_us);
        Ok(())
    }

    /// Its sidecars run and their logs are empty: rounds of lines would fill a disk.
    fn begin_turn(&mut self) -> anyhow::Result<()> {
        self.client.kid.check()?;
        self.server.kid.check()?;
        for log in &self.logs {
            let file = std::fs::OpenOptions::new().write(true).open(log);
            let emptied = file.and_then(|file| file.set_len(0));
            emptied.with_context(|| format!("cannot empty {}", log.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_told_to_tell_what_it_stands_for() {
        let all = |telling: Telling| telling.flags(Path::new("/logs/x.jsonl")).join(" ");
        assert_eq!(all(Telling::Nothing), "--request-metrics=false");
        assert_eq!(all(Telling::Metrics), "");
        assert_eq!(all(Telling::Lines), "--access-log /logs/x.jsonl");
        assert_eq!(
            Telling::Lines.environment(None),
            [("OTEL_SDK_DISABLED", "true".to_owned())]
        );
    }
}
