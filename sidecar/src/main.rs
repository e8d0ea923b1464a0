//! `sidecar`: arguments and exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_sidecar::args::{Cli, Command};
use mesh_sidecar::{capture_cli, program};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => program::run(args).map(|()| ExitCode::SUCCESS),
        Command::Capture(args) => Ok(capture_cli::run(args)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format_args!("{error:#}"), "cannot run");
            // Logging may not be set up yet.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("sidecar: {error:#}\n"),
            );
            ExitCode::FAILURE
        }
    }
}
