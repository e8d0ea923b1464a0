//! The commands that ask a control API.

pub(crate) mod apply;
mod authz;
mod budget;
mod ca;
mod check;
mod delete;
mod device;
mod documents;
mod edges;
mod get;
mod history;
mod mtls;
mod policy;
pub(crate) mod revoke;
mod status;
mod tap;
pub(crate) mod token;
mod top;

use std::process::ExitCode;

use crate::cli::{AuthzCommand, Command, Global, MtlsCommand, PolicyCommand};
use crate::connect::{Admin, Target};
use crate::failure::Failure;
use crate::progress::Progress;

/// Runs one command.
pub(crate) async fn run(command: Command, global: Global) -> Result<ExitCode, Failure> {
    let output = global.output;
    // What asks no control API needs no address of one.
    match &command {
        Command::Policy(PolicyCommand::Test(arguments)) => return policy::test(arguments, output),
        Command::Policy(PolicyCommand::Lint(arguments)) if !arguments.live => {
            return policy::lint_files(arguments, output);
        }
        _ => {}
    }
    let target = Target::from_options(&global)?;
    if let Command::Check(arguments) = command {
        return check::run(&target, &arguments, output).await;
    }
    // Manifests are read before anything is dialled: a missing file is no reason to bother a server.
    let manifests = match &command {
        Command::Apply(arguments) => apply::read(&arguments.files)?,
        _ => Vec::new(),
    };
    if let Command::Ca(command) = command {
        return ca::run(&target, &command, output).await;
    }
    let mut admin = open(&target).await?;
    // It waits for what happens, not for the control API.
    match command {
        Command::Tap(arguments) => return tap::run(&mut admin, arguments, output).await,
        Command::Top(arguments) => return top::run(&mut admin, arguments, output).await,
        _ => {}
    }
    let _progress = Progress::start(format!("waiting for the control API at {target}"));
    match command {
        Command::Apply(arguments) => apply::run(&mut admin, &manifests, &arguments, output).await,
        Command::Get(arguments) => get::run(&mut admin, arguments, output).await,
        Command::Delete(arguments) => delete::run(&mut admin, arguments, output).await,
        Command::Token(command) => token::run(&mut admin, command, output).await,
        Command::Device(command) => device::run(&mut admin, command, output).await,
        Command::Revoke(command) => revoke::run(&mut admin, command, output).await,
        Command::Status => status::run(&mut admin, output).await,
        Command::Edges(arguments) => edges::run(&mut admin, arguments, output).await,
        Command::Budget(arguments) => budget::run(&mut admin, arguments, output).await,
        Command::History(arguments) => history::run(&mut admin, arguments, output).await,
        Command::Rollback(arguments) => history::rollback(&mut admin, arguments, output).await,
        Command::Authz(AuthzCommand::Why(arguments)) => {
            authz::why(&mut admin, *arguments, output).await
        }
        Command::Mtls(MtlsCommand::Readiness(arguments)) => {
            mtls::readiness(&mut admin, arguments, output).await
        }
        Command::Policy(PolicyCommand::Diff(arguments)) => {
            policy::diff(&mut admin, arguments, output).await
        }
        Command::Policy(PolicyCommand::Shadow(arguments)) => {
            policy::shadow(&mut admin, arguments, output).await
        }
        Command::Policy(PolicyCommand::Lint(_)) => policy::lint_live(&mut admin, output).await,
        Command::Ca(_)
        | Command::Tap(_)
        | Command::Top(_)
        | Command::Policy(PolicyCommand::Test(_))
        | Command::Check(_)
        | Command::Demo(_)
        | Command::DemoApp(_)
        | Command::DemoLaunch(_) => Err(Failure::usage("this command asks no control API")),
    }
}

async fn open(target: &Target) -> Result<Admin, Failure> {
    let _progress = Progress::start(format!("connecting to the control API at {target}"));
    target.connect().await
}
