//! `meshctl mtls readiness`: which workloads can go STRICT, and who keeps the others from it.

use std::process::ExitCode;

use mesh_auth::policy::MtlsMode;
use mesh_proto::admin::{PlaintextSource, ReportsRequest, WorkloadReport};
use serde::Serialize;

use super::documents;
use crate::cli::{Format, ReadinessArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::offline::Mesh;
use crate::output::{self, Cell, Table, Tone};

/// What a workload can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Every port is STRICT already.
    Strict,
    /// Nobody came in plaintext.
    Ready,
    /// Somebody did.
    Blocked,
    /// No sidecar tells.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Row {
    workload: String,
    state: State,
    because: String,
    /// Since when callers are watched, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    watched_since: Option<String>,
    callers: Vec<Caller>,
}

#[derive(Debug, Serialize)]
struct Caller {
    address: String,
    /// Workloads registered at that address.
    workloads: Vec<String>,
    /// True if they have a sidecar, which was bypassed.
    has_sidecar: bool,
    port: u32,
    mode: &'static str,
    admitted: u64,
    refused: u64,
    last_seen: String,
    #[serde(skip)]
    last: i64,
}

pub(super) async fn readiness(
    admin: &mut Admin,
    arguments: ReadinessArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let mesh = documents::live(admin).await?;
    let request = ReportsRequest {
        workload: arguments.workload.unwrap_or_default(),
        namespace: arguments.namespace.unwrap_or_default(),
    };
    let answer = admin
        .reports(request)
        .await
        .map_err(|status| Failure::from_status("no reports could be read", &status))?
        .into_inner();
    let now = moment::unix_now();
    let since = now - i64::from(arguments.within);
    let rows: Vec<_> = answer
        .workloads
        .iter()
        .map(|w| judge(&mesh, w, since))
        .collect();
    let value = serde_json::json!({"workloads": rows});
    output::print(format, &value, || table(&rows, now))?;
    Ok(ExitCode::SUCCESS)
}

fn judge(mesh: &Mesh, report: &WorkloadReport, since: i64) -> Row {
    let subject = mesh.subject(&report.workload);
    let modes = subject.as_ref().map(|subject| mesh.port_modes(subject));
    let mode = |port: u32| match (&modes, u16::try_from(port)) {
        (Some(modes), Ok(port)) => modes.mode(port),
        _ => MtlsMode::Strict,
    };
    let mut callers: Vec<_> = report
        .plaintext
        .iter()
        .filter_map(|source| caller(source, mode(source.counts.as_ref()?.port)))
        .filter(|caller| caller.last >= since)
        .collect();
    callers.sort_by_key(|caller| std::cmp::Reverse(caller.last));
    // A port that nobody described has the mode of the workload, which port 0 has too.
    let mut ports = subject.as_ref().map(|s| mesh.ports(s)).unwrap_or_default();
    ports.push(0);
    let open: Vec<_> = ports
        .into_iter()
        .filter(|port| mode(*port) != MtlsMode::Strict)
        .collect();
    let blocking = callers
        .iter()
        .filter(|c| c.admitted > 0 && c.mode != "STRICT")
        .count();
    let (state, because) = if open.is_empty() {
        let refused = match callers.iter().map(|c| c.refused).sum::<u64>() {
            0 => String::new(),
            n => format!("; {n} plaintext connection(s) were refused"),
        };
        (State::Strict, format!("every port is STRICT{refused}"))
    } else if blocking > 0 {
        (
            State::Blocked,
            format!("{blocking} caller(s) came in plaintext"),
        )
    } else if !report.connected {
        (State::Unknown, "no sidecar of it is connected".to_owned())
    } else if report.overflow > 0 {
        (
            State::Unknown,
            format!(
                "{} observation(s) did not fit and were not kept",
                report.overflow
            ),
        )
    } else {
        (State::Ready, "nobody came in plaintext".to_owned())
    };
    Row {
        workload: report.workload.clone(),
        state,
        because,
        watched_since: (report.since > 0).then(|| moment::rfc3339(report.since)),
        callers,
    }
}

fn caller(source: &PlaintextSource, mode: MtlsMode) -> Option<Caller> {
    let counts = source.counts.as_ref()?;
    Some(Caller {
        address: source.address.clone(),
        workloads: source.workloads.clone(),
        has_sidecar: source.has_sidecar,
        port: counts.port,
        mode: match mode {
            MtlsMode::Strict => "STRICT",
            MtlsMode::Permissive => "PERMISSIVE",
            MtlsMode::Disable => "DISABLE",
        },
        admitted: counts.admitted,
        refused: counts.refused,
        last_seen: moment::rfc3339(counts.last_seen),
        last: counts.last_seen,
    })
}

fn table(rows: &[Row], now: i64) -> String {
    if rows.is_empty() {
        return "no workloads are registered\n".to_owned();
    }
    let mut table = Table::new(&["WORKLOAD", "STATE", "BECAUSE", "CALLER", "PORT", "LAST"]);
    for row in rows {
        let (word, tone) = match row.state {
            State::Strict => ("strict", Tone::Good),
            State::Ready => ("ready", Tone::Good),
            State::Blocked => ("blocked", Tone::Bad),
            State::Unknown => ("unknown", Tone::Warn),
        };
        let mut head = [
            Cell::from(row.workload.as_str()),
            Cell::toned(word, tone),
            Cell::from(row.because.as_str()),
        ];
        if row.callers.is_empty() {
            let [workload, state, because] = head;
            table.row([workload, state, because, "".into(), "".into(), "".into()]);
            continue;
        }
        for caller in &row.callers {
            let who = match (caller.workloads.is_empty(), caller.has_sidecar) {
                (true, _) => caller.address.clone(),
                (false, true) => format!(
                    "{} ({}, past its sidecar)",
                    caller.workloads.join(" or "),
                    caller.address
                ),
                (false, false) => format!(
                    "{} ({}, no sidecar)",
                    caller.workloads.join(" or "),
                    caller.address
                ),
            };
            let [workload, state, because] = head;
            table.row([
                workload,
                state,
                because,
                who.into(),
                caller.port.to_string().into(),
                moment::relative(caller.last, now).into(),
            ]);
            head = ["".into(), "".into(), "".into()];
        }
    }
    table.render(output::colour())
}
