//! Reports as operators see them: with the workloads behind addresses.

use std::net::IpAddr;

use mesh_manifest::Resource;
use mesh_proto::admin::{EdgeView, PlaintextSource, ReportsRequest, WorkloadEdges, WorkloadReport};
use mesh_proto::mesh::{self, MeshProtocol, PlaintextCaller};

use super::Board;
use super::board::{Held, clean};
use crate::registry::World;

/// Edges of one workload; a sidecar holds fewer.
const MAX_EDGES: usize = 2_048;
/// Longest name of an instance.
const MAX_INSTANCE: usize = 64;

/// Every registered workload that `request` asks for, with what it reported.
pub fn workloads(board: &Board, world: &World, request: &ReportsRequest) -> Vec<WorkloadReport> {
    let wanted = world.workloads().filter(|workload| {
        (request.workload.is_empty() || workload.uid == request.workload)
            && (request.namespace.is_empty() || workload.namespace == request.namespace)
    });
    board.look(
        |uid| world.workload(uid).is_some(),
        |held| {
            wanted
                .map(|workload| {
                    held.get(&workload.uid).map_or_else(
                        || WorkloadReport {
                            workload: workload.uid.clone(),
                            ..WorkloadReport::default()
                        },
                        |held| report(&workload.uid, held, world),
                    )
                })
                .collect()
        },
    )
}

fn report(uid: &str, held: &Held, world: &World) -> WorkloadReport {
    WorkloadReport {
        workload: uid.to_owned(),
        connected: held.is_connected(),
        since: held.since,
        reported_at: held.reported_at,
        shadows: held.shadows().cloned().collect(),
        plaintext: held.plaintext().map(|c| source(c, world)).collect(),
        overflow: held.overflow,
        latency_budgets: held.budgets.clone(),
    }
}

/// What sidecars said of who talks to their workloads, with the workloads behind identities and addresses.
pub fn edges(told: Vec<(String, mesh::Edges)>, world: &World) -> Vec<WorkloadEdges> {
    told.into_iter()
        .filter_map(|(uid, told)| {
            let registered = world.workload(&uid)?;
            Some(WorkloadEdges {
                spiffe_id: registered.id.to_string(),
                workload: uid,
                instance: told.instance.chars().take(MAX_INSTANCE).collect(),
                since: told.since,
                edges: told
                    .edges
                    .into_iter()
                    .take(MAX_EDGES)
                    .map(|counts| edge(counts, world))
                    .collect(),
            })
        })
        .collect()
}

fn edge(mut counts: mesh::Edge, world: &World) -> EdgeView {
    let (mut shown, mut workloads) = (String::new(), Vec::new());
    match &mut counts.from {
        Some(mesh::edge::From::Peer(id)) => {
            clean(id);
            let same = world.workloads().filter(|w| w.id.as_str() == id);
            workloads = same.map(|w| w.uid.clone()).collect();
        }
        Some(mesh::edge::From::Address(octets)) => {
            shown = address(octets);
            workloads = at(octets, world).map(|w| w.uid.clone()).collect();
        }
        _ => {}
    }
    EdgeView {
        address: shown,
        workloads,
        counts: Some(counts),
    }
}

/// The workloads that are registered at an address.
fn at<'a>(octets: &'a [u8], world: &'a World) -> impl Iterator<Item = &'a mesh::Workload> {
    let documents = world.documents.values();
    documents.filter_map(move |stored| match &stored.document.resource {
        Resource::Workload(workload) => workload
            .addresses
            .iter()
            .any(|a| a == octets)
            .then_some(workload),
        _ => None,
    })
}

fn source(caller: &PlaintextCaller, world: &World) -> PlaintextSource {
    let registered: Vec<_> = at(&caller.address, world).collect();
    PlaintextSource {
        address: address(&caller.address),
        has_sidecar: !registered.is_empty()
            && registered
                .iter()
                .all(|w| w.mesh_protocol() != MeshProtocol::Unspecified),
        workloads: registered.iter().map(|w| w.uid.clone()).collect(),
        counts: Some(caller.clone()),
    }
}

fn address(octets: &[u8]) -> String {
    let ip = <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    ip.map_or_else(|_| "?".to_owned(), |ip| ip.to_string())
}
