//! What resources say, as the hot path sees it: checked once, when a directory is built.

use std::sync::Arc;

use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::alias::{default_hosts, ip_address};
use mesh_proto::mesh;

use super::{
    AppProtocol, DEFAULT_MESH_PORT, DirectoryError, Endpoint, Mark, MeshProtocol, ServiceEntry,
    ServicePort, WorkloadEntry,
};

pub(super) fn workload_entry(
    name: &str,
    trust_domain: &TrustDomain,
    workload: &mesh::Workload,
) -> Result<WorkloadEntry, DirectoryError> {
    let fail = |field: String, reason: String| DirectoryError {
        kind: "workload",
        name: name.to_owned(),
        field,
        reason,
    };
    let domain = if workload.trust_domain.is_empty() {
        trust_domain.clone()
    } else {
        TrustDomain::new(&workload.trust_domain)
            .map_err(|e| fail("trust_domain".into(), e.to_string()))?
    };
    let id = SpiffeId::workload(&domain, &workload.namespace, &workload.service_account)
        .map_err(|e| fail("service_account".into(), e.to_string()))?;
    let addresses = workload
        .addresses
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            ip_address(bytes)
                .ok_or_else(|| fail(format!("addresses[{i}]"), "must be 4 or 16 bytes".into()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mesh_port = match workload.mesh_port {
        0 => DEFAULT_MESH_PORT,
        port => u16::try_from(port)
            .map_err(|_| fail("mesh_port".into(), format!("{port} is not a port")))?,
    };
    Ok(WorkloadEntry {
        uid: workload.uid.as_str().into(),
        id,
        addresses,
        mesh_port,
        // A protocol this version does not know is not reachable through the mesh; plaintext must not be the answer.
        protocol: MeshProtocol::try_from(workload.mesh_protocol)
            .map_err(|e| fail("mesh_protocol".into(), e.to_string()))?,
        used: Mark::default(),
    })
}

pub(super) fn service_entry(
    name: &str,
    service: &mesh::Service,
    members: Option<&Vec<(&mesh::ServiceMembership, Arc<WorkloadEntry>)>>,
    used: Mark,
) -> Result<ServiceEntry, DirectoryError> {
    let fail = |field: String, reason: String| DirectoryError {
        kind: "service",
        name: name.to_owned(),
        field,
        reason,
    };
    let port_number = |value: u32, field: String| match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(fail(field, format!("{value} is not a port"))),
    };
    let mut ports = Vec::with_capacity(service.ports.len());
    for (index, declared) in service.ports.iter().enumerate() {
        let port = port_number(declared.port, format!("ports[{index}].port"))?;
        let mut endpoints = Vec::new();
        for (membership, workload) in members.into_iter().flatten() {
            for mapping in &membership.ports {
                if mapping.service_port == declared.port {
                    let field = format!("ports[{index}].target_port");
                    let target_port = port_number(mapping.target_port, field)?;
                    endpoints.push(Endpoint::new(workload, target_port));
                }
            }
        }
        ports.push(Arc::new(ServicePort {
            port,
            protocol: AppProtocol::try_from(declared.protocol)
                .map_err(|e| fail(format!("ports[{index}].protocol"), e.to_string()))?,
            endpoints,
            name: format!("{name}:{port}").into(),
            used: used.clone(),
        }));
    }
    Ok(ServiceEntry {
        name: name.into(),
        ports,
        used,
    })
}

pub(super) fn host_names(service: &mesh::Service, own_namespace: &str) -> Vec<String> {
    let (name, namespace) = (&service.name, &service.namespace);
    let mut hosts: Vec<String> = service
        .hosts
        .iter()
        .map(|h| h.to_ascii_lowercase())
        .collect();
    if namespace == own_namespace {
        hosts.push(name.clone());
    }
    hosts.retain(|h| h != name || namespace == own_namespace);
    hosts.extend(default_hosts(name, namespace));
    hosts
}
