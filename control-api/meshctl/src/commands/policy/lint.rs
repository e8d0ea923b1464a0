//! `meshctl policy lint`: mistakes in policies, from files or from the store.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::{Format, LintArgs};
use crate::commands::documents;
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::offline::Mesh;
use crate::offline::lint::{self, Finding, Severity};
use crate::offline::suite::TRUST_DOMAIN;
use crate::output::{self, Cell, Table, Tone};

/// Looks at files.
pub(crate) fn files(arguments: &LintArgs, format: Format) -> Result<ExitCode, Failure> {
    let documents = documents::from_files(&arguments.files)?;
    report(&Mesh::new(documents, TRUST_DOMAIN), format)
}

/// Looks at the store.
pub(crate) async fn live(admin: &mut Admin, format: Format) -> Result<ExitCode, Failure> {
    report(&documents::live(admin).await?, format)
}

fn report(mesh: &Mesh, format: Format) -> Result<ExitCode, Failure> {
    let today = moment::rfc3339(moment::unix_now());
    let findings = lint::lint(mesh, today.get(..10).unwrap_or_default());
    let policies = mesh.policies().len();
    let value = json!({"policies": policies, "findings": findings});
    output::print(format, &value, || match findings.len() {
        0 => format!("nothing found in {policies} policies\n"),
        n => format!(
            "{}{n} finding(s) in {policies} policies\n",
            table(&findings)
        ),
    })?;
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new(&["CODE", "POLICY", "WHERE", "WHAT"]);
    for finding in findings {
        let tone = match finding.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warn,
        };
        table.row([
            Cell::toned(finding.code, tone),
            finding.policy.as_str().into(),
            finding.path.as_str().into(),
            finding.problem.as_str().into(),
        ]);
    }
    table.render(output::colour())
}
