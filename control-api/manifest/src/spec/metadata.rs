//! `metadata`: name, namespace, labels, annotations; what Kubernetes adds is tolerated and forgotten.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

/// The namespace of a document that names none, as in Kubernetes.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";
/// Where mesh-wide settings live.
const SYSTEM_NAMESPACE: &str = "postern-system";
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Who a document is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Metadata {
    /// Name within the namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels, which selectors match.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Remarks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Revision of the store that the writer started from, if he says so; no part of the document.
    #[serde(skip_serializing)]
    pub resource_version: Option<u64>,
}

/// The fields of Kubernetes' ObjectMeta. A misspelt one is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)]
struct Written {
    name: String,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<IgnoredAny>,
    deletion_timestamp: Option<IgnoredAny>,
    finalizers: Option<IgnoredAny>,
    generate_name: Option<IgnoredAny>,
    generation: Option<IgnoredAny>,
    managed_fields: Option<IgnoredAny>,
    owner_references: Option<IgnoredAny>,
    resource_version: Option<Version>,
    self_link: Option<IgnoredAny>,
    uid: Option<IgnoredAny>,
}

/// Kubernetes writes a string and calls it opaque; ours are numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Version {
    Number(u64),
    Text(String),
}

impl From<Written> for Metadata {
    fn from(written: Written) -> Self {
        Self {
            name: written.name,
            namespace: written
                .namespace
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            labels: written.labels.unwrap_or_default(),
            annotations: written.annotations.unwrap_or_default(),
            resource_version: match written.resource_version {
                Some(Version::Number(number)) => Some(number),
                Some(Version::Text(text)) => text.parse().ok(),
                None => None,
            },
        }
    }
}

impl Metadata {
    /// Checks names for a kind.
    pub(crate) fn check(&self, kind: Kind) -> Result<(), FieldError> {
        names::label("metadata.namespace", &self.namespace)?;
        names::labels("metadata.labels", &self.labels)?;
        let annotations: usize = self
            .annotations
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum();
        if annotations > MAX_ANNOTATIONS {
            return Err(FieldError::new(
                "metadata.annotations",
                format!("have {annotations} bytes, more than {MAX_ANNOTATIONS}"),
            ));
        }
        match kind {
            // Part of host names and of a workload's identifier: one label.
            Kind::Service | Kind::Workload => names::label("metadata.name", &self.name),
            Kind::Federation if self.namespace != SYSTEM_NAMESPACE => Err(FieldError::new(
                "metadata.namespace",
                format!("federation is mesh-wide: its namespace is '{SYSTEM_NAMESPACE}'"),
            )),
            Kind::Revocation if self.namespace != SYSTEM_NAMESPACE => Err(FieldError::new(
                "metadata.namespace",
                format!("revocations are mesh-wide: their namespace is '{SYSTEM_NAMESPACE}'"),
            )),
            Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::LatencyBudget
            | Kind::Federation
            | Kind::Revocation => names::subdomain("metadata.name", &self.name),
            Kind::MeshDefaults if self.name != "default" => Err(FieldError::new(
                "metadata.name",
                "there is exactly one MeshDefaults, and its name is 'default'",
            )),
            Kind::MeshDefaults if self.namespace != SYSTEM_NAMESPACE => Err(FieldError::new(
                "metadata.namespace",
                format!(
                    "there is exactly one MeshDefaults, and its namespace is '{SYSTEM_NAMESPACE}'"
                ),
            )),
            Kind::MeshDefaults => Ok(()),
        }
    }
}
