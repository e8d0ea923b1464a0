//! What a sidecar holds of the mesh's resources, as they came and were accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::mesh;

use crate::lookups::Scope;

/// The resources a sidecar holds, by name.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Mesh-wide settings; `None` until received.
    pub defaults: Option<mesh::MeshDefaults>,
    /// Trust bundles by trust domain.
    pub bundles: BTreeMap<String, Arc<mesh::TrustBundle>>,
    /// Trust domains that an earlier process was given bundles of, in force or not any more.
    pub spoken_of: BTreeSet<String>,
    /// What is revoked, by name of the entry.
    pub revocations: BTreeMap<String, Arc<mesh::Revocation>>,
    /// Keys of token issuers, by name.
    pub key_sets: BTreeMap<String, Arc<mesh::KeySet>>,
    /// Peer authentication policies that can select this workload.
    pub peer_authentications: BTreeMap<String, Arc<mesh::PeerAuthentication>>,
    /// Which tokens are accepted on requests to this workload.
    pub request_authentications: BTreeMap<String, Arc<mesh::RequestAuthentication>>,
    /// Authorization policies that select this workload.
    pub policies: BTreeMap<String, Arc<mesh::AuthorizationPolicy>>,
    /// Authorization policies that select this workload and cannot be read, as they came, where no earlier version is held.
    pub unreadable: BTreeMap<String, Bytes>,
    /// Latency budgets that select this workload.
    pub latency_budgets: BTreeMap<String, Arc<mesh::LatencyBudget>>,
    /// Services.
    pub services: BTreeMap<String, Arc<mesh::Service>>,
    /// Workloads.
    pub workloads: BTreeMap<String, Arc<mesh::Workload>>,
    /// How much of what there is they are.
    pub scope: Scope,
    /// Store revision these resources are of; 0 when unknown.
    pub revision: u64,
}
