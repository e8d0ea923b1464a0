//! The outcome of `pair`: medians of the arms, and the ratios that are judged. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::arguments::ArmName;
use super::measure::Figures;
use crate::report::Report;
use crate::statistics::{Range, median, range, ratio};

/// Most CPU that the pair of sidecars may need, relative to HAProxy with HTTP/1.1 between.
const CPU_RATIO: f64 = 0.85;
/// Most latency with one connection, relative to the same.
const P50_RATIO: f64 = 1.0;

/// Medians of an arm's rounds.
#[derive(Debug, Serialize)]
struct Outcome {
    cpu_us_per_request: Option<f64>,
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    loaded_p50_us: f64,
    loaded_p99_us: f64,
    rounds: usize,
    threads_ended: usize,
    spread: Spread,
}

#[derive(Debug, Serialize)]
struct Spread {
    cpu_us_per_request: Option<Range>,
    rps: Option<Range>,
    p50_us: Option<Range>,
    p99_us: Option<Range>,
}

/// Writes the arms' medians and ratios into a report.
pub(super) fn fill(report: &mut Report, rounds: &BTreeMap<ArmName, Vec<Figures>>) {
    let arms: BTreeMap<_, _> = rounds
        .iter()
        .filter_map(|(name, figures)| Some((*name, Outcome::of(figures)?)))
        .collect();
    for (name, outcome) in &arms {
        report.figure(name.as_str(), outcome);
    }
    let cpu = |arm| arms.get(&arm)?.cpu_us_per_request;
    let p50 = |arm| Some(arms.get(&arm)?.p50_us);
    report.at_most(
        "cpu_postern_to_haproxy_h1",
        ratio(cpu(ArmName::Postern), cpu(ArmName::HaproxyH1)),
        CPU_RATIO,
    );
    report.at_most(
        "p50_postern_to_haproxy_h1",
        ratio(p50(ArmName::Postern), p50(ArmName::HaproxyH1)),
        P50_RATIO,
    );
    for (name, value) in [
        (
            "cpu_postern_to_haproxy_h2",
            ratio(cpu(ArmName::Postern), cpu(ArmName::HaproxyH2)),
        ),
        (
            "p50_postern_to_haproxy_h2",
            ratio(p50(ArmName::Postern), p50(ArmName::HaproxyH2)),
        ),
    ] {
        report.ratio(name, value);
    }
}

impl Outcome {
    fn of(figures: &[Figures]) -> Option<Self> {
        let all = |f: fn(&Figures) -> f64| figures.iter().map(f).collect::<Vec<_>>();
        let cpu: Vec<f64> = figures
            .iter()
            .filter_map(|f| f.cpu_us_per_request)
            .collect();
        let (rps, p50, p99) = (all(|f| f.rps), all(|f| f.p50_us), all(|f| f.p99_us));
        Some(Self {
            cpu_us_per_request: median(&cpu),
            rps: median(&rps)?,
            p50_us: median(&p50)?,
            p99_us: median(&p99)?,
            loaded_p50_us: median(&all(|f| f.loaded_p50_us))?,
            loaded_p99_us: median(&all(|f| f.loaded_p99_us))?,
            rounds: figures.len(),
            threads_ended: figures.iter().map(|f| f.threads_ended).sum(),
            spread: Spread {
                cpu_us_per_request: range(&cpu),
                rps: range(&rps),
                p50_us: range(&p50),
                p99_us: range(&p99),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn figures(cpu: f64, p50: f64) -> Figures {
        Figures {
            cpu_us_per_request: Some(cpu),
            rps: 1000.0,
            loaded_p50_us: 500.0,
            loaded_p99_us: 900.0,
            p50_us: p50,
            p99_us: 2.0 * p50,
            threads_ended: 0,
        }
    }

    fn report(postern: &[Figures], haproxy: &[Figures]) -> Report {
        let rounds = BTreeMap::from([
            (ArmName::Postern, postern.to_vec()),
            (ArmName::HaproxyH1, haproxy.to_vec()),
        ]);
        let mut report = Report::new("pair", Machine::default());
        fill(&mut report, &rounds);
        report
    }

    #[test]
    fn ratios_at_their_limits_pass_and_over_them_fail() {
        let theirs = [figures(100.0, 100.0)];
        for (cpu, p50, ok) in [
            (85.0, 100.0, true),
            (20.0, 30.0, true),
            (85.1, 100.0, false),
            (85.0, 100.1, false),
            (f64::NAN, 100.0, false),
        ] {
            assert_eq!(report(&[figures(cpu, p50)], &theirs).ok, ok, "{cpu} {p50}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        let good = [figures(10.0, 10.0)];
        assert!(!report(&good, &[]).ok);
        assert!(!report(&[], &good).ok);
    }

    #[test]
    fn the_median_round_is_judged_and_the_extremes_are_told() {
        let ours = [
            figures(10.0, 10.0),
            figures(99.0, 99.0),
            figures(20.0, 20.0),
        ];
        let report = serde_json::to_value(report(&ours, &[figures(40.0, 40.0)])).unwrap();
        assert_eq!(report["limits"]["cpu_postern_to_haproxy_h1"]["value"], 0.5);
        let outcome = &report["figures"]["postern"];
        assert_eq!(outcome["cpu_us_per_request"], 20.0);
        assert_eq!(outcome["spread"]["p50_us"]["max"], 99.0);
    }
}
