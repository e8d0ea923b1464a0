//! `meshctl`, what a person types.
//!
//! This file owns the way from arguments to an exit code: 0 ok, 1 a problem was found, 2 wrong usage, 3 the control API
//! could not be reached. Everything else lives in the modules, in the order a command meets them.

mod cli;
mod commands;
mod connect;
mod demo;
mod failure;
mod moment;
mod offline;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // These two replace or re-shape the process and must run before any thread exists.
    let outcome = match cli.command {
        Command::DemoLaunch(arguments) => demo::launch::run(&arguments),
        Command::Demo(arguments) => demo::prepare_process(&arguments).and_then(|programs| {
            let json = arguments.json || cli.global.output == cli::Format::Json;
            on_runtime(demo::run(arguments, programs, json))
        }),
        Command::DemoApp(arguments) => on_runtime(demo::app::run(arguments)),
        command => on_runtime(commands::run(command, cli.global)),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

/// Runs a command on a single-threaded runtime: children must be spawned by the main thread, whose end is the process's
/// end (a child asks to be told when the *thread* that made it dies).
fn on_runtime(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::problem(format!("could not start: {error}"))
                .next("check the limits on open files and threads (`ulimit -a`)")
        })?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}
