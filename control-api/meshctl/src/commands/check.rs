//! `meshctl check`: what is wrong, in the order in which to put it right.
//!
//! Each step is judged by a pure function of what was learnt; a problem always comes with its cause and one command to
//! run. Steps that cannot be judged because an earlier one failed are left out rather than reported as failures.

mod budgets;
mod judge;
mod sidecar;

use std::process::ExitCode;
use std::time::Duration;

use mesh_proto::admin::{GetRequest, InfoRequest, ReportsRequest, StatusResponse};
use serde_json::json;

use self::judge::{Finding, Level};
use super::status;
use crate::cli::{CheckArgs, Format};
use crate::connect::{Admin, Credentials, Target};
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Tone};
use crate::progress::Progress;

/// How long sidecars get to acknowledge what was stored a moment ago.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(
    target: &Target,
    arguments: &CheckArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let _progress = Progress::start(format!("checking the mesh at {target}"));
    let mut findings = vec![judge::target(target)];
    let mut unreachable = None;
    if let Err(failure) = mesh(target, &mut findings).await {
        findings.push(Finding::failed("control API", &failure));
        unreachable = Some(failure.exit_code());
    }
    for address in &arguments.sidecar {
        findings.push(sidecar::ready(*address).await);
    }
    report(&findings, format)?;
    if let Some(code) = unreachable {
        return Ok(code);
    }
    Ok(match findings.iter().any(|f| f.level == Level::Problem) {
        true => ExitCode::from(1),
        false => ExitCode::SUCCESS,
    })
}

/// Everything that the control API can tell.
async fn mesh(target: &Target, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    if let Target::Tls { cert, key, ca, .. } = target {
        let credentials = Credentials::load(cert, key, ca)?;
        findings.push(judge::operator(
            credentials.identity.id().as_str(),
            credentials.identity.not_before(),
            credentials.identity.not_after(),
            moment::unix_now(),
        ));
    }
    let mut admin = target.connect().await?;
    let before = moment::unix_now_ms();
    let info = admin
        .info(InfoRequest {})
        .await
        .map_err(|status| Failure::from_status("the control API does not answer us", &status))?
        .into_inner();
    let after = moment::unix_now_ms();
    findings.push(judge::reached(&info));
    findings.push(judge::clock(&info, before, after));
    findings.push(judge::authority(&info, after));

    let workloads = admin
        .get(GetRequest {
            kind: "Workload".to_owned(),
            ..GetRequest::default()
        })
        .await
        .map_err(|status| Failure::from_status("workloads could not be listed", &status))?
        .into_inner()
        .resources;
    let status = settled(&mut admin).await?;
    let now = moment::unix_now();
    findings.push(judge::registered(&workloads, &status));
    findings.extend(judge::rejections(&status));
    findings.push(judge::in_sync(&status));
    findings.push(judge::certificates(&status, now));
    let reports = admin
        .reports(ReportsRequest::default())
        .await
        .map_err(|status| Failure::from_status("no reports could be read", &status))?
        .into_inner();
    findings.extend(budgets::latency(&reports.workloads));
    Ok(())
}

/// The status once nobody is behind, or after the time that sidecars get.
async fn settled(admin: &mut Admin) -> Result<StatusResponse, Failure> {
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let answer = status::ask(admin).await?;
        let behind = answer
            .sidecars
            .iter()
            .any(|s| status::Standing::of(s, answer.revision) == status::Standing::Behind);
        if !behind || tokio::time::Instant::now() >= deadline {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn report(findings: &[Finding], format: Format) -> Result<(), Failure> {
    let ok = findings.iter().all(|f| f.level != Level::Problem);
    let value = json!({
        "ok": ok,
        "checks": findings.iter().map(|f| json!({
            "name": f.name,
            "ok": f.level != Level::Problem,
            "level": f.level.word(),
            "found": f.found,
            "next": f.next,
        })).collect::<Vec<_>>(),
    });
    output::print(format, &value, || text(findings, output::colour()))
}

fn text(findings: &[Finding], colour: bool) -> String {
    let mut out = String::new();
    for f in findings {
        let (mark, tone) = match f.level {
            Level::Good => ("✓", Tone::Good),
            Level::Warning => ("!", Tone::Warn),
            Level::Problem => ("✗", Tone::Bad),
        };
        let mark = output::paint(mark, tone, colour);
        out.push_str(&format!("{mark} {}: {}\n", f.name, f.found));
        if let Some(next) = &f.next {
            out.push_str(&format!("    run: {next}\n"));
        }
    }
    let problems = findings
        .iter()
        .filter(|f| f.level == Level::Problem)
        .count();
    out.push_str(&match problems {
        0 => output::paint("all is well\n", Tone::Good, colour),
        1 => output::paint("1 problem\n", Tone::Bad, colour),
        n => output::paint(
            &format!("{n} problems; put the first right first\n"),
            Tone::Bad,
            colour,
        ),
    });
    out
}
