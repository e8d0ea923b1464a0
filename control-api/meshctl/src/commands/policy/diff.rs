//! `meshctl policy diff`: what two revisions have differently.

use std::fmt::Write as _;
use std::process::ExitCode;

use mesh_proto::admin::{DiffRequest, Difference};
use serde_json::{Value, json};

use super::changes::{self, Change};
use crate::cli::{DiffArgs, Format};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::output::{self, Tone};

/// Asks for the differences and shows them.
pub(crate) async fn run(
    admin: &mut Admin,
    arguments: DiffArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let from = arguments.from;
    let request = DiffRequest {
        from,
        to: arguments.to.unwrap_or(0),
    };
    let answer = admin
        .diff(request)
        .await
        .map_err(|status| {
            Failure::from_status("the revisions could not be compared", &status)
                .next("run `meshctl history` to see which revisions there are")
        })?
        .into_inner();
    let documents = answer
        .differences
        .iter()
        .map(|difference| Ok((difference, fields(difference)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let value = json!({
        "from": from, "to": answer.to,
        "documents": documents.iter().map(|(d, fields)| json!({
            "kind": d.kind, "namespace": d.namespace, "name": d.name,
            "outcome": outcome(d), "fields": fields,
        })).collect::<Vec<_>>(),
    });
    output::print(format, &value, || {
        if documents.is_empty() {
            return format!(
                "revisions {from} and {} hold the same documents\n",
                answer.to
            );
        }
        let mut text = format!("from revision {from} to {}\n", answer.to);
        let colour = output::colour();
        for (difference, fields) in &documents {
            show(&mut text, difference, fields, colour);
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

fn outcome(difference: &Difference) -> &'static str {
    match (
        difference.before_json.is_empty(),
        difference.after_json.is_empty(),
    ) {
        (true, _) => "created",
        (_, true) => "deleted",
        _ => "changed",
    }
}

fn fields(difference: &Difference) -> Result<Vec<Change>, Failure> {
    let read = |text: &str| -> Result<Option<Value>, Failure> {
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(text).map(Some).map_err(|error| {
            Failure::problem(format!(
                "the control API sent a {} {}/{} that is no JSON",
                difference.kind, difference.namespace, difference.name
            ))
            .why(error)
            .next("use a meshctl of the control API's version (`meshctl --version`)")
        })
    };
    let (before, after) = (
        read(&difference.before_json)?,
        read(&difference.after_json)?,
    );
    // Of a document that came or went, what it says; its names are in the heading.
    let spec = |value: Option<Value>| value.and_then(|v| v.get("spec").cloned());
    if before.is_none() || after.is_none() {
        let (before, after) = (spec(before), spec(after));
        let whole = |path: &str| Change {
            path: path.to_owned(),
            before: before.clone(),
            after: after.clone(),
        };
        return Ok(match before.as_ref().or(after.as_ref()) {
            Some(Value::Object(map)) if !map.is_empty() => map
                .keys()
                .map(|key| Change {
                    path: format!("spec.{key}"),
                    before: before.as_ref().and_then(|v| v.get(key).cloned()),
                    after: after.as_ref().and_then(|v| v.get(key).cloned()),
                })
                .collect(),
            Some(_) => vec![whole("spec")],
            None => Vec::new(),
        });
    }
    Ok(changes::between(before.as_ref(), after.as_ref()))
}

fn show(text: &mut String, difference: &Difference, fields: &[Change], colour: bool) {
    let Difference {
        kind,
        namespace,
        name,
        ..
    } = difference;
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n{kind} {namespace}/{name} {}", outcome(difference));
    for Change {
        path,
        before,
        after,
    } in fields
    {
        for (sign, value, tone) in [("-", before, Tone::Bad), ("+", after, Tone::Good)] {
            if let Some(value) = value {
                let line = format!("{sign} {path}: {value}");
                let _ = writeln!(text, "  {}", output::paint(&line, tone, colour));
            }
        }
    }
}
