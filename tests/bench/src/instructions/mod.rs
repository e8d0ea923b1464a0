//! `mesh-bench instructions`: instructions that each sidecar of a pair executes for one request, counted by callgrind.
//!
//! The count of an undisturbed request hardly differs from run to run, whatever else the machine does: what a change
//! costs shows in review, before a clock could tell. `tests/bench/instructions.md` keeps the counts; a run is held to
//! them, and `--update` writes them anew.

mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use tokio::process::Command;

use crate::args::Common;
use crate::arms::haproxy::Tokens;
use crate::arms::mesh_pair::{self, How, MeshPair};
use crate::arms::nginx::App;
use crate::collector::Collector;
use crate::load::callers::{Caller, Groups};
use crate::load::first_byte::Echo;
use crate::load::http1::Connection;
use crate::machine::Machine;
use crate::probe;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::telemetry_cost::Telling;
use crate::token::Issuer;
use crate::wrk::Target;

const AUDIENCE: &str = "orders";
const ISSUER: &str = "https://idp.bench";
/// The sidecars of a pair, in the order of their counts.
const SIDES: [&str; 2] = ["outbound", "inbound"];
/// Requests before counting: connections are made, caches and buffers are warm.
const WARM_UP: usize = 320;
/// Instructions per request over those in the table, at most. Compilers and processors differ by less.
const MORE: f64 = 1.03;
/// Time for the profiler to do as it is told.
const ORDER: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Requests that are counted with each number of connections
    #[arg(long, default_value_t = 3_200, value_parser = clap::value_parser!(u32).range(320..=1_000_000))]
    pub(crate) requests: u32,
    /// Write the table in the repository anew, instead of being held to it
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    pub(crate) update: bool,
    /// Count this part alone
    #[arg(long)]
    pub(crate) only: Option<Part>,
    /// Keep callgrind's dumps in this folder, for callgrind_annotate; the last before a figure is said is the figure's
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Requests with and without a token.
    Tokens,
    /// Requests without a token, by how much is told of them.
    Telemetry,
    /// Mutual TLS connections to the mesh port, from accept to close, without a request.
    Handshakes,
}

/// How much is told, by the name of its figures.
const TELLING: [(&str, Telling); 4] = [
    ("nothing_told", Telling::Nothing),
    ("metrics", Telling::Metrics),
    ("access_log", Telling::Lines),
    ("all_told", Telling::Spans("0.01")),
];

/// Who connects to the mesh port, by the name of its figure.
const CALLERS: [(&str, Caller); 3] = [
    ("full_handshake", Caller::Stranger),
    ("known_chain_handshake", Caller::Regular),
    ("resumed_handshake", Caller::Resuming),
];

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let programs = Programs::find();
    let mut report = Report::new("instructions", Machine::look(&programs).await);
    report.placed(Some(
        "under callgrind; instructions, not time, are counted".to_owned(),
    ));
    let outcome = held_to_table(arguments, &programs, &mut report).await;
    report.concluded(outcome);
    report
}

/// Counts, and compares with what the repository says or has it say so.
async fn held_to_table(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let counts = measure(arguments, programs).await?;
    for (name, count) in &counts {
        report.figure(name.clone(), count.round());
    }
    if arguments.update {
        return table::write(&counts);
    }
    let table = table::read()?;
    for (name, count) in &counts {
        let before = table.get(name);
        let ratio = before.map(|before| count / before);
        report.at_most(format!("{name}_to_table"), ratio, MORE);
    }
    Ok(())
}

