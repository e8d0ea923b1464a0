//! `meshctl ca`: change of roots.

use std::process::ExitCode;

use mesh_proto::admin::authority_service_client::AuthorityServiceClient;
use mesh_proto::admin::{
    RotateRequest, RotationStatusRequest, RotationStatusResponse, RotationStep,
};
use serde_json::json;

use crate::cli::{CaCommand, Format, RotateArgs, RotateStep};
use crate::connect::Target;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

pub(super) async fn run(
    target: &Target,
    command: &CaCommand,
    format: Format,
) -> Result<ExitCode, Failure> {
    let CaCommand::Rotate(arguments) = command;
    let mut client = AuthorityServiceClient::new(target.channel().await?);
    let status = match wanted(arguments) {
        None => client.rotation_status(RotationStatusRequest {}).await,
        Some(request) => client.rotate(request).await,
    };
    let status = status
        .map_err(|status| Failure::from_status("the step was not taken", &status))?
        .into_inner();
    output::print(format, &value(&status), || text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(arguments: &RotateArgs) -> Option<RotateRequest> {
    let step = match arguments.step {
        RotateStep::Status => return None,
        RotateStep::Next => RotationStep::Next,
        RotateStep::Prepare => RotationStep::Prepare,
        RotateStep::Activate => RotationStep::Activate,
        RotateStep::Retire => RotationStep::Retire,
        RotateStep::Cancel => RotationStep::Cancel,
    };
    Some(RotateRequest {
        step: step.into(),
        force: arguments.force,
    })
}

fn value(status: &RotationStatusResponse) -> serde_json::Value {
    json!({
        "phase": status.phase,
        "next": status.next,
        "bundle_revision": status.bundle_revision,
        "roots": status.roots.iter().map(|r| json!({
            "sha256": r.sha256, "role": r.role, "since": moment::rfc3339(r.since),
            "not_after": moment::rfc3339(r.not_after),
        })).collect::<Vec<_>>(),
        "waiting": status.waiting.iter().map(|w| json!({
            "workload": w.workload, "connected": w.connected, "reason": w.reason,
        })).collect::<Vec<_>>(),
        "notes": status.notes,
    })
}

fn text(status: &RotationStatusResponse) -> String {
    let now = moment::unix_now();
    let mut table = Table::new(&["ROOT", "ROLE", "SINCE", "EXPIRES"]);
    for root in &status.roots {
        let tone = match root.role.as_str() {
            "signing" => Tone::Good,
            _ => Tone::Warn,
        };
        table.row([
            root.sha256.get(..16).unwrap_or(&root.sha256).into(),
            Cell::toned(&root.role, tone),
            match root.since {
                0 => "-".into(),
                since => moment::relative(since, now).into(),
            },
            moment::relative(root.not_after, now).into(),
        ]);
    }
    let mut text = format!(
        "phase {}\n\n{}",
        status.phase,
        table.render(output::colour())
    );
    if !status.waiting.is_empty() {
        let mut table = Table::new(&["WAITING FOR", "CONNECTED", "REASON"]);
        for w in &status.waiting {
            table.row([
                w.workload.as_str().into(),
                if w.connected { "yes" } else { "no" }.into(),
                w.reason.as_str().into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(output::colour()));
    }
    for note in &status.notes {
        text.push_str(&format!("\nnote: {note}\n"));
    }
    let next = match (status.next.as_str(), status.waiting.is_empty()) {
        ("prepare", _) => {
            "nothing to do; `meshctl ca rotate prepare` begins a change of roots".into()
        }
        (next, true) => format!("next: `meshctl ca rotate {next}`"),
        (next, false) => format!("`meshctl ca rotate {next}` waits for the above"),
    };
    text.push_str(&format!("\n{next}\n"));
    text
}
