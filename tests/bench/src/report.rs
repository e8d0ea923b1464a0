//! What every subcommand ends in: one object with figures, limits and a verdict. Pure.
//!
//! A limit whose figure was not measured is not kept: nothing unmeasured passes.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::machine::Machine;

/// Everything that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether everything asked for was measured, and every limit was kept.
    pub(crate) ok: bool,
    command: &'static str,
    machine: Machine,
    placement: Option<String>,
    figures: Map<String, Value>,
    ratios: BTreeMap<String, Option<f64>>,
    limits: BTreeMap<String, Limit>,
    missing: Vec<String>,
    pub(crate) problems: Vec<String>,
}

/// One figure and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Limit {
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
    ok: bool,
}

impl Report {
    pub(crate) fn new(command: &'static str, machine: Machine) -> Self {
        Self {
            ok: true,
            command,
            machine,
            placement: None,
            figures: Map::new(),
            ratios: BTreeMap::new(),
            limits: BTreeMap::new(),
            missing: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Where the processes ran.
    pub(crate) fn placed(&mut self, description: Option<String>) {
        self.placement = description;
    }

    /// A number, or an object of numbers. What cannot be written as JSON (a NaN) becomes null.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.figures.insert(name.into(), value);
    }

    /// A ratio that is told, not judged.
    pub(crate) fn ratio(&mut self, name: impl Into<String>, value: Option<f64>) {
        self.ratios.insert(name.into(), value);
    }

    /// A figure that must not be above its limit.
    pub(crate) fn at_most(&mut self, name: impl Into<String>, value: Option<f64>, limit: f64) {
        self.judge(
            name.into(),
            Limit {
                value,
                at_most: Some(limit),
                at_least: None,
                ok: value.is_some_and(|v| v <= limit),
            },
        );
    }

    /// A figure that must not be below its limit.
    pub(crate) fn at_least(&mut self, name: impl Into<String>, value: Option<f64>, limit: f64) {
        self.judge(
            name.into(),
            Limit {
                value,
                at_most: None,
                at_least: Some(limit),
                ok: value.is_some_and(|v| v >= limit),
            },
        );
    }

    fn judge(&mut self, name: String, limit: Limit) {
        self.ok &= limit.ok;
        self.limits.insert(name, limit);
    }

    /// Programs that are not here. `needed`: without them the outcome is not what was asked for.
    pub(crate) fn missing(&mut self, programs: &[String], needed: bool) {
        self.missing.extend(programs.iter().cloned());
        if needed && !programs.is_empty() {
            self.problem(format!(
                "not installed: {}; install with --install or `apt-get install {}`",
                programs.join(", "),
                programs.join(" ")
            ));
        }
    }

    /// Something that went wrong.
    pub(crate) fn problem(&mut self, what: impl Into<String>) {
        self.ok = false;
        self.problems.push(what.into());
    }

    /// What stopped a measurement, if anything did.
    pub(crate) fn concluded(&mut self, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.problem(format!("{error:#}"));
        }
    }

    /// The same for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.figures {
            lines(&mut text, name, value);
        }
        for (name, ratio) in &self.ratios {
            let ratio = ratio.map_or("not measured".to_owned(), |r| format!("{r:.3}"));
            text.push_str(&format!("{name} {ratio}\n"));
        }
        for (name, limit) in &self.limits {
            text.push_str(&format!("{name} {limit}\n"));
        }
        if let Some(placement) = &self.placement {
            text.push_str(&format!("{placement}\n"));
        }
        if !self.missing.is_empty() {
            text.push_str(&format!("missing: {}\n", self.missing.join(", ")));
        }
        for problem in &self.problems {
            text.push_str(&format!("problem: {problem}\n"));
        }
        text.push_str(if self.ok { "ok" } else { "NOT ok" });
        text
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            Some(value) => write!(f, "{value:.3}")?,
            None => write!(f, "not measured")?,
        }
        if let Some(limit) = self.at_most {
            write!(f, " (at most {limit})")?;
        }
        if let Some(limit) = self.at_least {
            write!(f, " (at least {limit})")?;
        }
        write!(f, "{}", if self.ok { " ok" } else { " OVER" })
    }
}

/// Nested figures with the way to each: `postern.h1_32.cpu_us  21.3`.
fn lines(text: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                lines(text, &format!("{name}.{member}"), value);
            }
        }
        Value::Number(n) if n.is_f64() => {
            let n = n.as_f64().unwrap_or(f64::NAN);
            text.push_str(&format!("{name:<56} {n:>12.2}\n"));
        }
        other => text.push_str(&format!("{name:<56} {other:>12}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new("test", Machine::default())
    }

    #[test]
    fn a_figure_at_its_limit_passes_and_beyond_it_does_not() {
        for (value, ok) in [
            (Some(1.0), true),
            (Some(0.5), true),
            (Some(1.01), false),
            (Some(f64::NAN), false),
            (None, false),
        ] {
            let mut report = report();
            report.at_most("x", value, 1.0);
            assert_eq!(report.ok, ok, "{value:?}");
            assert_eq!(report.table().ends_with("NOT ok"), !ok);
        }
        let mut report = report();
        report.at_least("x", Some(3.0), 3.0);
        assert!(report.ok);
        report.at_least("y", Some(2.9), 3.0);
        assert!(!report.ok);
    }

    #[test]
    fn a_missing_program_fails_only_what_needs_it() {
        let mut report = report();
        report.missing(&["envoy".to_owned()], false);
        assert!(report.ok);
        report.missing(&["wrk".to_owned()], true);
        assert!(!report.ok && report.problems[0].contains("apt-get install wrk"));
    }

    #[test]
    fn figures_of_figures_are_told_with_their_way() {
        let mut report = report();
        report.figure("a", serde_json::json!({"b": {"c": 1.5}, "d": 2}));
        let table = report.table();
        assert!(table.contains("a.b.c") && table.contains("1.50") && table.contains("a.d"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"]["a"]["d"], 2);
        assert_eq!(json["ok"], true);
    }
}
