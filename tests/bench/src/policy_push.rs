//! `mesh-bench policy-push`: from the command that changes a policy to its enforcement, on open connections too.
//!
//! Real sidecars, all on this machine; a caller has a tunnel and a gRPC stream open through each, and a second caller a tunnel
//! that nothing forbids. Every change denies the first caller; its inverse lets it in again, which is not measured.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use crate::args::Common;
use crate::fleet::{Fleet, Kind, PATIENCE, all_ended};
use crate::machine::Machine;
use crate::mesh::{ControlApi, NAMESPACE, TRUST_DOMAIN};
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::quantile;

/// From the command to the acknowledgement of the last but one in a hundred sidecars, and to the closing of the last but
/// one in a hundred of what is forbidden.
const P99_SECONDS: f64 = 1.0;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sidecars, each a process of about 12 MB
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) sidecars: u32,
    /// Changes, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) changes: u32,
}

/// Times from the command, milliseconds.
#[derive(Debug, Serialize)]
struct Times {
    samples: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Times {
    fn of(times: &[Duration]) -> Self {
        let ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        let at = |q| quantile(&ms, q).unwrap_or(f64::NAN);
        Self {
            samples: ms.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("policy-push", Machine::look(&Programs::find()).await);
    report.placed(Some(
        "control API, sidecars, application and callers on all processors".to_owned(),
    ));
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (sidecars, changes) = match arguments.common.quick {
        true => (8, 3),
        false => (arguments.sidecars as usize, arguments.changes),
    };
    let ours = Ours::find().await?;
    let mut api = ControlApi::start(&ours, &[]).await?;
    let started = Instant::now();
    let fleet = Fleet::start(&ours, &mut api, sidecars, &[]).await?;
    report.figure("start_seconds", started.elapsed().as_secs_f64());
    report.figure("sidecars", fleet.len());
    report.figure(
        "sidecar_rss_mb",
        fleet.resident()? as f64 / f64::from(1 << 20),
    );
    let revision = api.apply(&policy("nobody")).await?;
    api.acknowledged(revision, sidecars, Instant::now(), PATIENCE)
        .await?;
    let banned = fleet.caller(&mut api, "banned").await?;
    let kept = fleet.caller(&mut api, "kept").await?;
    let mut kept = kept.open(Kind::Tunnel).await?;

    let (mut acknowledged, mut tunnels, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..changes {
        say(&format!("change {} of {changes}", turn + 1));
        let open_tunnels = banned.open(Kind::Tunnel).await?;
        let open_streams = banned.open(Kind::Stream).await?;
        let started = Instant::now();
        let change = async {
            let revision = api.apply(&policy("banned")).await?;
            api.acknowledged(revision, sidecars, started, PATIENCE)
                .await
        };
        let (acked, cut, ended) = tokio::try_join!(
            change,
            all_ended(open_tunnels, started),
            all_ended(open_streams, started),
        )?;
        if let Some(word) = ended.1.iter().find(|w| *w != "denied_by_policy") {
            bail!("a stream was ended with '{word}'");
        }
        acknowledged.extend(acked);
        tunnels.extend(cut.0);
        streams.extend(ended.0);
        let revision = api.apply(&policy("nobody")).await?;
        api.acknowledged(revision, sidecars, Instant::now(), PATIENCE)
            .await?;
    }
    let mut alive = 0;
    for tunnel in &mut kept {
        alive += usize::from(tunnel.is_alive().await);
    }
    report.figure("changes", changes);
    report.at_least(
        "others_still_open",
        Some(alive as f64 / sidecars as f64),
        1.0,
    );
    for (name, times) in [
        ("acknowledged", &acknowledged),
        ("tunnels_closed", &tunnels),
        ("streams_ended", &streams),
    ] {
        let times = Times::of(times);
        report.at_most(
            format!("{name}_p99_seconds"),
            Some(times.p99_ms / 1e3),
            P99_SECONDS,
        );
        report.figure(name, times);
    }
    Ok(())
}

/// Keeps one workload out, everywhere.
fn policy(whom: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: pushed, namespace: postern-system}}\n\
         spec: {{action: DENY, rules: [{{from: [{{source: {{principals: [\"{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{whom}\"]}}}}]}}]}}\n"
    )
}
