//! What is measured once: start, memory, handshakes, warm connections, system calls, many policies.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mesh_proto::admin::StatusRequest;
use tokio::process::Command;

use super::{Arguments, Arm, Peer, Rounds, rounds};
use crate::arms::mesh_pair::{self, MeshPair};
use crate::load::callers::{Caller, Groups};
use crate::load::first_byte;
use crate::memory;
use crate::programs::Programs;
use crate::report::Report;
use crate::statistics::{median, quantile};
use crate::wrk;

/// Bytes that a sidecar may have in memory when it is ready.
const START_RSS_MB: f64 = 12.0;
/// From certificate to readiness.
const READY_MS: f64 = 20.0;
/// What a new connection through a warm pool may take longer than a direct one.
const WARM_MS: f64 = 0.15;
/// Bytes of an idle mutual TLS connection.
const IDLE_KB: f64 = 10.0;
/// New connections of the warm pool's measurement.
const WARM_CONNECTIONS: usize = 300;
/// Time for a policy to reach a sidecar.
const REACH: Duration = Duration::from_secs(30);

/// Who connects, and the names of what it takes the server, how many of them a core of the server's can serve, and how long the
/// client waits.
const HANDSHAKES: [(Caller, [&str; 3]); 3] = [
    (
        Caller::Stranger,
        [
            "full_handshake_server_cpu_us",
            "full_handshakes_per_second_and_core",
            "new_connection_full_us",
        ],
    ),
    (
        Caller::Regular,
        [
            "known_chain_handshake_server_cpu_us",
            "known_chain_handshakes_per_second_and_core",
            "new_connection_known_chain_us",
        ],
    ),
    (
        Caller::Resuming,
        [
            "resumed_handshake_server_cpu_us",
            "resumed_handshakes_per_second_and_core",
            "new_connection_resumed_us",
        ],
    ),
];

const MB: f64 = (1 << 20) as f64;

/// Start-up of our sidecars.
pub(super) async fn start_up(report: &mut Report, mesh: &MeshPair) -> anyhow::Result<()> {
    let mut after = Vec::new();
    for sidecar in [&mesh.client, &mesh.server] {
        after.push(sidecar.ready_after_certificate_ms().await?);
    }
    report.figure(
        "start_to_ready_ms",
        mesh.client.start_up.as_secs_f64() * 1e3,
    );
    report.at_most(
        "ready_after_certificate_ms",
        quantile(&after, 1.0),
        READY_MS,
    );
    Ok(())
}

/// Memory before the first load.
pub(super) fn memory_at_start(report: &mut Report, arms: &[Arm]) -> anyhow::Result<()> {
    for arm in arms {
        let mut all = Vec::new();
        for pid in arm.counted() {
            all.push(memory::rss(pid)? as f64 / MB);
        }
        let Some(most) = quantile(&all, 1.0) else {
            continue;
        };
        report.figure(format!("rss_at_start_mb.{}", arm.peer.as_str()), most);
        if arm.peer == Peer::Postern {
            report.at_most("rss_at_start_mb", Some(most), START_RSS_MB);
        }
    }
    Ok(())
}

/// Handshakes and idle connections straight to each server side that speaks HTTP/2.
pub(super) async fn connections(
    report: &mut Report,
    rounds: &mut Rounds,
    arms: &[Arm],
    quick: bool,
) -> anyhow::Result<()> {
    let (handshakes, idle) = if quick { (50, 100) } else { (400, 1_000) };
    for _ in 0..3 {
        for (caller, [cpu, rate, latency]) in HANDSHAKES {
            for arm in arms {
                // The others resume only where they are configured to, which takes nothing from what is compared.
                if caller == Caller::Resuming && !matches!(arm.peer, Peer::Postern | Peer::Envoy) {
                    continue;
                }
                let Some(server) = arm.pair.as_ref().and_then(|pair| pair.tls.as_ref()) else {
                    continue;
                };
                let taken = server
                    .handshakes(caller, Groups::X25519, handshakes)
                    .await
                    .with_context(|| format!("handshakes with {}", arm.peer.as_str()))?;
                rounds.add(arm.peer, cpu, taken.server_cpu_us);
                rounds.add(arm.peer, rate, 1e6 / taken.server_cpu_us);
                rounds.add(arm.peer, latency, taken.latency_us);
            }
        }
    }
    for arm in arms {
        let Some(pair) = &arm.pair else { continue };
        let Some(server) = &pair.tls else { continue };
        let client = server.regular(Groups::Hybrid)?;
        // What the allocator keeps after the first connections is not theirs.
        drop(client.idle(idle / 10).await?);
        let before = memory::rss(pair.server)?;
        let held = client.idle(idle).await?;
        let after = memory::rss(pair.server)?;
        let each = after.saturating_sub(before) as f64 / 1024.0 / held.len() as f64;
        report.figure(format!("idle_connection_kb.{}", arm.peer.as_str()), each);
        if arm.peer == Peer::Postern {
            report.at_most("idle_connection_kb", Some(each), IDLE_KB);
        }
    }
    Ok(())
}

