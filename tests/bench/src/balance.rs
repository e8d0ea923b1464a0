//! `mesh-bench balance`: how evenly few connections lie on the workers of a sidecar, and what that does to their requests.
//!
//! With and without hand-over between workers. Connections are opened a few at a time, again and again: HTTP/1.1 from the
//! application to the outbound listener, mutual TLS from a peer to the mesh port. Each sidecar says itself what each worker
//! serves. Workers do not have to have a processor each for that. Requests are measured with two workers, in turns.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::args::Common;
use crate::arms::haproxy::Tokens;
use crate::arms::mesh_pair::{self, How, MeshPair};
use crate::arms::nginx::App;
use crate::exchange::Exchange;
use crate::load::callers::Groups;
use crate::load::first_byte::Echo;
use crate::load::http1::Connection;
use crate::machine::Machine;
use crate::probe;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::{median, quantile};
use crate::token::Issuer;
use crate::wrk::Target;

/// Connections at a time.
const FEW: [usize; 4] = [4, 8, 16, 64];
/// Workers.
const WORKERS: [usize; 3] = [2, 4, 8];
/// Connections of the worst worker over the mean, at most, with hand-over: a quarter, and what is left of one connection.
const WORST: f64 = 1.26;
/// Time for connections to be seen, or to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Times that each number of connections is opened
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let programs = Programs::find();
    let mut report = Report::new("balance", Machine::look(&programs).await);
    let outcome = measure(arguments, &programs, &mut report).await;
    report.concluded(outcome);
    report
}

/// What both arms are, by the value of `--hand-over`.
const ARMS: [&str; 2] = ["off", "on"];

async fn measure(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let ours = Ours::find().await?;
    let app = App::start(nginx).await?;
    let echo = Echo::start().await?;
    let issuer = Issuer::new("https://idp.bench", "k1")?;
    let quick = arguments.common.quick;
    let rounds = if quick { 2 } else { arguments.rounds };
    let workers = if quick { &WORKERS[..1] } else { &WORKERS[..] };
    for &workers in workers {
        let mut arms = Vec::new();
        for hand_over in ARMS {
            say(&format!("{workers} workers, hand-over {hand_over}"));
            let tokens = Tokens {
                issuer: &issuer,
                audience: "orders",
            };
            let flags = ["--workers", &workers.to_string(), "--hand-over", hand_over];
            let how = How {
                flags: flags.map(str::to_owned).to_vec(),
                ..How::default()
            };
            let echo = echo.address.to_string();
            let mut mesh = mesh_pair::start_with(&ours, &tokens, &app, &echo, &how).await?;
            mesh.api.apply(&mesh_pair::policy(None)).await?;
            probe::wait_for_answer(&mesh.pair.target, "", &app.body).await?;
            arms.push(mesh);
        }
        for (mesh, hand_over) in arms.iter().zip(ARMS) {
            for count in FEW {
                for (listener, worst) in [
                    ("outbound", outbound(mesh, count, rounds).await?),
                    ("mesh", mutual(mesh, count, rounds).await?),
                ] {
                    let name = format!("{listener}_{count}_connections_{workers}_workers");
                    let mean = worst.iter().sum::<f64>() / f64::from(rounds);
                    let most = quantile(&worst, 1.0);
                    report.figure(format!("worst_to_mean.{hand_over}.{name}"), mean);
                    // With fewer than four connections for each worker, one more is over a quarter.
                    if hand_over == "on" && count >= 4 * workers {
                        report.at_most(format!("worst_to_mean.{name}"), most, WORST);
                    }
                }
            }
        }
        if workers == 2 {
            requests(&arms, if quick { 1 } else { 5 }, report).await?;
        }
    }
    Ok(())
}

/// The worst worker's connections over the mean, each time that so many were open on the outbound listener.
async fn outbound(mesh: &MeshPair, count: usize, rounds: u32) -> anyhow::Result<Vec<f64>> {
    let admin = mesh.client.ready.admin;
    let request = request(&mesh.pair.target);
    let mut worst = Vec::new();
    for _ in 0..rounds {
        settled(admin, |open| open == 0).await?;
        let mut open = Vec::new();
        for _ in 0..count {
            // Answered before the next one comes, as a handshake is.
            let mut connection = Connection::open(&mesh.pair.target.address).await?;
            connection.ask(request.as_bytes()).await?;
            open.push(connection);
        }
        worst.push(worst_of(&settled(admin, |open| open == count).await?));
    }
    Ok(worst)
}

