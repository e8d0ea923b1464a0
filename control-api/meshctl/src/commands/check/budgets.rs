//! What sidecars report of latency budgets, as a finding.

use mesh_proto::admin::WorkloadReport;
use mesh_proto::mesh::LatencyBudgetState;

use super::judge::{Finding, Level};

/// Budgets that are breached deserve a look; where there are none there is nothing to say.
pub(super) fn latency(reports: &[WorkloadReport]) -> Option<Finding> {
    let name = "latency budgets";
    let connected = || reports.iter().filter(|report| report.connected);
    let all: usize = connected().map(|report| report.latency_budgets.len()).sum();
    if all == 0 {
        return None;
    }
    let breached: Vec<_> = connected()
        .flat_map(|report| {
            let breached = report
                .latency_budgets
                .iter()
                .filter(|budget| budget.state() == LatencyBudgetState::Breached);
            breached.map(|budget| format!("{} at {}", budget.budget, report.workload))
        })
        .collect();
    Some(match &breached[..] {
        [] => Finding::good(name, "none is breached"),
        [only] => Finding::bad(
            Level::Warning,
            name,
            format!("{only} is breached"),
            "meshctl budget",
        ),
        [first, rest @ ..] => Finding::bad(
            Level::Warning,
            name,
            format!("{first} and {} more are breached", rest.len()),
            "meshctl budget",
        ),
    })
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh::LatencyBudgetStatus;

    use super::*;

    fn report(connected: bool, states: &[LatencyBudgetState]) -> WorkloadReport {
        let budgets = states.iter().map(|state| LatencyBudgetStatus {
            budget: "shop/b".into(),
            state: (*state).into(),
            ..LatencyBudgetStatus::default()
        });
        WorkloadReport {
            workload: "shop/a".into(),
            connected,
            latency_budgets: budgets.collect(),
            ..WorkloadReport::default()
        }
    }

    #[test]
    fn a_breach_at_a_connected_sidecar_is_a_warning() {
        use LatencyBudgetState::{Breached, Met, Recovering};
        assert!(latency(&[report(true, &[]), report(false, &[Breached])]).is_none());
        let met = latency(&[report(true, &[Met, Recovering])]).expect("a finding");
        assert_eq!(met.level, Level::Good);
        let one = latency(&[report(true, &[Met, Breached])]).expect("a finding");
        assert_eq!(one.level, Level::Warning);
        assert_eq!(one.found, "shop/b at shop/a is breached");
        let many = latency(&[report(true, &[Breached; 3])]).expect("a finding");
        assert!(many.found.contains("and 2 more"), "{}", many.found);
    }
}
