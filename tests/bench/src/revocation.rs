//! `mesh-bench revocation`: from the command that revokes a SPIFFE ID to the last connection that is closed.
//!
//! Real sidecars, all on this machine. Each revoked identity has a connection with a tunnel and a gRPC stream to each of them;
//! another identity, which nobody revokes, has a tunnel and keeps it. The command is `meshctl revoke id --wait` itself.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use tokio::process::Command;

use crate::args::Common;
use crate::fleet::{Fleet, Kind, all_ended};
use crate::machine::Machine;
use crate::mesh::{ControlApi, NAMESPACE, TRUST_DOMAIN};
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::quantile;

/// From the command to the closing of the last but one in a hundred connections.
const P99_SECONDS: f64 = 1.0;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sidecars, each a process of about 12 MB
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) sidecars: u32,
    /// Identities that are revoked, one after the other
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) revocations: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("revocation", Machine::look(&Programs::find()).await);
    report.placed(Some(
        "control API, sidecars, application and callers on all processors".to_owned(),
    ));
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (sidecars, revocations) = match arguments.common.quick {
        true => (8, 2),
        false => (arguments.sidecars as usize, arguments.revocations),
    };
    let ours = Ours::find().await?;
    let mut api = ControlApi::start(&ours, &[]).await?;
    let fleet = Fleet::start(&ours, &mut api, sidecars, &[]).await?;
    let kept = fleet.caller(&mut api, "kept").await?;
    let mut kept = kept.open(Kind::Tunnel).await?;
    let (mut closed, mut ended, mut last, mut told) = (vec![], vec![], vec![], vec![]);
    for turn in 0..revocations {
        say(&format!("revocation {} of {revocations}", turn + 1));
        let name = format!("revoked-{turn}");
        let caller = fleet.caller(&mut api, &name).await?;
        let tunnels = caller.open(Kind::Tunnel).await?;
        let streams = caller.open(Kind::Stream).await?;
        let started = Instant::now();
        let (said, connections, tunnels, streams) = tokio::try_join!(
            revoke(&ours, &api, &name),
            caller.all_closed(started),
            all_ended(tunnels, started),
            all_ended(streams, started),
        )?;
        told.push(said);
        ended.extend(ms(tunnels.0));
        ended.extend(ms(streams.0));
        let connections: Vec<f64> = ms(connections).collect();
        last.extend(quantile(&connections, 1.0));
        closed.extend(connections);
    }
    let mut alive = 0;
    for tunnel in &mut kept {
        alive += usize::from(tunnel.is_alive().await);
    }
    report.figure("sidecars", fleet.len());
    report.figure("revocations", revocations);
    report.figure("connections", closed.len());
    for (name, times) in [
        ("connection_closed", &closed),
        ("last_connection_closed", &last),
        ("tunnel_or_stream_ended", &ended),
        ("p99_said_by_meshctl", &told),
    ] {
        report.figure(format!("{name}_p50_ms"), quantile(times, 0.5));
        report.figure(format!("{name}_p99_ms"), quantile(times, 0.99));
        report.figure(format!("{name}_max_ms"), quantile(times, 1.0));
    }
    let seconds = |times: &[f64], q| quantile(times, q).map(|ms| ms / 1e3);
    report.at_most(
        "connection_closed_p99_seconds",
        seconds(&closed, 0.99),
        P99_SECONDS,
    );
    report.at_most(
        "last_connection_closed_p99_seconds",
        seconds(&last, 0.99),
        P99_SECONDS,
    );
    #[allow(clippy::cast_precision_loss)]
    let alive = alive as f64 / sidecars as f64;
    report.at_least("others_still_open", Some(alive), 1.0);
    Ok(())
}

fn ms(times: Vec<Duration>) -> impl Iterator<Item = f64> {
    times.into_iter().map(|t| t.as_secs_f64() * 1e3)
}

/// Revokes by the command; returns the 99th percentile that it prints, milliseconds.
async fn revoke(ours: &Ours, api: &ControlApi, name: &str) -> anyhow::Result<f64> {
    let output = Command::new(&ours.meshctl)
        .arg("--socket")
        .arg(&api.ready.admin_socket)
        .args(["-o", "json", "revoke", "id"])
        .arg(format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{name}"))
        .arg("--wait")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("meshctl cannot be started")?;
    if !output.status.success() {
        bail!(
            "meshctl revoke: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let said: Value = serde_json::from_slice(&output.stdout)?;
    said["enforcement"]["p99_ms"]
        .as_f64()
        .context("meshctl does not say how long it took")
}