/// The same on the mesh port.
async fn mutual(mesh: &MeshPair, count: usize, rounds: u32) -> anyhow::Result<Vec<f64>> {
    let admin = mesh.server.ready.admin;
    let server = mesh.pair.tls.as_ref().context("no mesh port")?;
    let client = server.regular(Groups::X25519)?;
    let before: usize = settled(admin, |_| true).await?.iter().sum();
    let mut worst = Vec::new();
    for _ in 0..rounds {
        settled(admin, |open| open == before).await?;
        let _open = client.idle(count).await?;
        worst.push(worst_of(
            &settled(admin, |open| open == before + count).await?,
        ));
    }
    Ok(worst)
}

#[allow(clippy::cast_precision_loss)]
fn worst_of(workers: &[usize]) -> f64 {
    let all: usize = workers.iter().sum();
    let most = workers.iter().copied().max().unwrap_or(0);
    (most * workers.len()) as f64 / all.max(1) as f64
}

/// What each worker of a sidecar serves, once `is_so` of all of them.
async fn settled(admin: SocketAddr, is_so: impl Fn(usize) -> bool) -> anyhow::Result<Vec<usize>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = Exchange::get(admin, "127.0.0.1", "/metrics", b"").await?;
        let workers = shares(page.body());
        if is_so(workers.iter().sum()) {
            return Ok(workers);
        }
        if Instant::now() > deadline {
            bail!("workers serve {workers:?} connections after {PATIENCE:?}");
        }
        tokio::time::sleep(TICK).await;
    }
}

fn shares(metrics: &str) -> Vec<usize> {
    let values = metrics
        .lines()
        .filter(|line| line.starts_with("postern_worker_connections{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok());
    values.collect()
}

/// Requests per second and latency of few keep-alive connections, in turns.
async fn requests(arms: &[MeshPair], rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    for count in [4, 16] {
        let mut rates = [Vec::new(), Vec::new()];
        let mut tails = [Vec::new(), Vec::new()];
        for _ in 0..rounds * 4 {
            for (at, mesh) in arms.iter().enumerate() {
                let (rate, tail) = load(&mesh.pair.target, count).await?;
                rates[at].push(rate);
                tails[at].push(tail);
            }
        }
        for (at, hand_over) in ARMS.into_iter().enumerate() {
            let of = format!("{hand_over}.{count}_connections");
            report.figure(format!("requests_per_second.{of}"), median(&rates[at]));
            report.figure(
                format!("least_requests_per_second.{of}"),
                quantile(&rates[at], 0.0),
            );
            report.figure(format!("p99_us.{of}"), median(&tails[at]));
            report.figure(format!("worst_p99_us.{of}"), quantile(&tails[at], 1.0));
        }
    }
    Ok(())
}

fn request(target: &Target) -> String {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", target.host)
}

/// Half a second of requests on so many new connections, one at a time on each: their rate, and the 99th percentile in microseconds.
async fn load(target: &Target, count: usize) -> anyhow::Result<(f64, f64)> {
    let request = request(target);
    let began = Instant::now();
    let end = began + Duration::from_millis(500);
    let lanes = (0..count).map(|_| async {
        let mut connection = Connection::open(&target.address).await?;
        let mut taken = Vec::new();
        while Instant::now() < end {
            let asked = Instant::now();
            let answer = connection.ask(request.as_bytes()).await?;
            if answer.status != 200 {
                bail!("answered {}", answer.status);
            }
            taken.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        anyhow::Ok(taken)
    });
    let taken = futures_util::future::try_join_all(lanes).await?.concat();
    #[allow(clippy::cast_precision_loss)]
    let rate = taken.len() as f64 / began.elapsed().as_secs_f64();
    Ok((
        rate,
        quantile(&taken, 0.99).context("no request was answered")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_worker_is_told_by_the_mean() {
        let page = "# TYPE x gauge\npostern_worker_connections{worker=\"0\"} 3\npostern_worker_connections{worker=\"1\"} 1\n";
        assert_eq!(shares(page), [3, 1]);
        assert_eq!(worst_of(&shares(page)), 1.5);
        assert_eq!(worst_of(&[0, 0]), 0.0);
    }
}
