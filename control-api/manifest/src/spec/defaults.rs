//! `kind: MeshDefaults`.

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

/// Most entries of `x-forwarded-for` that anybody believes.
const MAX_PROXIES: u32 = 16;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    strict_policies: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_trusted_proxies: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    trust_domain_aliases: Vec<String>,
}

impl Spec for MeshDefaults {
    const KIND: Kind = Kind::MeshDefaults;

    fn resource(&self, _: &Metadata, _: &str) -> Result<Resource, FieldError> {
        if let Some(namespace) = &self.root_namespace {
            names::label("spec.rootNamespace", namespace)?;
        }
        if let Some(proxies) = self.num_trusted_proxies
            && proxies > MAX_PROXIES
        {
            return Err(FieldError::new(
                "spec.numTrustedProxies",
                format!("{proxies} is more than {MAX_PROXIES}"),
            ));
        }
        names::at_most("spec.trustDomainAliases", self.trust_domain_aliases.len())?;
        for (i, alias) in self.trust_domain_aliases.iter().enumerate() {
            mesh_auth::TrustDomain::new(alias).map_err(|e| {
                FieldError::new(format!("spec.trustDomainAliases[{i}]"), e.to_string())
            })?;
        }
        Ok(Resource::MeshDefaults(mesh::MeshDefaults {
            trust_domain: String::new(),
            root_namespace: self.root_namespace.clone().unwrap_or_default(),
            default_decision: match self.default_decision.unwrap_or_default() {
                DefaultDecision::AllowAuthenticated => mesh::DefaultDecision::Unspecified,
                DefaultDecision::Deny => mesh::DefaultDecision::Deny,
            }
            .into(),
            strict_policies: self.strict_policies.unwrap_or(false),
            trusted_proxies: self.num_trusted_proxies.unwrap_or(0),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
        }))
    }

    fn summary(&self) -> String {
        match self.default_decision.unwrap_or_default() {
            DefaultDecision::AllowAuthenticated => "authenticated peers are let in".into(),
            DefaultDecision::Deny => "nobody is let in without a policy".into(),
        }
    }
}