/// Instructions per request, by a name for the sidecar and the load.
async fn measure(arguments: &Arguments, programs: &Programs) -> anyhow::Result<Vec<(String, f64)>> {
    let requests = if arguments.common.quick {
        320
    } else {
        arguments.requests as usize
    };
    let valgrind = programs
        .valgrind
        .as_deref()
        .context("valgrind is missing; install the package `valgrind`")?;
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let passing = tempfile::tempdir()?;
    let folder = arguments.keep.as_deref().unwrap_or(passing.path());
    let bench = Bench {
        ours: Ours::find().await?,
        app: App::start(nginx).await?,
        echo: Echo::start().await?,
        issuer: Issuer::new(ISSUER, "k1")?,
        control: valgrind.with_file_name("callgrind_control"),
        folder,
        under: vec![
            valgrind.into(),
            "--tool=callgrind".into(),
            "--quiet".into(),
            format!("--callgrind-out-file={}/out.%p", folder.display()).into(),
        ],
        requests,
    };
    let mut counts = Vec::new();
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    if wanted(Part::Tokens) {
        bench.tokens(&mut counts).await?;
    }
    if wanted(Part::Telemetry) {
        for (name, telling) in TELLING {
            bench.telemetry(name, telling, &mut counts).await?;
        }
    }
    if wanted(Part::Handshakes) {
        bench.handshakes(&mut counts).await?;
    }
    Ok(counts)
}

/// What every pair of sidecars is started with.
struct Bench<'a> {
    ours: Ours,
    app: App,
    echo: Echo,
    issuer: Issuer,
    control: PathBuf,
    folder: &'a Path,
    under: Vec<OsString>,
    requests: usize,
}

impl Bench<'_> {
    async fn start(&self, how: How) -> anyhow::Result<MeshPair> {
        say("starting the sidecars under callgrind");
        let tokens = Tokens {
            issuer: &self.issuer,
            audience: AUDIENCE,
        };
        let how = How {
            under: self.under.clone(),
            ..how
        };
        let echo = self.echo.address.to_string();
        mesh_pair::start_with(&self.ours, &tokens, &self.app, &echo, &how).await
    }

    fn counter<'a>(&'a self, mesh: &MeshPair, target: &'a Target) -> Counter<'a> {
        Counter {
            control: &self.control,
            folder: self.folder,
            pids: [mesh.pair.client, mesh.pair.server],
            target,
        }
    }

    /// With a remembered token, and without one.
    async fn tokens(&self, counts: &mut Vec<(String, f64)>) -> anyhow::Result<()> {
        let token = self.issuer.sign(json!({
            "sub": "alice", "aud": AUDIENCE, "scope": "read write", "tenant": "acme",
            "jti": "0123456789abcdef",
        }))?;
        let mut mesh = self.start(How::default()).await?;
        let target = mesh.pair.target.clone();
        let headers = format!("Authorization: Bearer {token}\r\n");
        probe::wait_for_answer(&target, &headers, &self.app.body).await?;
        let counter = self.counter(&mesh, &target);
        for connections in [1, 32] {
            let each = counter.count(&headers, connections, self.requests).await?;
            say(&format!(
                "{connections} connections: {each:.0?} instructions per request"
            ));
            for (side, each) in SIDES.into_iter().zip(each) {
                counts.push((format!("{side}_cached_token_c{connections}"), each));
            }
        }

        // From here on requests without a token pass as well.
        mesh.api.apply(&mesh_pair::policy(None)).await?;
        probe::wait_for_answer(&target, "", &self.app.body).await?;
        let filler = format!("X-Filler: Bearer {}\r\n", "x".repeat(token.len()));
        for (name, headers) in [
            ("no_token", ""),
            ("header_as_long_as_a_token", filler.as_str()),
        ] {
            let [_, server] = counter.count(headers, 32, self.requests).await?;
            say(&format!("{name}: {server:.0} instructions per request"));
            counts.push((format!("inbound_{name}_c32"), server));
        }
        Ok(())
    }

    /// Without a token, where so much is told of each request. What is exported and written is counted with it.
    async fn telemetry(
        &self,
        name: &str,
        telling: Telling,
        counts: &mut Vec<(String, f64)>,
    ) -> anyhow::Result<()> {
        let collector = Collector::counting().await?;
        let lines = tempfile::tempdir()?;
        let how = How {
            flags: telling.flags(&lines.path().join("access.jsonl")),
            environment: telling.environment(Some(&collector)),
            ..How::default()
        };
        let mut mesh = self.start(how).await?;
        let target = mesh.pair.target.clone();
        mesh.api.apply(&mesh_pair::policy(None)).await?;
        probe::wait_for_answer(&target, "", &self.app.body).await?;
        let counter = self.counter(&mesh, &target);
        let each = counter.count("", 32, self.requests).await?;
        say(&format!("{name}: {each:.0?} instructions per request"));
        for (side, each) in SIDES.into_iter().zip(each) {
            counts.push((format!("{side}_{name}_c32"), each));
        }
        Ok(())
    }

    /// Connections to the mesh port, one after the other, of each kind of client.
    async fn handshakes(&self, counts: &mut Vec<(String, f64)>) -> anyhow::Result<()> {
        let mesh = self.start(How::default()).await?;
        let server = mesh.pair.tls.as_ref().context("it has no mesh port")?;
        for (name, caller) in CALLERS {
            let row = server.row(caller, Groups::X25519, self.requests).await?;
            order(&self.control, "--zero", server.pid).await?;
            row.call().await?;
            order(&self.control, "--dump", server.pid).await?;
            #[allow(clippy::cast_precision_loss)]
            let each = dumped(self.folder, server.pid).await? as f64 / self.requests as f64;
            say(&format!("{name}: {each:.0} instructions per connection"));
            counts.push((format!("inbound_{name}_x25519"), each));
        }
        Ok(())
    }
}

