//! `kind: Workload`.

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

/// How peers reach it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MeshProtocol {
    #[default]
    Postern,
    #[serde(rename = "HBONE")]
    Hbone,
    #[serde(rename = "MTLS")]
    Mtls,
    None,
}

/// One running instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Workload {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account: Option<String>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh_port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh_protocol: Option<MeshProtocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,
}

impl Workload {
    fn account(&self) -> &str {
        self.service_account.as_deref().unwrap_or("default")
    }
}

impl Spec for Workload {
    const KIND: Kind = Kind::Workload;

    fn resource(&self, metadata: &Metadata, _: &str) -> Result<Resource, FieldError> {
        names::subdomain("spec.serviceAccount", self.account())?;
        if let Some(trust_domain) = &self.trust_domain {
            mesh_auth::TrustDomain::new(trust_domain)
                .map_err(|e| FieldError::new("spec.trustDomain", e.to_string()))?;
        }
        let protocol = match self.mesh_protocol.unwrap_or_default() {
            MeshProtocol::Postern => mesh::MeshProtocol::Postern,
            MeshProtocol::Hbone => mesh::MeshProtocol::Hbone,
            MeshProtocol::Mtls => mesh::MeshProtocol::Mtls,
            MeshProtocol::None => mesh::MeshProtocol::Unspecified,
        };
        Ok(Resource::Workload(mesh::Workload {
            uid: format!("{}/{}", metadata.namespace, metadata.name),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            service_account: self.account().to_owned(),
            trust_domain: self.trust_domain.clone().unwrap_or_default(),
            addresses: names::addresses("spec.addresses", &self.addresses)?,
            mesh_port: self
                .mesh_port
                .map_or(Ok(0), |port| names::port("spec.meshPort", port))?,
            mesh_protocol: protocol.into(),
            labels: metadata.labels.clone(),
            services: vec![],
        }))
    }

    fn summary(&self) -> String {
        format!("sa {} at {}", self.account(), self.addresses.join(", "))
    }
}
