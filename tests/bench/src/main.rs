//! `mesh-bench`: measures a pair of sidecars beside its peers, on this machine, and judges the outcome.
//!
//! Standard output carries the report and nothing else; progress goes to standard error. Whatever ends the program, what
//! it started is ended first, except after SIGKILL.

mod args;
mod arms;
mod cpu;
mod kid;
mod machine;
mod measure;
mod pair;
mod placement;
mod probe;
mod programs;
mod report;
mod wrk;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let Command::Pair(arguments) = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(error.into()),
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        ExitCode::from(2)
    })
}

async fn run(arguments: &args::PairArgs) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Dropping the unfinished run ends everything that it started.
    let report = tokio::select! {
        report = pair::run(arguments) => report,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
        _ = hangup.recv() => return Ok(ExitCode::from(129)),
    };
    let text = if arguments.json {
        serde_json::to_string(&report)?
    } else {
        report.table()
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .context("the report cannot be written")?;
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A line of progress. Nobody may be listening, which is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "mesh-bench: {line}");
}
