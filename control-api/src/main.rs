//! `control-api`: arguments and exit codes.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use mesh_control::args::{Cli, Command};
use mesh_control::program;

/// A world of 100,000 workloads is made and freed with every change.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => program::init(&args),
        Command::Run(args) => program::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "control-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}
