//! The hidden `meshctl demo-launch`: enters a network namespace, asks the kernel to end the process with its parent, and
//! becomes the program. What it buys: a demo that is killed leaves no process behind, without any unsafe code between
//! fork and exec.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::cli::DemoLaunchArgs;
use crate::failure::Failure;

/// Becomes the program; returns only when that fails.
pub(crate) fn run(arguments: &DemoLaunchArgs) -> Result<ExitCode, Failure> {
    #[cfg(target_os = "linux")]
    end_with_parent(arguments.parent)?;
    if let Some(path) = &arguments.netns {
        let failed = |error: std::io::Error| {
            Failure::problem(format!(
                "cannot enter the network namespace {}",
                path.display()
            ))
            .why(error)
        };
        let namespace = File::open(path).map_err(failed)?;
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .map_err(|error| failed(error.into()))?;
    }
    let (program, rest) = arguments
        .program
        .split_first()
        .ok_or_else(|| Failure::usage("no program to launch"))?;
    let error = Command::new(program).args(rest).exec();
    Err(Failure::problem(format!("cannot run {}", program.display())).why(error))
}

/// The wish survives exec; the parent is looked at afterwards, in case it ended before the wish was known.
#[cfg(target_os = "linux")]
fn end_with_parent(parent: i32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::problem("cannot tie this process to its parent").why(error))?;
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Failure::problem(
            "the demo ended before its program started",
        )),
    }
}
