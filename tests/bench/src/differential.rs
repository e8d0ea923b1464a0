//! `mesh-bench differential`: compiled policies against an interpreter of the specification, on random policies and
//! requests. The same cases for the same seed.

use clap::Args;
use mesh_auth::policy::testing::Case;

use crate::args::Common;
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::say;

/// Cases that the comparison must have at least.
const AT_LEAST: f64 = 100_000.0;
/// Differences that are shown.
const SHOWN: usize = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Random cases
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) cases: u64,
    /// Seed of the first case; the others follow it
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("differential", Machine::look(&Programs::find()).await);
    let cases = if arguments.common.quick {
        arguments.cases.min(2_000)
    } else {
        arguments.cases
    };
    let (mut agreed, mut differing) = (0_u64, 0_u64);
    let (mut allowed, mut by_rule, mut http) = (0_u64, 0_u64, 0_u64);
    for i in 0..cases {
        let seed = arguments.seed.wrapping_add(i);
        match Case::new(seed).compare() {
            Ok(verdicts) => {
                agreed += 1;
                allowed += u64::from(verdicts.allowed);
                by_rule += u64::from(verdicts.by_rule);
                http += u64::from(verdicts.http);
            }
            Err(difference) => {
                differing += 1;
                if report.problems.len() < SHOWN {
                    report.problem(format!("seed {seed}: {difference}"));
                }
            }
        }
        if i % 50_000 == 49_999 {
            say(&format!("{} of {cases} cases", i + 1));
        }
    }
    report.figure("seed", arguments.seed);
    report.figure("cases", cases);
    report.figure("agreed", agreed);
    report.figure("allowed", allowed);
    report.figure("decided_by_a_rule", by_rule);
    report.figure("http_requests", http);
    #[allow(clippy::cast_precision_loss)]
    let (cases, differing, by_rule) = (cases as f64, differing as f64, by_rule as f64);
    report.at_most("differing", Some(differing), 0.0);
    if !arguments.common.quick {
        report.at_least("cases", Some(cases), AT_LEAST);
    }
    // Cases that all end in the default would agree and prove nothing.
    report.at_least("share_decided_by_a_rule", Some(by_rule / cases), 0.2);
    report
}
