//! Reports as operators see them: with the workloads behind addresses.

use std::net::IpAddr;

use mesh_manifest::Resource;
use mesh_proto::admin::{PlaintextSource, ReportsRequest, WorkloadReport};
use mesh_proto::mesh::{MeshProtocol, PlaintextCaller};

use super::Board;
use super::board::Held;
use crate::registry::World;

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

fn source(caller: &PlaintextCaller, world: &World) -> PlaintextSource {
    let registered: Vec<_> = world
        .documents
        .values()
        .filter_map(|stored| match &stored.document.resource {
            Resource::Workload(workload) if workload.addresses.contains(&caller.address) => {
                Some(workload)
            }
            _ => None,
        })
        .collect();
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
