//! What is measured of every arm in every round, and the medians.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::{Arm, Peer};
use crate::arms::nginx::{BULK, BULK_SIZE};
use crate::cpu::Sample;
use crate::load::{bulk, open, streams};
use crate::report::Report;
use crate::statistics::median;
use crate::wrk;

/// Keep-alive connections of the measurement that counts.
const CONNECTIONS: u32 = 32;
/// Streams in flight of the gRPC measurement.
const STREAMS: usize = 32;
/// Downloads of one round.
const DOWNLOADS: u32 = 2;

/// The figures of every arm by name, one value per round.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<Peer, BTreeMap<&'static str, Vec<f64>>>);

impl Rounds {
    pub(super) fn add(&mut self, peer: Peer, name: &'static str, value: f64) {
        self.0
            .entry(peer)
            .or_default()
            .entry(name)
            .or_default()
            .push(value);
    }

    pub(super) fn add_open(&mut self, peer: Peer, found: open::Latencies) {
        self.add(peer, "open_rate", found.rate);
        self.add(peer, "open_p50_us", found.p50_us);
        self.add(peer, "open_p99_us", found.p99_us);
        self.add(peer, "open_p999_us", found.p999_us);
    }

    /// The median of one figure.
    pub(super) fn of(&self, peer: Peer, name: &str) -> Option<f64> {
        median(self.0.get(&peer)?.get(name)?)
    }

    /// The highest rate of a closed loop.
    pub(super) fn most(&self, peer: Peer) -> Option<f64> {
        self.of(peer, "h1_c32_rps")
    }

    /// One line about the round that was measured last.
    pub(super) fn last(&self, peer: Peer) -> String {
        let last = |name| {
            self.0
                .get(&peer)
                .and_then(|f| f.get(name))
                .and_then(|v: &Vec<f64>| v.last())
                .map_or("-".to_owned(), |v| format!("{v:.1}"))
        };
        format!(
            "{}: {} us of CPU/request, {} requests/s, p50 {} us",
            peer.as_str(),
            last("h1_c32_cpu_us"),
            last("h1_c32_rps"),
            last("h1_c1_p50_us")
        )
    }

    /// Writes the medians into a report.
    pub(super) fn figures(&self, report: &mut Report) {
        for (peer, figures) in &self.0 {
            let medians: BTreeMap<_, _> = figures
                .iter()
                .map(|(name, values)| (*name, median(values)))
                .collect();
            report.figure(peer.as_str(), medians);
        }
    }
}

/// Measures one arm once.
pub(super) async fn measure(
    rounds: &mut Rounds,
    arm: &mut Arm,
    wrk: &Path,
    token: &str,
    seconds: u32,
) -> anyhow::Result<()> {
    if let Some(pair) = &mut arm.pair {
        pair.check()?;
    }
    let headers = arm.headers(token);
    let fields: Vec<&str> = headers.lines().collect();
    let peer = arm.peer;
    let load = |connections, seconds, fields| {
        wrk::run_with(wrk, &arm.target, connections, seconds, fields)
    };

    load(CONNECTIONS, 1, &fields).await?;
    let before = samples(arm)?;
    let loaded = load(CONNECTIONS, seconds, &fields).await?;
    if let Some([client, server]) = spent(arm, &before)? {
        let each = loaded.requests as f64;
        rounds.add(peer, "h1_c32_client_cpu_us", client / each);
        rounds.add(peer, "h1_c32_server_cpu_us", server / each);
        rounds.add(peer, "h1_c32_cpu_us", (client + server) / each);
    }
    rounds.add(peer, "h1_c32_rps", loaded.rps);
    rounds.add(peer, "h1_c32_p99_us", loaded.p99_us);

    let before = samples(arm)?;
    let single = load(1, seconds, &fields).await?;
    if let Some([client, server]) = spent(arm, &before)? {
        rounds.add(
            peer,
            "h1_c1_cpu_us",
            (client + server) / single.requests as f64,
        );
    }
    rounds.add(peer, "h1_c1_p50_us", single.p50_us);
    rounds.add(peer, "h1_c1_p99_us", single.p99_us);

    let many = load(256, seconds, &fields)
        .await
        .context("256 connections")?;
    rounds.add(peer, "h1_c256_rps", many.rps);
    rounds.add(peer, "h1_c256_p99_us", many.p99_us);

    let mut closing = fields.clone();
    closing.push("Connection: close");
    let before = samples(arm)?;
    let close = load(CONNECTIONS, seconds, &closing)
        .await
        .context("a connection for each request")?;
    if let Some([client, server]) = spent(arm, &before)? {
        let pair = (client + server) / close.requests as f64;
        rounds.add(peer, "close_cpu_us", pair);
    }

    if let Some(grpc) = &arm.grpc {
        let token = arm.authorization.then_some(token);
        streams::run(grpc, token, STREAMS, Duration::from_millis(300)).await?;
        let before = samples(arm)?;
        let time = Duration::from_secs(seconds.into());
        let answered = streams::run(grpc, token, STREAMS, time).await?;
        if let Some([client, server]) = spent(arm, &before)? {
            rounds.add(peer, "grpc_cpu_us", (client + server) / answered as f64);
        }
        rounds.add(peer, "grpc_rps", answered as f64 / time.as_secs_f64());
    }

    let before = samples(arm)?;
    let started = std::time::Instant::now();
    for _ in 0..DOWNLOADS {
        bulk::download(&arm.target, BULK, &headers, BULK_SIZE).await?;
    }
    let took = started.elapsed().as_secs_f64();
    let megabytes = (BULK_SIZE >> 20) as f64 * f64::from(DOWNLOADS);
    if let Some([client, server]) = spent(arm, &before)? {
        let pair = (client + server) / 1e3 / f64::from(DOWNLOADS);
        rounds.add(peer, "bulk_cpu_ms_per_64mb", pair);
    }
    rounds.add(peer, "bulk_mb_per_second", megabytes / took);
    Ok(())
}

/// Latencies of one arm at a fixed rate.
pub(super) async fn open_loop(
    arm: &Arm,
    token: &str,
    rate: f64,
    seconds: u32,
) -> anyhow::Result<open::Latencies> {
    let time = Duration::from_secs(seconds.into());
    open::run(&arm.target, &arm.headers(token), rate, time).await
}

/// Samples of the client and of the server side.
pub(super) fn samples(arm: &Arm) -> anyhow::Result<Vec<Sample>> {
    arm.counted()
        .iter()
        .map(|pid| Sample::take(&[*pid]))
        .collect()
}

/// Microseconds of processor time since the samples, client side first; none where nothing is counted.
pub(super) fn spent(arm: &Arm, before: &[Sample]) -> anyhow::Result<Option<[f64; 2]>> {
    let now = samples(arm)?;
    let spent: Vec<f64> = now
        .iter()
        .zip(before)
        .map(|(now, before)| now.since(before).nanoseconds as f64 / 1e3)
        .collect();
    Ok(spent.try_into().ok())
}
