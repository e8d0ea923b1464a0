//! `meshctl budget`: how the mesh stands with its latency budgets.

use std::collections::BTreeMap;
use std::process::ExitCode;

use mesh_auth::latency::{Budget, Direction};
use mesh_manifest::Resource;
use mesh_proto::admin::ReportsRequest;
use mesh_proto::mesh::{LatencyBudgetState, LatencyBudgetStatus};
use serde::Serialize;
use serde_json::json;

use super::documents;
use crate::cli::{BudgetArgs, Format};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// How a budget stands; the worst of its sidecars counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Too few requests to say, or no sidecar tells.
    Unknown,
    /// Within the threshold.
    Met,
    /// Over the window, but not over its last twelfth.
    Recovering,
    /// Over both.
    Breached,
}

#[derive(Debug, Serialize)]
struct Row {
    budget: String,
    state: State,
    objective: String,
    target: String,
    threshold_us: f64,
    window_s: u32,
    /// Of the worst sidecar; absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    percentile_us: Option<f64>,
    /// Of the worst sidecar, over the window and over its last twelfth.
    burn_rate: f64,
    short_burn_rate: f64,
    requests: u64,
    over: u64,
    sidecars: Vec<Sidecar>,
}

#[derive(Debug, Serialize)]
struct Sidecar {
    workload: String,
    state: State,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    percentile_us: Option<f64>,
    burn_rate: f64,
    short_burn_rate: f64,
    requests: u64,
    over: u64,
    breaches: u64,
    connected: bool,
}

/// Lists them; exit code 1 if one is breached.
pub(super) async fn run(
    admin: &mut Admin,
    arguments: BudgetArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let mesh = documents::live(admin).await?;
    let answer = admin
        .reports(ReportsRequest::default())
        .await
        .map_err(|status| Failure::from_status("no reports could be read", &status))?
        .into_inner();
    let mut told: BTreeMap<&str, Vec<Sidecar>> = BTreeMap::new();
    for workload in &answer.workloads {
        for status in &workload.latency_budgets {
            let sidecar = sidecar(&workload.workload, workload.connected, status);
            told.entry(&status.budget).or_default().push(sidecar);
        }
    }
    let wanted = |budget: &Budget| {
        let (namespace, name) = budget.name.split_once('/').unwrap_or_default();
        let names = [&*budget.name, name];
        arguments
            .namespace
            .as_deref()
            .is_none_or(|n| n == namespace)
            && arguments
                .budget
                .as_deref()
                .is_none_or(|n| names.contains(&n))
    };
    let rows: Vec<_> = mesh
        .resources()
        .filter_map(|resource| match resource {
            Resource::LatencyBudget(message) => Budget::parse(message).ok(),
            _ => None,
        })
        .filter(wanted)
        .map(|budget| row(&budget, told.remove(&*budget.name).unwrap_or_default()))
        .collect();
    if let (Some(name), true) = (&arguments.budget, rows.is_empty()) {
        return Err(
            Failure::problem(format!("there is no latency budget `{name}`"))
                .next("run `meshctl budget` to see which there are"),
        );
    }
    let value = json!({"budgets": rows});
    output::print(format, &value, || table(&rows))?;
    let is_breached = rows.iter().any(|row| row.state == State::Breached);
    Ok(ExitCode::from(u8::from(is_breached)))
}

fn sidecar(workload: &str, connected: bool, status: &LatencyBudgetStatus) -> Sidecar {
    Sidecar {
        workload: workload.to_owned(),
        state: match status.state() {
            LatencyBudgetState::Unknown => State::Unknown,
            LatencyBudgetState::Met => State::Met,
            LatencyBudgetState::Recovering => State::Recovering,
            LatencyBudgetState::Breached => State::Breached,
        },
        since: moment::rfc3339(status.since),
        percentile_us: (status.requests > 0).then(|| micros(status.percentile_nanos)),
        burn_rate: status.burn_rate,
        short_burn_rate: status.short_burn_rate,
        requests: status.requests,
        over: status.over,
        breaches: status.breaches,
        connected,
    }
}

