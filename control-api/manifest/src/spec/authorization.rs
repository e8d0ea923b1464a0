//! `kind: AuthorizationPolicy`, in the shape that Istio gave it.

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use super::shapes::{Port, Selector, Unsupported};
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::{API_VERSION, Kind};
use crate::names;

/// Istio's way to say [`AuthorizationPolicy::dry_run`].
const DRY_RUN: &str = "istio.io/dry-run";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Who may connect.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthorizationPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_refs: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Unsupported>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<From>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<To>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<Unsupported>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    source: Source,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_principals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_namespaces: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_blocks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ip_blocks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_service_accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_principals: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_request_principals: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip_blocks: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_remote_ip_blocks: Option<Unsupported>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    operation: Operation,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operation {
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<Port>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ports: Option<Vec<Port>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_hosts: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_methods: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_paths: Option<Unsupported>,
}

/// A list that is written must say something: empty, it would silently match everything.
fn list<'a, T>(path: &str, name: &str, entries: Option<&'a Vec<T>>) -> Result<&'a [T], FieldError> {
    let Some(entries) = entries else {
        return Ok(&[]);
    };
    let path = format!("{path}.{name}");
    if entries.is_empty() {
        return Err(FieldError::new(
            path,
            "is empty, which would match everything: list entries or remove the field",
        ));
    }
    names::at_most(&path, entries.len())?;
    Ok(entries)
}

impl Source {
    fn resource(&self, path: &str) -> Result<mesh::PolicySource, FieldError> {
        let texts = |name: &str, entries: &Option<Vec<String>>| {
            list(path, name, entries.as_ref()).map(<[String]>::to_vec)
        };
        let source = mesh::PolicySource {
            principals: texts("principals", &self.principals)?,
            not_principals: texts("notPrincipals", &self.not_principals)?,
            namespaces: texts("namespaces", &self.namespaces)?,
            not_namespaces: texts("notNamespaces", &self.not_namespaces)?,
            ip_blocks: texts("ipBlocks", &self.ip_blocks)?,
            not_ip_blocks: texts("notIpBlocks", &self.not_ip_blocks)?,
            service_accounts: texts("serviceAccounts", &self.service_accounts)?,
            not_service_accounts: texts("notServiceAccounts", &self.not_service_accounts)?,
        };
        if source == mesh::PolicySource::default() {
            return Err(FieldError::new(
                path,
                "is empty, which would match every source: say which, or remove `from`",
            ));
        }
        Ok(source)
    }
}

impl Operation {
    fn resource(&self, path: &str) -> Result<mesh::PolicyOperation, FieldError> {
        let ports = |name: &str, entries: &Option<Vec<Port>>| {
            list(path, name, entries.as_ref()).map(|ports| ports.iter().map(|p| p.0).collect())
        };
        let operation = mesh::PolicyOperation {
            ports: ports("ports", &self.ports)?,
            not_ports: ports("notPorts", &self.not_ports)?,
        };
        if operation == mesh::PolicyOperation::default() {
            return Err(FieldError::new(
                path,
                "is empty, which would match every operation: say which, or remove `to`",
            ));
        }
        Ok(operation)
    }
}

impl Rule {
    fn resource(&self, path: &str) -> Result<mesh::PolicyRule, FieldError> {
        let from = list(path, "from", self.from.as_ref())?;
        let to = list(path, "to", self.to.as_ref())?;
        Ok(mesh::PolicyRule {
            from: from
                .iter()
                .enumerate()
                .map(|(i, f)| f.source.resource(&format!("{path}.from[{i}].source")))
                .collect::<Result<_, _>>()?,
            to: to
                .iter()
                .enumerate()
                .map(|(i, t)| t.operation.resource(&format!("{path}.to[{i}].operation")))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl AuthorizationPolicy {
    fn is_dry_run(&self, metadata: &Metadata, api_version: &str) -> Result<bool, FieldError> {
        if self.dry_run.is_some() && api_version != API_VERSION {
            return Err(FieldError::new(
                "spec.dryRun",
                format!(
                    "is a field of {API_VERSION}; in Istio's API use the annotation {DRY_RUN}: \"true\""
                ),
            ));
        }
        let annotated = match metadata.annotations.get(DRY_RUN).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(FieldError::new(
                    "metadata.annotations",
                    format!(
                        "{DRY_RUN} is '{}': write \"true\" or \"false\"",
                        other.escape_default()
                    ),
                ));
            }
        };
        Ok(annotated || self.dry_run.unwrap_or(false))
    }
}

impl Spec for AuthorizationPolicy {
    const KIND: Kind = Kind::AuthorizationPolicy;

    fn resource(&self, metadata: &Metadata, api_version: &str) -> Result<Resource, FieldError> {
        let action = match self.action.unwrap_or_default() {
            Action::Allow => mesh::PolicyAction::Allow,
            Action::Deny => mesh::PolicyAction::Deny,
            Action::Audit => mesh::PolicyAction::Audit,
            Action::Custom => {
                return Err(FieldError::new(
                    "spec.action",
                    "not supported yet: CUSTOM hands the decision to another program; use ALLOW, DENY or AUDIT",
                ));
            }
        };
        let selector = self
            .selector
            .as_ref()
            .map(|s| s.match_labels.clone())
            .unwrap_or_default();
        names::labels("spec.selector.matchLabels", &selector)?;
        names::at_most("spec.rules", self.rules.len())?;
        let rules = self
            .rules
            .iter()
            .enumerate()
            .map(|(i, rule)| rule.resource(&format!("spec.rules[{i}]")))
            .collect::<Result<_, _>>()?;
        let policy = mesh::AuthorizationPolicy {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            selector,
            action: action.into(),
            rules,
            dry_run: self.is_dry_run(metadata, api_version)?,
        };
        mesh_auth::policy::validate(&policy).map_err(|e| FieldError::new(e.field, e.problem))?;
        Ok(Resource::AuthorizationPolicy(policy))
    }

    fn summary(&self) -> String {
        let action = format!("{:?}", self.action.unwrap_or_default()).to_uppercase();
        let selector: Vec<_> = self
            .selector
            .iter()
            .flat_map(|s| &s.match_labels)
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let scope = if selector.is_empty() {
            "every workload".to_owned()
        } else {
            selector.join(",")
        };
        let plural = if self.rules.len() == 1 { "" } else { "s" };
        format!("{action} {} rule{plural} for {scope}", self.rules.len())
    }
}
