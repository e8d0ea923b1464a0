//! One real sidecar in the large mesh: what it holds, and what the first connection to somebody waits for.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use super::{ms, world};
use crate::exchange::Exchange;
use crate::mesh::{self, ControlApi, Sidecar, SidecarOptions};
use crate::programs::Ours;
use crate::statistics::{median, quantile};
use crate::{memory, ports};

/// Name of its workload.
const NAME: &str = "real";
/// First uses that are timed: services without workloads, whose answer needs no connection.
const IDLE: usize = 20;
/// Time for a request to a service whose workloads are nowhere: it is not waited for.
const NOWHERE: Duration = Duration::from_millis(500);
/// Time for what is used to be held.
const HELD: Duration = Duration::from_secs(10);

/// What was measured of it.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From its start, without a certificate, until it was ready.
    pub(super) ready_ms: f64,
    /// Resident then, and once the services of its application are in use.
    pub(super) rss_mb: f64,
    pub(super) rss_in_use_mb: f64,
    /// By name: what it holds then. Of everything it was told everything.
    services_held: Option<usize>,
    workloads_held: Option<usize>,
    /// The first request to a service, and to a host that nobody has; the whole exchange.
    pub(super) first_use_p50_ms: f64,
    first_use_max_ms: f64,
    nobody_p50_ms: f64,
    /// A request to a service that is known, for comparison.
    known_p50_ms: f64,
}

/// Registers its workload, and the services that its first uses are timed with.
pub(super) async fn register(api: &mut ControlApi) -> anyhow::Result<u16> {
    let [mesh_port] = ports::free()?;
    let idle = (0..IDLE).map(|i| mesh::service(&format!("idle{i}"), &[(80, 8080, "HTTP")]));
    let manifest: String = idle.collect();
    let manifest = manifest + &mesh::workload(NAME, mesh_port);
    api.apply(&manifest).await?;
    Ok(mesh_port)
}

/// Starts it, uses the services of the first simulated sidecar if there are `workloads`, and ends it.
pub(super) async fn measure(
    ours: &Ours,
    api: &mut ControlApi,
    mesh_port: u16,
    subscribe: &str,
    workloads: Option<u32>,
) -> anyhow::Result<Figures> {
    let options = SidecarOptions {
        name: NAME.to_owned(),
        mesh_port,
        flags: vec!["--subscribe".to_owned(), subscribe.to_owned()],
        ..SidecarOptions::default()
    };
    let sidecar = Sidecar::start(ours, api, &options).await?;
    let rss = || anyhow::Ok(memory::rss(sidecar.kid.pid())? as f64 / f64::from(1 << 20));
    let ready = rss()?;
    let request = async |host: &str, status: u16| {
        let started = Instant::now();
        let answer = Exchange::get(sidecar.ready.outbound, host, "/", b"").await?;
        if answer.status != status {
            bail!("{host} is answered {} and not {status}", answer.status);
        }
        anyhow::Ok(ms(started.elapsed()))
    };
    let (mut first, mut known, mut nobody) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..IDLE {
        // 503: there is no workload behind it. 404: there is no service.
        first.push(request(&format!("idle{i}"), 503).await?);
        known.push(request(&format!("idle{i}"), 503).await?);
        nobody.push(request(&format!("nobody{i}"), 404).await?);
    }
    let used = workloads.map(|workloads| world::uses(0, workloads));
    let (services, members) = used.unwrap_or_default();
    let calls = services.iter().map(|name| {
        let host = format!("{name}.{}", world::NAMESPACE);
        let outbound = sidecar.ready.outbound;
        async move {
            let _ = tokio::time::timeout(NOWHERE, Exchange::get(outbound, &host, "/", b"")).await;
        }
    });
    futures_util::future::join_all(calls).await;
    let deadline = Instant::now() + HELD;
    let held = async || {
        let admin = sidecar.ready.admin;
        let dump = Exchange::get(admin, "localhost", "/config_dump", b"").await?;
        let dump: Value = serde_json::from_str(dump.body()).context("no dump of the sidecar")?;
        let count = |kind: &str| dump[kind].as_array().map_or(0, Vec::len);
        anyhow::Ok((count("services"), count("workloads")))
    };
    // Beside those used: the idle ones, and itself.
    let expected = (services.len() + IDLE, members + 1);
    let mut by_name = None;
    while subscribe == "used" && by_name.is_none() {
        by_name = Some(held().await?).filter(|held| *held == expected);
        if Instant::now() > deadline {
            bail!("the sidecar does not come to hold {expected:?} services and workloads");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let middle = |times: &[f64]| median(times).unwrap_or(f64::NAN);
    Ok(Figures {
        ready_ms: ms(sidecar.start_up),
        rss_mb: ready,
        rss_in_use_mb: rss()?,
        services_held: by_name.map(|(services, _)| services),
        workloads_held: by_name.map(|(_, workloads)| workloads),
        first_use_p50_ms: middle(&first),
        first_use_max_ms: quantile(&first, 1.0).unwrap_or(f64::NAN),
        nobody_p50_ms: middle(&nobody),
        known_p50_ms: middle(&known),
    })
}
