//! `mesh-bench pair`: programs, application, arms, rounds. Ends in a report whatever happens.

mod arguments;
mod measure;
mod report;

use std::collections::BTreeMap;

use anyhow::Context;

pub(crate) use self::arguments::{Arguments, ArmName};
use self::measure::{Figures, Load, measure};
use crate::arms::haproxy::{self, Between};
use crate::arms::nginx::App;
use crate::arms::{Pair, postern};
use crate::machine::Machine;
use crate::placement::Processors;
use crate::programs::{self, Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::wrk::Target;

/// Something that answers, with the processes between its client and the application.
struct Arm {
    name: ArmName,
    target: Target,
    /// What runs it; the application itself needs nothing.
    pair: Option<Pair>,
}

impl Arm {
    /// Processes whose time is counted, client side first.
    fn counted(&self) -> Vec<u32> {
        self.pair
            .iter()
            .flat_map(|p| [p.client, p.server])
            .collect()
    }
}

type Rounds = BTreeMap<ArmName, Vec<Figures>>;

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let names = arguments.arms();
    let mut programs = Programs::find();
    let mut problem = None;
    let missing = programs.missing(&names);
    if arguments.common.install && !missing.is_empty() {
        problem = programs::install(&missing).await.err();
        programs = Programs::find();
    }
    let missing = programs.missing(&names);
    let mut report = Report::new("pair", Machine::look(&programs).await);
    let mut rounds = Rounds::new();
    let mut placement = None;
    if missing.is_empty() {
        problem = compare(arguments, &names, &programs, &mut placement, &mut rounds)
            .await
            .err();
    }
    report.placed(placement);
    report.missing(&missing, true);
    report.concluded(problem.map_or(Ok(()), Err));
    report::fill(&mut report, &rounds);
    report
}

/// Fills in the rounds as they are measured, so that an error leaves the earlier ones.
async fn compare(
    arguments: &Arguments,
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
        if let Some(pair) = &arm.pair {
            processors.move_far(&[pair.server])?;
        }
        arms.push(arm);
    }

    let (rounds_wanted, seconds) = arguments.length();
    let load = Load {
        wrk,
        connections: arguments.connections,
        seconds,
    };
    for round in 1..=rounds_wanted {
        for arm in &mut arms {
            let name = arm.name.as_str();
            app.kid.check()?;
            let figures = measure(arm, load)
                .await
                .with_context(|| format!("round {round} of {name} failed"))?;
            say(&format!(
                "round {round} of {rounds_wanted}: {name}: {}, {:.0} requests/s, p50 {:.0} us",
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
    let pair = match name {
        ArmName::Direct => None,
        ArmName::Postern => Some(postern::start(ours.context("meshctl is missing")?, app).await?),
        ArmName::HaproxyH1 => Some(haproxy::start(haproxy()?, Between::Http1, None, app).await?),
        ArmName::HaproxyH2 => Some(haproxy::start(haproxy()?, Between::Http2, None, app).await?),
    };
    Ok(Arm {
        name,
        target: pair
            .as_ref()
            .map_or_else(|| app.target(), |p| p.target.clone()),
        pair,
    })
}
