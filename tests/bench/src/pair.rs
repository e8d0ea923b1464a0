//! The whole comparison: programs, application, arms, rounds. Ends in a report whatever happens.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::args::{ArmName, PairArgs};
use crate::arms::haproxy::{self, Between};
use crate::arms::nginx::App;
use crate::arms::{Arm, postern};
use crate::machine::Machine;
use crate::measure::{Figures, Load, measure};
use crate::placement::Processors;
use crate::programs::{self, Ours, Programs};
use crate::report::Report;
use crate::say;

type Rounds = BTreeMap<ArmName, Vec<Figures>>;

pub(crate) async fn run(arguments: &PairArgs) -> Report {
    let names = arguments.arms();
    let mut programs = Programs::find();
    let mut problems = Vec::new();
    let missing = programs.missing(&names);
    if arguments.install && !missing.is_empty() {
        if let Err(error) = programs::install(&missing).await {
            problems.push(format!("{error:#}"));
        }
        programs = Programs::find();
    }
    let missing = programs.missing(&names);
    let machine = Machine::look(&programs).await;
    let mut rounds = Rounds::new();
    let mut placement = None;
    if missing.is_empty() {
        let outcome = compare(arguments, &names, &programs, &mut placement, &mut rounds).await;
        if let Err(error) = outcome {
            problems.push(format!("{error:#}"));
        }
    }
    let report = Report::new(machine, placement, &rounds, missing, problems);
    for problem in &report.problems {
        say(problem);
    }
    report
}

/// Fills in the rounds as they are measured, so that an error leaves the earlier ones.
async fn compare(
    arguments: &PairArgs,
    names: &[ArmName],
    programs: &Programs,
    placement: &mut Option<String>,
    rounds: &mut Rounds,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let wrk = programs.wrk.as_deref().context("wrk is missing")?;
    // Built before anything is pinned: a build wants every processor.
    let ours = if names.contains(&ArmName::Postern) {
        Some(Ours::find().await?)
    } else {
        None
    };
    let processors = Processors::choose(arguments.placement)?;
    *placement = Some(processors.describe());

    let mut app = App::start(nginx).await?;
    processors.move_far(&[app.kid.pid()])?;
    let mut arms = Vec::new();
    for name in names {
        say(&format!("starting {}", name.as_str()));
        let arm = start(*name, &app, programs, ours.as_ref())
            .await
            .with_context(|| format!("{} does not start", name.as_str()))?;
        processors.move_far(&arm.far)?;
        arms.push(arm);
    }

    let load = Load {
        wrk,
        connections: arguments.connections,
        seconds: arguments.seconds,
    };
    for round in 1..=arguments.rounds {
        for arm in &mut arms {
            let name = arm.name.as_str();
            app.kid.check()?;
            let figures = measure(arm, load)
                .await
                .with_context(|| format!("round {round} of {name} failed"))?;
            say(&format!(
                "round {round} of {}: {name}: {}, {:.0} requests/s, p50 {:.0} us",
                arguments.rounds,
                figures
                    .cpu_us_per_request
                    .map_or("no proxy".to_owned(), |us| format!(
                        "{us:.1} us of CPU/request"
                    )),
                figures.rps,
                figures.p50_us,
            ));
            rounds.entry(arm.name).or_default().push(figures);
        }
        // Nobody is always first, or always after the same neighbour's heat.
        arms.rotate_left(1);
    }
    Ok(())
}

async fn start(
    name: ArmName,
    app: &App,
    programs: &Programs,
    ours: Option<&Ours>,
) -> anyhow::Result<Arm> {
    let haproxy = || programs.haproxy.as_deref().context("haproxy is missing");
    match name {
        ArmName::Direct => Ok(app.direct()),
        ArmName::Postern => postern::start(ours.context("meshctl is missing")?, app).await,
        ArmName::HaproxyH1 => haproxy::start(haproxy()?, Between::Http1, app).await,
        ArmName::HaproxyH2 => haproxy::start(haproxy()?, Between::Http2, app).await,
    }
}