fn row(budget: &Budget, mut sidecars: Vec<Sidecar>) -> Row {
    sidecars.sort_by(|a, b| b.state.cmp(&a.state).then(a.workload.cmp(&b.workload)));
    let worst = |value: fn(&Sidecar) -> f64| sidecars.iter().map(value).fold(0.0, f64::max);
    let percentiles = sidecars.iter().filter_map(|s| s.percentile_us);
    Row {
        budget: budget.name.to_string(),
        state: sidecars.first().map_or(State::Unknown, |s| s.state),
        objective: objective(budget),
        target: target(budget),
        threshold_us: micros(budget.threshold_nanos),
        window_s: budget.window_seconds,
        percentile_us: percentiles.reduce(f64::max),
        burn_rate: worst(|s| s.burn_rate),
        short_burn_rate: worst(|s| s.short_burn_rate),
        requests: sidecars.iter().map(|s| s.requests).sum(),
        over: sidecars.iter().map(|s| s.over).sum(),
        sidecars,
    }
}

/// `p99`, `p99.9`.
fn target(budget: &Budget) -> String {
    format!("p{}", f64::from(budget.target_millionths) / 10_000.0)
}

fn objective(budget: &Budget) -> String {
    let mut text = format!(
        "{} {} < {}",
        target(budget),
        budget.phase.as_str(),
        moment::latency(micros(budget.threshold_nanos))
    );
    if budget.direction == Direction::Outbound {
        text.push_str(" outbound");
    }
    if let Some(issuer) = &budget.issuer {
        text.push_str(" for ");
        text.push_str(issuer);
    }
    text
}

#[allow(clippy::cast_precision_loss)]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "there are no latency budgets; `meshctl apply` a LatencyBudget\n".to_owned();
    }
    let mut table = Table::new(&[
        "BUDGET",
        "STATE",
        "OBJECTIVE",
        "NOW",
        "BURN",
        "REQUESTS",
        "WHERE",
    ]);
    for row in rows {
        let (word, tone) = match row.state {
            State::Met => ("met", Tone::Good),
            State::Recovering => ("recovering", Tone::Warn),
            State::Breached => ("breached", Tone::Bad),
            State::Unknown => ("unknown", Tone::Dim),
        };
        let bad: Vec<_> = row
            .sidecars
            .iter()
            .filter(|s| s.state >= State::Recovering)
            .map(|s| s.workload.as_str())
            .collect();
        let whereabouts = match (bad.len(), row.sidecars.len()) {
            (_, 0) => "no sidecar tells".to_owned(),
            (0, 1) => "1 sidecar".to_owned(),
            (0, all) => format!("{all} sidecars"),
            (1..=3, _) => bad.join(", "),
            (more, all) => format!("{}, ... ({more} of {all})", bad[..3].join(", ")),
        };
        table.row([
            row.budget.as_str().into(),
            Cell::toned(word, tone),
            row.objective.as_str().into(),
            row.percentile_us
                .map_or_else(|| "-".to_owned(), moment::latency)
                .into(),
            format!("{:.1}/{:.1}", row.burn_rate, row.short_burn_rate).into(),
            row.requests.to_string().into(),
            whereabouts.into(),
        ]);
    }
    table.render(output::colour())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_stands_as_its_worst_sidecar_does() {
        let budget = Budget::parse(&mesh_proto::mesh::LatencyBudget {
            name: "b".into(),
            namespace: "shop".into(),
            phase: mesh_proto::mesh::LatencyPhase::Token.into(),
            issuer: "https://idp".into(),
            target_millionths: 999_000,
            threshold_nanos: 300_000,
            window_seconds: 3_600,
            ..Default::default()
        })
        .expect("a budget");
        let of = |workload, state: LatencyBudgetState, nanos| {
            let status = LatencyBudgetStatus {
                state: state.into(),
                requests: 10,
                percentile_nanos: nanos,
                burn_rate: 2.5,
                ..Default::default()
            };
            sidecar(workload, true, &status)
        };
        let row = row(
            &budget,
            vec![
                of("shop/a", LatencyBudgetState::Met, 100_000),
                of("shop/b", LatencyBudgetState::Breached, 900_000),
            ],
        );
        assert_eq!(row.state, State::Breached);
        let text = table(&[row]);
        for part in [
            "breached",
            "p99.9 token < 300µs for https://idp",
            "900µs",
            "2.5/0.0",
            "20",
            "shop/b",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("shop/a"), "{text}");
    }
}
