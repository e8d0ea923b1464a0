//! `meshctl policy shadow`: what dry-run policies would change, from live traffic.

use std::process::ExitCode;

use mesh_proto::admin::{ReportsRequest, WorkloadReport};
use mesh_proto::mesh::{ReportVerdict, ShadowCount};
use serde_json::{Value, json};

use crate::cli::{Format, ReportArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Asks for the counts and shows what would be different.
pub(crate) async fn run(
    admin: &mut Admin,
    arguments: ReportArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let request = ReportsRequest {
        workload: arguments.workload.unwrap_or_default(),
        namespace: arguments.namespace.unwrap_or_default(),
    };
    let answer = admin
        .reports(request)
        .await
        .map_err(|status| Failure::from_status("no reports could be read", &status))?
        .into_inner();
    let counts: Vec<_> = answer
        .workloads
        .iter()
        .flat_map(|w| w.shadows.iter().map(move |count| (w, count)))
        .filter(|(_, count)| arguments.all || count.enforced != count.would_be)
        .collect();
    let value = json!({
        "counts": counts.iter().map(|(w, c)| item(w, c)).collect::<Vec<_>>(),
        "silent": silent(&answer.workloads),
        "overflow": answer.workloads.iter().map(|w| w.overflow).sum::<u64>(),
    });
    let now = moment::unix_now();
    output::print(format, &value, || {
        let mut text = if counts.is_empty() {
            "nothing would change: no request was decided otherwise by a dry-run policy\n"
                .to_owned()
        } else {
            table(&counts, now)
        };
        for workload in silent(&answer.workloads) {
            text.push_str(&format!(
                "{workload} reports nothing: no sidecar of it is connected\n"
            ));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

fn silent(workloads: &[WorkloadReport]) -> Vec<&str> {
    let silent = workloads
        .iter()
        .filter(|w| !w.connected && w.shadows.is_empty());
    silent.map(|w| w.workload.as_str()).collect()
}

fn item(workload: &WorkloadReport, count: &ShadowCount) -> Value {
    json!({
        "workload": workload.workload, "port": count.port, "method": count.method, "route": count.route,
        "enforced": word(count.enforced()), "would_be": word(count.would_be()),
        "policy": count.policy, "rule": count.rule.checked_sub(1), "reason": count.reason, "count": count.count,
        "first_seen": moment::rfc3339(count.first_seen), "last_seen": moment::rfc3339(count.last_seen),
        "last_peer": count.last_peer,
    })
}

fn table(counts: &[(&WorkloadReport, &ShadowCount)], now: i64) -> String {
    let mut table = Table::new(&[
        "WORKLOAD",
        "ROUTE",
        "NOW",
        "WOULD",
        "TIMES",
        "BECAUSE OF",
        "LAST",
    ]);
    for (workload, count) in counts {
        let route = match count.method.as_str() {
            "" => format!("port {} (opaque)", count.port),
            method => format!("{method} {} on {}", count.route, count.port),
        };
        let by = match count.policy.as_str() {
            "" => count.reason.clone(),
            policy => match count.rule.checked_sub(1) {
                Some(rule) => format!("{policy} rules[{rule}]"),
                None => policy.to_owned(),
            },
        };
        let caller = match count.last_peer.as_str() {
            "" => "plaintext",
            peer => peer,
        };
        table.row([
            workload.workload.as_str().into(),
            route.into(),
            verdict(count.enforced()),
            verdict(count.would_be()),
            count.count.to_string().into(),
            by.into(),
            format!("{} by {caller}", moment::relative(count.last_seen, now)).into(),
        ]);
    }
    table.render(output::colour())
}

fn word(verdict: ReportVerdict) -> &'static str {
    match verdict {
        ReportVerdict::Allow => "allow",
        ReportVerdict::Deny => "deny",
        ReportVerdict::Unspecified => "unknown",
    }
}

fn verdict(verdict: ReportVerdict) -> Cell {
    let tone = match verdict {
        ReportVerdict::Allow => Tone::Good,
        ReportVerdict::Deny => Tone::Bad,
        ReportVerdict::Unspecified => Tone::Dim,
    };
    Cell::toned(word(verdict), tone)
}
