//! The outcome: medians, ratios, and whether they are within the limits. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::args::ArmName;
use crate::machine::Machine;
use crate::measure::Figures;

/// Most that the pair of sidecars may need, relative to HAProxy with HTTP/1.1 between.
const LIMITS: Limits = Limits {
    cpu_ratio: 0.85,
    p50_ratio: 1.0,
};

/// Everything that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether everything asked for was measured, and the ratios are within the limits.
    pub(crate) ok: bool,
    machine: Machine,
    placement: Option<String>,
    arms: BTreeMap<&'static str, Outcome>,
    ratios: Ratios,
    limits: Limits,
    missing: Vec<String>,
    pub(crate) problems: Vec<String>,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Range {
    min: f64,
    max: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ratios {
    cpu_postern_to_haproxy_h1: Option<f64>,
    p50_postern_to_haproxy_h1: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Limits {
    cpu_ratio: f64,
    p50_ratio: f64,
}

impl Report {
    pub(crate) fn new(
        machine: Machine,
        placement: Option<String>,
        rounds: &BTreeMap<ArmName, Vec<Figures>>,
        missing: Vec<String>,
        mut problems: Vec<String>,
    ) -> Self {
        let arms: BTreeMap<_, _> = rounds
            .iter()
            .filter_map(|(name, figures)| Some((name.as_str(), Outcome::of(figures)?)))
            .collect();
        let ratios = Ratios::of(&arms);
        if !missing.is_empty() {
            problems.push(format!(
                "not installed: {}; install with --install or `apt-get install {}`",
                missing.join(", "),
                missing.join(" ")
            ));
        }
        problems.extend(ratios.problems(LIMITS));
        Self {
            ok: problems.is_empty(),
            machine,
            placement,
            arms,
            ratios,
            limits: LIMITS,
            missing,
            problems,
        }
    }

    /// The same for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<12} {:>12} {:>10} {:>9} {:>9}\n",
            "ARM", "CPU us/req", "REQ/s", "p50 us", "p99 us"
        );
        for (name, o) in &self.arms {
            let cpu = o
                .cpu_us_per_request
                .map_or("-".to_owned(), |us| format!("{us:.2}"));
            text.push_str(&format!(
                "{name:<12} {cpu:>12} {:>10.0} {:>9.0} {:>9.0}\n",
                o.rps, o.p50_us, o.p99_us
            ));
        }
        for (name, ratio, limit) in self.ratios.named(self.limits) {
            if let Some(ratio) = ratio {
                text.push_str(&format!("{name} {ratio:.3} (limit {limit})\n"));
            }
        }
        if let Some(placement) = &self.placement {
            text.push_str(&format!("{placement}\n"));
        }
        for problem in &self.problems {
            text.push_str(&format!("problem: {problem}\n"));
        }
        text.push_str(if self.ok { "ok" } else { "NOT ok" });
        text
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

impl Ratios {
    fn of(arms: &BTreeMap<&'static str, Outcome>) -> Self {
        let ratio = |f: fn(&Outcome) -> Option<f64>| {
            let ours = f(arms.get(ArmName::Postern.as_str())?)?;
            let theirs = f(arms.get(ArmName::HaproxyH1.as_str())?)?;
            (theirs > 0.0).then(|| ours / theirs)
        };
        Self {
            cpu_postern_to_haproxy_h1: ratio(|o| o.cpu_us_per_request),
            p50_postern_to_haproxy_h1: ratio(|o| Some(o.p50_us)),
        }
    }

    fn named(self, limits: Limits) -> [(&'static str, Option<f64>, f64); 2] {
        [
            (
                "cpu_postern_to_haproxy_h1",
                self.cpu_postern_to_haproxy_h1,
                limits.cpu_ratio,
            ),
            (
                "p50_postern_to_haproxy_h1",
                self.p50_postern_to_haproxy_h1,
                limits.p50_ratio,
            ),
        ]
    }

    /// What is over its limit. A ratio that was not measured is a problem too: nothing unmeasured passes.
    fn problems(self, limits: Limits) -> Vec<String> {
        self.named(limits)
            .into_iter()
            .filter_map(|(name, ratio, limit)| match ratio {
                None => Some(format!(
                    "{name} was not measured; it needs the arms postern and haproxy-h1"
                )),
                Some(ratio) if ratio <= limit => None,
                Some(ratio) => Some(format!("{name} is {ratio:.3}, over the limit of {limit}")),
            })
            .collect()
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted.get(middle).copied()
    } else {
        Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
    }
}

fn range(values: &[f64]) -> Option<Range> {
    Some(Range {
        min: values.iter().copied().min_by(f64::total_cmp)?,
        max: values.iter().copied().max_by(f64::total_cmp)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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

    async fn report(postern: &[Figures], haproxy: &[Figures], missing: &[&str]) -> Report {
        let machine = Machine::look(&crate::programs::Programs::default()).await;
        let rounds = BTreeMap::from([
            (ArmName::Postern, postern.to_vec()),
            (ArmName::HaproxyH1, haproxy.to_vec()),
        ]);
        let missing = missing.iter().map(|&m| m.to_owned()).collect();
        Report::new(machine, None, &rounds, missing, Vec::new())
    }

    #[tokio::test]
    async fn ratios_at_their_limits_pass_and_over_them_fail() {
        let theirs = [figures(100.0, 100.0)];
        for (cpu, p50, ok) in [
            (85.0, 100.0, true),
            (20.0, 30.0, true),
            (85.1, 100.0, false),
            (85.0, 100.1, false),
            (f64::NAN, 100.0, false),
        ] {
            let report = report(&[figures(cpu, p50)], &theirs, &[]).await;
            assert_eq!(report.ok, ok, "{cpu} {p50} {:?}", report.problems);
        }
    }

    #[tokio::test]
    async fn what_was_not_measured_does_not_pass() {
        let good = [figures(10.0, 10.0)];
        assert!(!report(&good, &[], &[]).await.ok);
        assert!(!report(&[], &good, &[]).await.ok);
        let report = report(&good, &good[..0], &["haproxy"]).await;
        assert!(!report.ok && report.problems[0].contains("haproxy"));
    }

    #[tokio::test]
    async fn the_median_round_is_judged_and_the_extremes_are_told() {
        let ours = [
            figures(10.0, 10.0),
            figures(99.0, 99.0),
            figures(20.0, 20.0),
        ];
        let report = report(&ours, &[figures(40.0, 40.0)], &[]).await;
        assert_eq!(report.ratios.cpu_postern_to_haproxy_h1, Some(0.5));
        let outcome = &report.arms["postern"];
        assert_eq!(outcome.cpu_us_per_request, Some(20.0));
        assert_eq!(
            outcome.spread.p50_us,
            Some(Range {
                min: 10.0,
                max: 99.0
            })
        );
        assert!(report.table().ends_with("NOT ok") != report.ok);
    }

    #[test]
    fn an_even_number_of_values_has_its_median_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
