//! `meshctl apply`: documents from files into the store, all or none.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mesh_proto::admin::{ApplyRequest, ApplyResponse, ManifestFile};
use serde_json::json;

use crate::cli::{ApplyArgs, Format};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::output::{self, Cell, Table, Tone};

/// One file's text and the name that errors use for it.
pub(crate) struct Manifest {
    source: String,
    text: String,
}

/// Reads the files; `-` is standard input.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Manifest>, Failure> {
    files.iter().map(|file| read_one(file)).collect()
}

fn read_one(file: &Path) -> Result<Manifest, Failure> {
    let (source, text) = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        ("<stdin>".to_owned(), read.map(|_| text))
    } else {
        (file.display().to_string(), std::fs::read_to_string(file))
    };
    match text {
        Ok(text) => Ok(Manifest { source, text }),
        Err(error) => Err(Failure::usage(format!("cannot read {source}"))
            .why(error)
            .next("give a YAML file, or `-` for standard input")),
    }
}

/// Sends one manifest.
pub(crate) async fn send(
    admin: &mut Admin,
    source: &str,
    text: &str,
    dry_run: bool,
) -> Result<ApplyResponse, Failure> {
    admin
        .apply(ApplyRequest {
            manifest: text.to_owned(),
            source: source.to_owned(),
            dry_run,
            ..ApplyRequest::default()
        })
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status(&format!("nothing of {source} was stored"), &status))
}

/// Sends all manifests as one: all of their documents are stored, or none.
async fn send_all(
    admin: &mut Admin,
    manifests: &[Manifest],
    arguments: &ApplyArgs,
) -> Result<ApplyResponse, Failure> {
    let mut files = manifests.iter().map(|manifest| ManifestFile {
        manifest: manifest.text.clone(),
        source: manifest.source.clone(),
    });
    let first = files.next().unwrap_or_default();
    let request = ApplyRequest {
        manifest: first.manifest,
        source: first.source,
        dry_run: arguments.dry_run,
        if_revision: arguments.if_revision.unwrap_or(0),
        more: files.collect(),
    };
    let names: Vec<_> = manifests.iter().map(|m| m.source.as_str()).collect();
    let what = format!("nothing of {} was stored", names.join(", "));
    let answer = admin.apply(request).await.map_err(|status| {
        let failure = Failure::from_status(&what, &status);
        match status.code() {
            tonic::Code::Aborted => failure.next(
                "run `meshctl get -o yaml` for what is stored now and `meshctl history` for who changed it",
            ),
            _ => failure,
        }
    })?;
    Ok(answer.into_inner())
}

pub(super) async fn run(
    admin: &mut Admin,
    manifests: &[Manifest],
    arguments: &ApplyArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let ApplyResponse {
        revision,
        resources,
    } = send_all(admin, manifests, arguments).await?;
    let value = json!({
        "revision": revision,
        "dry_run": arguments.dry_run,
        "resources": resources.iter().map(|r| json!({
            "kind": r.kind, "namespace": r.namespace, "name": r.name, "outcome": r.outcome,
        })).collect::<Vec<_>>(),
    });
    output::print(format, &value, || {
        let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", "OUTCOME"]);
        for r in &resources {
            let tone = match r.outcome.as_str() {
                "unchanged" => Tone::Dim,
                _ => Tone::Good,
            };
            table.row([
                r.kind.as_str().into(),
                r.namespace.as_str().into(),
                r.name.as_str().into(),
                Cell::toned(&r.outcome, tone),
            ]);
        }
        let end = if arguments.dry_run {
            format!("dry run: nothing was stored (revision {revision})\n")
        } else {
            format!("revision {revision}\n")
        };
        table.render(output::colour()) + &end
    })?;
    Ok(ExitCode::SUCCESS)
}
