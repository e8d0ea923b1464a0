//! A document: what was written, and the resource it means.

use std::collections::BTreeMap;

use mesh_proto::mesh;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::{FieldError, ManifestError};
use crate::kind::Kind;
use crate::spec::Spec;
use crate::spec::federation::Federation;
use crate::spec::metadata::Metadata;

/// The resource that a document means.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// Mesh-wide settings; the trust domain is left empty.
    MeshDefaults(mesh::MeshDefaults),
    /// Something no longer believed.
    Revocation(mesh::Revocation),
    /// Another trust domain and where its bundle is; no resource of sidecars, who get the bundle.
    Federation(Federation),
    /// How strictly ports demand mutual TLS.
    PeerAuthentication(mesh::PeerAuthentication),
    /// Which tokens are accepted.
    RequestAuthentication(mesh::RequestAuthentication),
    /// Who may connect.
    AuthorizationPolicy(mesh::AuthorizationPolicy),
    /// How long a phase of requests may take.
    LatencyBudget(mesh::LatencyBudget),
    /// A named destination and the labels of the workloads behind it; the default hosts are not added.
    Service {
        /// What clients see of it.
        service: mesh::Service,
        /// Labels its workloads have; empty selects none.
        selector: BTreeMap<String, String>,
    },
    /// A running instance; its services are not computed.
    Workload(mesh::Workload),
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// API version it was written in.
    pub api_version: String,
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// The resource it means.
    pub resource: Resource,
    /// One line for tables.
    pub summary: String,
    json: serde_json::Value,
}

impl Document {
    /// Kind, namespace and name.
    pub fn key(&self) -> (Kind, String, String) {
        (self.kind, self.namespace.clone(), self.name.clone())
    }

    /// The document as JSON in the shape that it was read from, without what Kubernetes adds; [`crate::parse`] accepts it.
    pub fn to_json(&self) -> serde_json::Value {
        self.json.clone()
    }

    /// Reads one document from the JSON that [`Self::to_json`] makes.
    ///
    /// # Errors
    /// What is wrong, with its field.
    pub fn from_json(text: &str) -> Result<Self, ManifestError> {
        crate::from_json(text).map_err(|error| ManifestError {
            path: error.path,
            ..ManifestError::whole("JSON document", error.problem)
        })
    }

    /// One line for tables.
    pub fn summary(&self) -> String {
        self.summary.clone()
    }
}

/// A document as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Envelope<S> {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Option<S>,
    /// Other controllers' remarks on the document, as `kubectl get -o yaml` writes them.
    #[serde(default, skip_serializing)]
    #[allow(dead_code)]
    status: Option<IgnoredAny>,
}

impl<S: Spec> Envelope<S> {
    /// Checks the parts together and makes the resource.
    pub(crate) fn finish(mut self) -> Result<Document, FieldError> {
        self.metadata.check(S::KIND)?;
        let spec = self.spec.get_or_insert_with(S::default);
        let resource = spec.resource(&self.metadata, &self.api_version)?;
        let mut summary = spec.summary();
        if let Resource::AuthorizationPolicy(policy) = &resource
            && policy.dry_run
        {
            summary.push_str(" (dry run)");
        }
        let json = serde_json::to_value(&self)
            .map_err(|e| FieldError::new("document", format!("cannot be written as JSON: {e}")))?;
        Ok(Document {
            kind: S::KIND,
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            api_version: self.api_version,
            metadata: self.metadata,
            resource,
            summary,
            json,
        })
    }
}
