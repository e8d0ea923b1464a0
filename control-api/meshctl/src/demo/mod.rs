//! `meshctl demo`: a whole mesh on this machine, with the real programs, from nothing.
//!
//! [`prepare_process`] finds the programs and enters the hub's network namespace; [`run`] starts everything through a
//! [`stage::Stage`], sends real traffic and tears everything down again, whatever happened. In the explicit mode all
//! sockets are on loopback; with `--netns` every workload has a network namespace of its own and its traffic is captured.

pub(crate) mod app;
pub(crate) mod launch;

mod checks;
mod client;
mod documents;
mod hold;
mod issuer;
mod mesh;
mod netns;
mod place;
mod programs;
mod report;
mod scratch;
mod stage;
mod wire;

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::issuer::Issuer;
use self::mesh::Mesh;
use self::programs::Programs;
use self::stage::Stage;
use crate::cli::DemoArgs;
use crate::failure::Failure;

/// The workloads of the demo.
pub(crate) const WORKLOADS: [&str; 3] = ["web", "orders", "payments"];
/// Their namespace.
pub(crate) const NAMESPACE: &str = "demo";
/// Trust domain of the demo's mesh.
pub(crate) const TRUST_DOMAIN: &str = "demo.postern.internal";

/// What must happen while the process still has one thread: finds (or builds) the programs, enters namespaces.
pub(crate) fn prepare_process(arguments: &DemoArgs) -> Result<Programs, Failure> {
    let programs = Programs::find()?;
    if arguments.netns {
        netns::enter_hub()?;
    }
    Ok(programs)
}

/// Runs the demo.
pub(crate) async fn run(
    arguments: DemoArgs,
    programs: Programs,
    json: bool,
) -> Result<ExitCode, Failure> {
    let mut stop = Stop::new()?;
    let mut policies = hold::read_policies(&arguments.policies)?;
    let issuer = Issuer::new()?;
    if !arguments.hold {
        policies.push(("the demo's issuer".to_owned(), issuer.document()));
    }
    let mut stage = Stage::new(arguments.keep)?;
    let outcome = tokio::select! {
        outcome = play(&mut stage, &arguments, &policies, &issuer, &programs, json) => outcome,
        () = stop.wait() => Ok(if arguments.hold { ExitCode::SUCCESS } else { ExitCode::from(130) }),
    };
    stage.tear_down().await;
    outcome
}

async fn play(
    stage: &mut Stage,
    arguments: &DemoArgs,
    policies: &[(String, String)],
    issuer: &Issuer,
    programs: &Programs,
    json: bool,
) -> Result<ExitCode, Failure> {
    let mesh = Mesh::start(stage, arguments, policies, programs).await?;
    if arguments.hold {
        hold::announce(&mesh, stage, json)?;
        hold::watch(stage).await;
        return Ok(ExitCode::SUCCESS);
    }
    let results = checks::run(&mesh, issuer).await;
    report::print(&results, &mesh, json)?;
    Ok(if results.iter().all(|check| check.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The signals that end the demo.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::problem("cannot listen for signals").why(error))
        };
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