/// Counts what both sidecars execute.
struct Counter<'a> {
    control: &'a Path,
    folder: &'a Path,
    pids: [u32; 2],
    target: &'a Target,
}

impl Counter<'_> {
    /// Instructions per request of the client's and of the server's sidecar, once they are warm.
    async fn count(
        &self,
        headers: &str,
        connections: usize,
        requests: usize,
    ) -> anyhow::Result<[f64; 2]> {
        ask(self.target, headers, connections, WARM_UP).await?;
        for pid in self.pids {
            order(self.control, "--zero", pid).await?;
        }
        ask(self.target, headers, connections, requests).await?;
        let mut each = [0.0; 2];
        for (each, pid) in each.iter_mut().zip(self.pids) {
            order(self.control, "--dump", pid).await?;
            let total = dumped(self.folder, pid).await?;
            *each = total as f64 / requests as f64;
        }
        Ok(each)
    }
}

/// Sends requests over some keep-alive connections, one at a time on each, and reads the answers.
async fn ask(
    target: &Target,
    headers: &str,
    connections: usize,
    requests: usize,
) -> anyhow::Result<()> {
    let lanes = (0..connections).map(|_| lane(target, headers, requests / connections));
    futures_util::future::try_join_all(lanes).await?;
    Ok(())
}

async fn lane(target: &Target, headers: &str, requests: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(&target.address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", target.host);
    for _ in 0..requests {
        let answer = connection.ask(request.as_bytes()).await?;
        if answer.status != 200 {
            bail!("answered {}", answer.status);
        }
    }
    Ok(())
}

/// Has callgrind do something to a process that runs under it.
pub(crate) async fn order(control: &Path, what: &str, pid: u32) -> anyhow::Result<()> {
    let command = Command::new(control)
        .arg(what)
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ORDER, command)
        .await
        .context("callgrind_control does not end")?
        .context("callgrind_control cannot be started")?;
    if !output.status.success() {
        bail!("callgrind_control {what} failed ({})", output.status);
    }
    Ok(())
}

/// Instructions in the newest dump of a process.
pub(crate) async fn dumped(folder: &Path, pid: u32) -> anyhow::Result<u64> {
    let deadline = Instant::now() + ORDER;
    let prefix = format!("out.{pid}.");
    loop {
        let mut dumps: Vec<(u64, std::path::PathBuf)> = std::fs::read_dir(folder)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
                Some((number.parse().ok()?, path.clone()))
            })
            .collect();
        dumps.sort();
        // The totals are its last line: whoever can read them has all of it.
        if let Some((_, newest)) = dumps.last()
            && let Some(total) = totals(&std::fs::read_to_string(newest)?)
        {
            return Ok(total);
        }
        if Instant::now() > deadline {
            bail!("callgrind wrote nothing for process {pid}");
        }
        tokio::time::sleep(TICK).await;
    }
}

fn totals(dump: &str) -> Option<u64> {
    dump.lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals:"))
        .and_then(|total| total.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_a_dump_are_read() {
        assert_eq!(
            totals("# callgrind format\nfn=x\n1 2\ntotals: 41\n"),
            Some(41)
        );
        assert_eq!(totals("fn=x\n1 2\n"), None);
    }
}
