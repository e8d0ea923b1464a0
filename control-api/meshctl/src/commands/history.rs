//! `meshctl history` and `meshctl rollback`: which revisions there were, and the way back to one.

use std::process::ExitCode;

use mesh_proto::admin::{HistoryRequest, Revision, RollbackRequest};
use serde_json::json;

use crate::cli::{Format, HistoryArgs, RollbackArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Documents of one revision that a table names.
const SHOWN: usize = 3;

pub(super) async fn run(
    admin: &mut Admin,
    arguments: HistoryArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let request = HistoryRequest {
        before: arguments.before.unwrap_or(0),
        limit: arguments.limit,
    };
    let answer = admin
        .history(request)
        .await
        .map_err(|status| Failure::from_status("no revisions could be listed", &status))?
        .into_inner();
    let value = json!({
        "latest": answer.latest,
        "revisions": answer.revisions.iter().map(|r| json!({
            "revision": r.number, "at": moment::rfc3339(r.at), "author": r.author,
            "note": r.note, "documents": r.documents,
        })).collect::<Vec<_>>(),
    });
    let now = moment::unix_now();
    output::print(format, &value, || {
        let mut table = Table::new(&["REV", "WHEN", "WHO", "WHAT"]);
        for r in &answer.revisions {
            table.row([
                r.number.to_string().into(),
                moment::relative(r.at, now).into(),
                r.author.as_str().into(),
                what(r).into(),
            ]);
        }
        format!(
            "{}latest is revision {}\n",
            table.render(output::colour()),
            answer.latest
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn what(revision: &Revision) -> String {
    let mut parts: Vec<_> = revision
        .documents
        .iter()
        .take(SHOWN)
        .map(|(document, outcome)| format!("{document} {outcome}"))
        .collect();
    if let Some(more) = revision
        .documents
        .len()
        .checked_sub(SHOWN)
        .filter(|n| *n > 0)
    {
        parts.push(format!("and {more} more"));
    }
    if parts.is_empty() {
        parts.push("published anew".to_owned());
    }
    match revision.note.as_str() {
        "" => parts.join(", "),
        note => format!("{note}: {}", parts.join(", ")),
    }
}

pub(super) async fn rollback(
    admin: &mut Admin,
    arguments: RollbackArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let RollbackArgs {
        revision: to,
        dry_run,
        if_revision,
    } = arguments;
    let request = RollbackRequest {
        revision: to,
        dry_run,
        if_revision: if_revision.unwrap_or(0),
    };
    let answer = admin
        .rollback(request)
        .await
        .map_err(|status| {
            let failure = Failure::from_status(
                &format!("nothing was rolled back to revision {to}"),
                &status,
            );
            match status.code() {
                tonic::Code::OutOfRange => {
                    failure.next("run `meshctl history` to see which revisions there are")
                }
                _ => failure,
            }
        })?
        .into_inner();
    let value = json!({
        "to": to, "revision": answer.revision, "dry_run": dry_run, "documents": answer.documents,
    });
    output::print(format, &value, || {
        let mut table = Table::new(&["DOCUMENT", "OUTCOME"]);
        for (document, outcome) in &answer.documents {
            let tone = if outcome == "deleted" {
                Tone::Warn
            } else {
                Tone::Good
            };
            table.row([document.as_str().into(), Cell::toned(outcome, tone)]);
        }
        let end = match (answer.documents.is_empty(), dry_run) {
            (true, _) => {
                return format!(
                    "everything is as it was at revision {to} (revision {})\n",
                    answer.revision
                );
            }
            (_, true) => format!(
                "dry run: nothing was changed (revision {})\n",
                answer.revision
            ),
            _ => format!("as at revision {to}; revision {}\n", answer.revision),
        };
        table.render(output::colour()) + &end
    })?;
    Ok(ExitCode::SUCCESS)
}