/// New opaque connections through a pool that has its mutual TLS connection already.
pub(super) async fn warm_pool(
    report: &mut Report,
    mesh: &MeshPair,
    echo: SocketAddr,
) -> anyhow::Result<()> {
    let through: SocketAddr = mesh.echo.address.parse()?;
    for address in [echo, through] {
        first_byte::measure(address, 20).await?;
    }
    let mut direct = Vec::new();
    let mut warm = Vec::new();
    for _ in 0..3 {
        direct.extend(first_byte::measure(echo, WARM_CONNECTIONS).await?);
        warm.extend(first_byte::measure(through, WARM_CONNECTIONS).await?);
    }
    let (direct, warm) = (median(&direct), median(&warm));
    report.figure("new_connection_us.direct", direct);
    report.figure("new_connection_us.postern_warm", warm);
    let more = direct.zip(warm).map(|(direct, warm)| (warm - direct) / 1e3);
    report.at_most("warm_connection_over_direct_ms", more, WARM_MS);
    Ok(())
}

/// System calls per request with one request in flight, counted by `perf`.
pub(super) async fn system_calls(
    report: &mut Report,
    programs: &Programs,
    arms: &[Arm],
    wrk: &Path,
    token: &str,
) -> anyhow::Result<()> {
    let Some(perf) = &programs.perf else {
        report.missing(&["linux-perf".to_owned()], false);
        return Ok(());
    };
    for arm in arms {
        let Some(pair) = &arm.pair else { continue };
        let headers = arm.headers(token);
        let fields: Vec<&str> = headers.lines().collect();
        for (connections, load) in [(1, "c1"), (32, "c32")] {
            let mut counts = Vec::new();
            for pid in [pair.client, pair.server] {
                let counting = count_calls(perf, pid);
                let run = wrk::run_with(wrk, &arm.target, connections, 2, &fields);
                let (calls, run) = tokio::join!(counting, run);
                let Some(calls) = calls? else {
                    report.figure("system_calls", "perf may not count raw_syscalls here");
                    return Ok(());
                };
                // perf counted for one of wrk's two seconds.
                counts.push(calls / run?.rps);
            }
            report.figure(format!("system_calls_{load}.{}", arm.peer.as_str()), counts);
        }
    }
    Ok(())
}

/// System calls of a process in one second; none if they cannot be counted.
async fn count_calls(perf: &Path, pid: u32) -> anyhow::Result<Option<f64>> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let output = Command::new(perf)
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(pid.to_string())
        .args(["--", "sleep", "1"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("perf cannot be started")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = text
        .lines()
        .find(|line| line.contains("raw_syscalls"))
        .and_then(|line| line.split(',').next()?.parse().ok());
    Ok(count)
}

/// CPU per request with policies that do not match, beside what it was without them.
pub(super) async fn many_policies(
    report: &mut Report,
    mesh: &mut MeshPair,
    arms: &[Arm],
    wrk: &Path,
    token: &str,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let Some(arm) = arms.iter().find(|a| a.peer == Peer::Postern) else {
        return Ok(());
    };
    let headers = arm.headers(token);
    let fields: Vec<&str> = headers.lines().collect();
    for count in [0, 10, 1_000] {
        if count > 0 {
            let revision = mesh.api.apply(&mesh_pair::other_policies(count)).await?;
            reached(mesh, revision).await?;
        }
        wrk::run_with(wrk, &arm.target, 32, 1, &fields).await?;
        let before = rounds::samples(arm)?;
        let run = wrk::run_with(wrk, &arm.target, 32, arguments.seconds(), &fields).await?;
        if let Some([client, server]) = rounds::spent(arm, &before)? {
            report.figure(
                format!("h1_c32_cpu_us.with_{count}_more_policies"),
                (client + server) / run.requests as f64,
            );
        }
    }
    Ok(())
}

/// Waits until every connected sidecar holds a revision.
async fn reached(mesh: &mut MeshPair, revision: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + REACH;
    loop {
        let status = mesh.api.admin.status(StatusRequest::default()).await?;
        let sidecars = status.into_inner().sidecars;
        let mut connected = sidecars.iter().filter(|s| s.connected);
        if connected.all(|s| s.acked_revision >= revision) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("revision {revision} did not reach the sidecars within {REACH:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
