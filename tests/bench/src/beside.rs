//! Measurements beside Envoy, which is needed for them.

use crate::machine::Machine;
use crate::programs::{self, Programs};
use crate::report::Report;

/// The report of `command`: what `measure` finds, or what is missing for it.
pub(crate) async fn envoy(
    command: &'static str,
    install: bool,
    measure: impl AsyncFnOnce(&Programs, &mut Report) -> anyhow::Result<()>,
) -> Report {
    let (programs, problem) = programs::find_peers(install).await;
    let mut report = Report::new(command, Machine::look(&programs).await);
    let (mut missing, _) = programs.missing_peers();
    if programs.envoy.is_none() {
        missing.push("envoy".to_owned());
    }
    report.missing(&missing, true);
    report.concluded(problem.map_or(Ok(()), Err));
    if missing.is_empty() {
        let outcome = measure(&programs, &mut report).await;
        report.concluded(outcome);
    }
    report
}
