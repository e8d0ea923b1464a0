//! `mesh-bench`: measures the mesh beside its peers, on this machine, and judges the outcome.
//!
//! A subcommand is a module with `Arguments` and `async fn run(&Arguments) -> Report`; the rooms below it are shared.
//! Standard output carries the report and nothing else; progress goes to standard error. Whatever ends the program, what
//! it started is ended first, except after SIGKILL.

mod args;
mod report;

mod balance;
mod decision_cost;
mod differential;
mod handshake;
mod instructions;
mod key_rotation;
mod misuse;
mod pair;
mod peers;
mod policy_push;
mod revocation;
mod scale;
mod telemetry_cost;
mod text_order;
mod token_cost;
mod trace;
mod upkeep;

mod arms;
mod beside;
mod collector;
mod cpu;
mod demo;
mod exchange;
mod fleet;
mod kid;
mod load;
mod machine;
mod memory;
// A room for every measurement that needs a mesh of its own; not each part is used by all.
#[allow(dead_code)]
mod mesh;
mod mirror;
mod placement;
mod ports;
mod probe;
mod programs;
mod sim;
mod statistics;
mod token;
mod wrk;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command};
use crate::report::Report;
use crate::upkeep::{outage, rotation};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&command)),
        Err(error) => Err(error.into()),
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        ExitCode::from(2)
    })
}

async fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Dropping the unfinished run ends everything that it started.
    let (report, json) = tokio::select! {
        outcome = perform(command) => outcome,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
        _ = hangup.recv() => return Ok(ExitCode::from(129)),
    };
    for problem in &report.problems {
        say(problem);
    }
    let text = if json {
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

/// Runs one subcommand; also whether its report is wanted as JSON.
async fn perform(command: &Command) -> (Report, bool) {
    match command {
        Command::Balance(a) => (balance::run(a).await, a.common.json),
        Command::DecisionCost(a) => (decision_cost::run(a).await, a.common.json),
        Command::Differential(a) => (differential::run(a).await, a.common.json),
        Command::Handshake(a) => (handshake::run(a).await, a.common.json),
        Command::KeyRotation(a) => (key_rotation::run(a).await, a.common.json),
        Command::Misuse(a) => (misuse::run(a).await, a.common.json),
        Command::Instructions(a) => (instructions::run(a).await, a.common.json),
        Command::Outage(a) => (outage::run(a).await, a.common.json),
        Command::Pair(a) => (pair::run(a).await, a.common.json),
        Command::Peers(a) => (peers::run(a).await, a.common.json),
        Command::PolicyPush(a) => (policy_push::run(a).await, a.common.json),
        Command::Revocation(a) => (revocation::run(a).await, a.common.json),
        Command::Rotation(a) => (rotation::run(a).await, a.common.json),
        Command::Scale(a) => (scale::run(a).await, a.common.json),
        Command::TelemetryCost(a) => (telemetry_cost::run(a).await, a.common.json),
        Command::TextOrder(a) => (text_order::run(a).await, a.common.json),
        Command::TokenCost(a) => (token_cost::run(a).await, a.common.json),
        Command::Trace(a) => (trace::run(a).await, a.common.json),
    }
}

/// A line of progress. Nobody may be listening, which is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "mesh-bench: {line}");
}
