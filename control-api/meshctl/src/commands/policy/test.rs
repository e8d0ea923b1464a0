//! `meshctl policy test`: tests of policies from files.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::junit;
use crate::cli::{Format, TestArgs};
use crate::commands::documents;
use crate::failure::Failure;
use crate::offline::Mesh;
use crate::offline::suite::{self, Report, Suite, TRUST_DOMAIN};
use crate::output::{self, Cell, Table, Tone};

/// Runs the tests of every file.
pub(crate) fn run(arguments: &TestArgs, format: Format) -> Result<ExitCode, Failure> {
    let mut reports = Vec::new();
    let mut untested = Vec::new();
    for file in &arguments.files {
        let (report, labels) = run_file(file)?;
        reports.push(report);
        untested.extend(labels);
    }
    if let Some(file) = &arguments.junit {
        std::fs::write(file, junit::xml(&reports)).map_err(|error| {
            Failure::usage(format!("cannot write {}", file.display()))
                .why(error)
                .next("give --junit a file that can be written")
        })?;
    }
    let failed: usize = reports.iter().map(Report::failed).sum();
    let tests: usize = reports.iter().map(|r| r.tests.len()).sum();
    let rules: usize = reports.iter().map(|r| r.rules).sum();
    let is_ok = failed == 0 && (untested.is_empty() || !arguments.require_coverage);
    let value = json!({
        "ok": is_ok, "tests": tests, "failed": failed,
        "coverage": {"rules": rules, "tested": rules - untested.len(), "untested": untested},
        "files": reports,
    });
    output::print(format, &value, || {
        let mut text = table(&reports);
        for label in &untested {
            text.push_str(&format!("no test matches {label}\n"));
        }
        let passed = tests - failed;
        let tested = rules - untested.len();
        text + &format!("{passed} of {tests} tests passed; {tested} of {rules} rules tested\n")
    })?;
    Ok(if is_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn run_file(file: &Path) -> Result<(Report, Vec<String>), Failure> {
    let name = file.display().to_string();
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the tests in {name}"))
            .why(error)
            .next("see deploy/examples/shop-tests.yaml for the format")
    };
    let text = std::fs::read_to_string(file).map_err(|e| unreadable(&e))?;
    let suite: Suite = documents::yaml(&text).map_err(|e| unreadable(&e))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let policies: Vec<_> = suite.policies.iter().map(|p| folder.join(p)).collect();
    let documents = documents::from_files(&policies)?;
    let domain = suite.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
    let mesh = Mesh::new(documents, domain);
    let report = suite::run(&name, &suite, &mesh);
    let labels = report
        .untouched
        .iter()
        .map(|rule| suite::label(&mesh, rule));
    let labels = labels.collect();
    Ok((report, labels))
}

fn table(reports: &[Report]) -> String {
    let mut table = Table::new(&["TEST", "RESULT", "DECIDED BY", "WHAT WENT WRONG"]);
    for test in reports.iter().flat_map(|r| &r.tests) {
        let (result, tone) = match test.passed {
            true => ("passed", Tone::Good),
            false => ("failed", Tone::Bad),
        };
        let by = test
            .decision
            .as_ref()
            .map_or_else(String::new, |d| match (&d.policy, d.rule) {
                (Some(policy), Some(rule)) => format!("{policy} rules[{rule}]"),
                _ => d.reason.to_owned(),
            });
        table.row([
            test.name.as_str().into(),
            Cell::toned(result, tone),
            by.into(),
            test.failure.as_deref().unwrap_or_default().into(),
        ]);
    }
    table.render(output::colour())
}
