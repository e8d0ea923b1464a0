//! Who talks to whom: the sidecars are asked.

use std::collections::BTreeSet;

use mesh_proto::admin::{EdgesRequest, EdgesResponse};
use mesh_proto::mesh::{GetEdges, report_answer, report_query};
use tonic::Status;

use super::{Administration, PATIENCE};
use crate::reports;

/// Asks the sidecars of the workloads that `request` means.
pub(super) async fn ask(
    administration: &Administration,
    request: EdgesRequest,
) -> Result<EdgesResponse, Status> {
    let world = administration.registry.world();
    let EdgesRequest {
        workload,
        namespace,
    } = request;
    if !workload.is_empty() && world.workload(&workload).is_none() {
        return Err(Status::not_found(format!(
            "workload: '{}' is not registered",
            workload.escape_default()
        )));
    }
    let mut silent: BTreeSet<String> = world
        .workloads()
        .filter(|w| workload.is_empty() || w.uid == workload)
        .filter(|w| namespace.is_empty() || w.namespace == namespace)
        .map(|w| w.uid.clone())
        .collect();
    let wanted = silent.clone();
    let ask = report_query::Ask::GetEdges(GetEdges {});
    let answers = administration
        .board
        .ask(&ask, |uid| wanted.contains(uid), PATIENCE)
        .await
        .answers;
    let mut told = Vec::with_capacity(answers.len());
    for (uid, answer) in answers {
        if let Some(report_answer::Answer::Edges(edges)) = answer {
            silent.remove(&uid);
            told.push((uid, edges));
        }
    }
    Ok(EdgesResponse {
        workloads: reports::edges(told, &world),
        silent: silent.into_iter().collect(),
        at_unix_ms: administration.clock.millis(),
    })
}
