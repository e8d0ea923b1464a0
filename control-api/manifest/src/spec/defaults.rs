//! `kind: MeshDefaults`.

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum DefaultDecision {
    #[default]
    AllowAuthenticated,
    Deny,
}

/// Mesh-wide settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    root_namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_decision: Option<DefaultDecision>,
}

impl Spec for MeshDefaults {
    const KIND: Kind = Kind::MeshDefaults;

    fn resource(&self, _: &Metadata, _: &str) -> Result<Resource, FieldError> {
        if let Some(namespace) = &self.root_namespace {
            names::label("spec.rootNamespace", namespace)?;
        }
        Ok(Resource::MeshDefaults(mesh::MeshDefaults {
            trust_domain: String::new(),
            root_namespace: self.root_namespace.clone().unwrap_or_default(),
            default_decision: match self.default_decision.unwrap_or_default() {
                DefaultDecision::AllowAuthenticated => mesh::DefaultDecision::Unspecified,
                DefaultDecision::Deny => mesh::DefaultDecision::Deny,
            }
            .into(),
        }))
    }

    fn summary(&self) -> String {
        match self.default_decision.unwrap_or_default() {
            DefaultDecision::AllowAuthenticated => "authenticated peers are let in".into(),
            DefaultDecision::Deny => "nobody is let in without a policy".into(),
        }
    }
}
