//! Documents for the offline engine, from files or from the store; and YAML of ours within limits.

use std::path::PathBuf;

use mesh_manifest::Document;
use mesh_proto::admin::{GetRequest, InfoRequest};
use serde::de::DeserializeOwned;

use crate::connect::Admin;
use crate::failure::Failure;
use crate::offline::Mesh;

/// Largest file of ours.
const MAX_BYTES: usize = 4 << 20;

/// Reads the documents of files. A document may be in one of them only.
pub(super) fn from_files(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents: Vec<Document> = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::usage(format!("cannot read {name}"))
                .why(error)
                .next("give a YAML file with documents, as `apply` takes it")
        })?;
        let read = mesh_manifest::parse(&text, &name).map_err(|error| {
            Failure::usage(format!("{name} was refused"))
                .why(error)
                .next("correct the document; `apply` would refuse it too")
        })?;
        for document in read {
            if documents.iter().any(|held| held.key() == document.key()) {
                return Err(Failure::usage(format!(
                    "{} {}/{} of {name} is already in another file",
                    document.kind, document.namespace, document.name
                ))
                .next("keep one of them"));
            }
            documents.push(document);
        }
    }
    Ok(documents)
}

/// Everything that is stored.
pub(super) async fn live(admin: &mut Admin) -> Result<Mesh, Failure> {
    let failed = |status| Failure::from_status("the documents could not be read", &status);
    let info = admin
        .info(InfoRequest {})
        .await
        .map_err(failed)?
        .into_inner();
    let stored = admin.get(GetRequest::default()).await.map_err(failed)?;
    let documents = stored
        .into_inner()
        .resources
        .iter()
        .map(|stored| {
            mesh_manifest::from_json(&stored.document_json).map_err(|error| {
                Failure::problem(format!(
                    "this meshctl does not understand {} {}/{}",
                    stored.kind, stored.namespace, stored.name
                ))
                .why(error)
                .next("use a meshctl of the control API's version (`meshctl --version`)")
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Mesh::new(documents, &info.trust_domain))
}

/// Reads one YAML document. Nothing in it may blow up: the budget is a small one.
pub(super) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("has {} bytes, more than {MAX_BYTES}", text.len()));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 24,
            flow_nesting_limit: 24,
            max_nodes: 250_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        strict_booleans: true,
        with_snippet: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}
