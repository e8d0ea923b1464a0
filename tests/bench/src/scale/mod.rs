//! `mesh-bench scale`: a registry of many workloads, many connected sidecars, and what a change and a start-up storm take.
//!
//! Control API and simulated sidecars share the machine: what is told includes the simulation's own work.

mod real;
mod world;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use mesh_proto::ResourceType;
use serde::Serialize;

use crate::args::Common;
use crate::machine::Machine;
use crate::mesh::ControlApi;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::sim::{Fleet, Subscribe};
use crate::statistics::{median, quantile};
use crate::{cpu, memory, say};

/// From a change to its acknowledgement by the last but one in a hundred sidecars.
const PUSH_P99_SECONDS: f64 = 1.0;
/// Memory that a sidecar may take for the services it uses, whatever the size of the mesh.
const IN_USE_MB: f64 = 2.0;
/// What the first request to a service may take in all, the control API asked twice.
const FIRST_USE_MS: f64 = 5.0;
/// Time for the slowest stream or certificate of a storm.
const PATIENCE: Duration = Duration::from_secs(300);
/// Certificate requests in flight: what the processors can do at once is a handful, the rest waits in the server's queue.
const STORM: usize = 2_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Workloads in the registry
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) workloads: u32,
    /// Connected sidecars; each uses five services
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    pub(crate) sidecars: u32,
    /// Changes that are pushed one after the other
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) changes: u32,
}

impl Arguments {
    fn sizes(&self) -> (u32, u32, u32) {
        if self.common.quick {
            (2_000, 100, 3)
        } else {
            (self.workloads, self.sidecars, self.changes)
        }
    }
}

/// Times of a change from the request to apply it to the acknowledgements.
#[derive(Debug, Serialize)]
struct Push {
    applied_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("scale", Machine::look(&Programs::find()).await);
    report.placed(Some(
        "control API and simulated sidecars on all processors".to_owned(),
    ));
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (workloads, sidecars, changes) = arguments.sizes();
    let ours = Ours::find().await?;
    let mut api = ControlApi::start(&ours, &[]).await?;
    report.figure("workloads", workloads);
    report.figure("sidecars", sidecars);
    report.figure("control_api_start_ms", ms(api.start_up));
    let port = real::register(&mut api).await?;
    say("a real sidecar alone");
    let alone = real::measure(&ours, &mut api, port, "used", None).await?;
    let empty = memory::rss(api.kid.pid())?;

    say(&format!("registering {workloads} workloads"));
    let started = Instant::now();
    for manifest in world::manifests(workloads) {
        api.apply(&manifest).await?;
    }
    report.figure("register_seconds", started.elapsed().as_secs_f64());
    let registered = memory::rss(api.kid.pid())?;
    report.figure(
        "bytes_per_workload",
        per(registered.saturating_sub(empty), workloads),
    );

    say("a real sidecar among them, by name and holding everything");
    let used = real::measure(&ours, &mut api, port, "used", Some(workloads)).await?;
    let all = real::measure(&ours, &mut api, port, "all", Some(workloads)).await?;
    report.at_most(
        "sidecar_in_use_mb_above_alone",
        Some(used.rss_in_use_mb - alone.rss_in_use_mb),
        IN_USE_MB,
    );
    report.at_most(
        "sidecar_first_use_p50_ms",
        Some(used.first_use_p50_ms),
        FIRST_USE_MS,
    );
    report.ratio(
        "sidecar_rss_by_name_of_all",
        crate::statistics::ratio(Some(used.rss_in_use_mb), Some(all.rss_in_use_mb)),
    );
    report.ratio(
        "sidecar_ready_by_name_of_all",
        crate::statistics::ratio(Some(used.ready_ms), Some(all.ready_ms)),
    );
    for (name, figures) in [("alone", alone), ("by_name", used), ("all", all)] {
        report.figure(format!("sidecar_{name}"), figures);
    }

    say(&format!("{sidecars} join tokens"));
    let names: Vec<String> = (0..sidecars)
        .map(|i| world::sidecar(i, workloads))
        .collect();
    let mut tokens = Vec::with_capacity(names.len());
    for name in &names {
        tokens.push(api.join_token(name).await?);
    }

