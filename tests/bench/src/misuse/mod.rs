//! `mesh-bench misuse`: bad tokens of every kind, and good ones, through two real sidecars; each answer is held to its reason.
//!
//! A case passes only if all of it is as it must be, twice in a row: status, reason code, challenge (RFC 6750), problem
//! document (RFC 9457), decision id, and nothing of the token in the answer. At the end nothing of any token may stand in
//! the most talkative log of both sidecars, or in the metrics or the dump of the refusing one.

mod cases;
mod expected;
mod forge;
mod world;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use self::cases::Case;
use self::forge::Forge;
use self::world::World;
use crate::args::Common;
use crate::exchange::Exchange;
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::say;

/// Fewest cases that are worth the name.
const CASES: f64 = 60.0;
/// Shorter pieces of a token occur by chance.
const PIECE: usize = 12;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What became of one case.
#[derive(Serialize)]
struct Outcome {
    case: &'static str,
    expected: String,
    /// Status and reason, as told.
    got: String,
    ok: bool,
}

pub(crate) async fn run(_: &Arguments) -> Report {
    let mut report = Report::new("misuse", Machine::look(&Programs::find()).await);
    let outcome = measure(&mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let forge = Forge::new()?;
    let mut world = World::start(&forge).await?;
    let cases = cases::all(&forge, &world.facts)?;
    say(&format!("{} cases ...", cases.len()));
    let mut outcomes = Vec::with_capacity(cases.len());
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    let mut failed = 0_u32;
    for case in &cases {
        let mut problems = Vec::new();
        let mut got = String::new();
        // What is remembered of the first time must not change the answer.
        for _ in 0..2 {
            let answer = world.send(case).await?;
            got = answer.summary();
            problems.extend(expected::problems(case, &answer));
        }
        if let Some(problem) = problems.first() {
            failed += 1;
            report.problem(format!("{}: {problem}", case.name));
        }
        *reasons.entry(case.expected.summary()).or_default() += 1;
        outcomes.push(Outcome {
            case: case.name,
            expected: case.expected.summary(),
            got,
            ok: problems.is_empty(),
        });
    }
    let written = world.written().await?;
    let leaks = cases.iter().filter(|case| case.leaks_into(&written));
    let leaks: Vec<&str> = leaks.map(|case| case.name).collect();
    report.figure("cases", cases.len());
    report.figure("answers", reasons);
    report.figure("outcomes", outcomes);
    report.figure("tokens_written_somewhere", &leaks);
    report.figure("bytes_searched_for_tokens", written.len());
    #[allow(clippy::cast_precision_loss)] // A few hundred.
    let (count, leaked) = (cases.len() as f64, leaks.len() as f64);
    report.at_least("cases", Some(count), CASES);
    report.at_most("cases_not_as_expected", Some(failed.into()), 0.0);
    report.at_most("tokens_written_somewhere", Some(leaked), 0.0);
    Ok(())
}

impl Case {
    /// Whether a piece of its token that says something stands in `text`.
    fn leaks_into(&self, text: &str) -> bool {
        self.pieces().any(|piece| text.contains(piece))
    }

    /// The parts of its token that are its alone: headers are the same for many and say nothing.
    fn pieces(&self) -> impl Iterator<Item = &str> {
        let parts = self.token.split('.').skip(1);
        parts.filter(|part| part.len() >= PIECE)
    }
}

impl Exchange {
    fn summary(&self) -> String {
        match self.field("postern-reason") {
            Some(reason) => format!("{} {reason}", self.status),
            None => self.status.to_string(),
        }
    }
}