    say("start-up storm: certificates for all at once");
    let mut fleet = Fleet::new(api.target()?);
    let before = cpu::Sample::take(&[api.kid.pid()])?;
    let started = Instant::now();
    let issued = fleet.enrol(&tokens, STORM).await?;
    let storm = started.elapsed();
    let spent = cpu::Sample::take(&[api.kid.pid()])?.since(&before);
    let waits: Vec<f64> = issued.iter().map(|(_, t)| ms(*t)).collect();
    report.figure("certificates_issued", issued.len());
    report.figure("storm_seconds", storm.as_secs_f64());
    report.figure("storm_slowest_ms", quantile(&waits, 1.0));
    report.figure(
        "certificate_cpu_us",
        spent.nanoseconds as f64 / 1e3 / f64::from(sidecars),
    );
    report.at_least(
        "certificates_served_of_asked",
        Some(issued.len() as f64 / f64::from(sidecars)),
        1.0,
    );

    say("start-up storm: all streams at once");
    let without = memory::rss(api.kid.pid())?;
    let started = Instant::now();
    for (index, (name, (identity, _))) in (0..).zip(names.iter().zip(issued)) {
        fleet.add(name, identity, &subscriptions(index, name, workloads));
    }
    fleet.greeted(names.len(), PATIENCE).await?;
    report.figure("streams_seconds", started.elapsed().as_secs_f64());
    let with = memory::rss(api.kid.pid())?;
    let each = per(with.saturating_sub(without), sidecars);
    report.figure("bytes_per_connected_sidecar", each);
    report.figure("control_api_rss_mb", with as f64 / f64::from(1 << 20));
    let (resources, bytes) = fleet.received();
    report.figure("resources_sent", resources);
    report.figure("resource_bytes_sent", bytes);

    let cpu_before = cpu::Sample::take(&[api.kid.pid()])?;
    let policy = push(&mut api, &mut fleet, changes, Change::Policy).await?;
    let endpoint = push(&mut api, &mut fleet, changes, Change::Endpoint).await?;
    let cpu = cpu::Sample::take(&[api.kid.pid()])?.since(&cpu_before);
    report.figure(
        "control_api_cpu_ms_per_change",
        cpu.nanoseconds as f64 / 1e6 / f64::from(2 * changes),
    );
    for (name, push) in [("policy", policy), ("endpoint", endpoint)] {
        report.at_most(
            format!("{name}_change_p99_seconds"),
            Some(push.p99_ms / 1e3),
            PUSH_P99_SECONDS,
        );
        report.figure(format!("{name}_change"), push);
    }
    Ok(())
}

/// What is changed.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// A policy that holds for everybody.
    Policy,
    /// A workload that everybody calls.
    Endpoint,
}

async fn push(
    api: &mut ControlApi,
    fleet: &mut Fleet,
    changes: u32,
    change: Change,
) -> anyhow::Result<Push> {
    say(&format!("{changes} changes: {change:?}"));
    let mut times = Vec::new();
    let mut applied = Vec::new();
    // Turn 0 was registered with everything else: applied again, it would change nothing.
    for turn in 1..=changes {
        let (kind, name, manifest) = match change {
            Change::Policy => (
                ResourceType::AuthorizationPolicy,
                world::POLICY,
                world::policy(turn),
            ),
            Change::Endpoint => (ResourceType::Workload, world::SHARED, world::shared(turn)),
        };
        let arrivals = fleet.expect(kind, name);
        let started = Instant::now();
        let round = async {
            api.apply(&manifest).await?;
            let took = started.elapsed();
            let arrived = arrivals.all(started, PATIENCE).await?;
            Ok((took, arrived))
        };
        let (took, arrived) = fleet
            .run_until(round)
            .await
            .with_context(|| format!("change {turn} ({change:?})"))?;
        applied.push(ms(took));
        times.extend(arrived.into_iter().map(ms));
    }
    let of = |q| quantile(&times, q).unwrap_or(f64::NAN);
    Ok(Push {
        applied_ms: median(&applied).unwrap_or(f64::NAN),
        p50_ms: of(0.5),
        p99_ms: of(0.99),
        max_ms: of(1.0),
    })
}

/// What a sidecar in use asks for when it connects again: everything that guards it, itself, five services and another that
/// everybody uses, by the names that a sidecar's application calls them by.
fn subscriptions(index: u32, name: &str, workloads: u32) -> Rc<HashMap<ResourceType, Subscribe>> {
    let (services, _) = world::uses(index, workloads);
    let (hosts, members) = world::subscriptions(name, &services);
    let all = ResourceType::ALL.into_iter().map(|kind| {
        let subscribe = match kind {
            ResourceType::Service => Subscribe::Names(hosts.clone()),
            ResourceType::Workload => Subscribe::Names(members.clone()),
            _ => Subscribe::All,
        };
        (kind, subscribe)
    });
    Rc::new(all.collect())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn per(bytes: u64, things: u32) -> f64 {
    bytes as f64 / f64::from(things)
}
