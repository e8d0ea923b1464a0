//! `kind: AuthorizationPolicy`, in the shape that Istio gave it.

mod rule;

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use super::shapes::{Selector, Unsupported};
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::{API_VERSION, Kind};
use crate::names;
use rule::Rule;

/// Istio's way to say [`AuthorizationPolicy::dry_run`].
const DRY_RUN: &str = "istio.io/dry-run";
/// [`AuthorizationPolicy::owner`] and [`AuthorizationPolicy::review_by`] of documents in Istio's API.
const OWNER: &str = "postern.dev/owner";
const REVIEW_BY: &str = "postern.dev/review-by";
/// Longest owner.
const MAX_REMARK: usize = 256;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    review_by: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_refs: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Unsupported>,
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

    /// A remark of ours: a field in our API, an annotation in Istio's, either in ours.
    fn remark(
        written: Option<&String>,
        (field, annotation): (&str, &str),
        metadata: &Metadata,
        api_version: &str,
    ) -> Result<String, FieldError> {
        if written.is_some() && api_version != API_VERSION {
            return Err(FieldError::new(
                format!("spec.{field}"),
                format!(
                    "is a field of {API_VERSION}; in Istio's API use the annotation {annotation}"
                ),
            ));
        }
        let (path, text) = match (written, metadata.annotations.get(annotation)) {
            (Some(text), _) => (format!("spec.{field}"), text),
            (None, Some(text)) => (format!("metadata.annotations.{annotation}"), text),
            (None, None) => return Ok(String::new()),
        };
        if text.trim().is_empty() || text.len() > MAX_REMARK || text.chars().any(char::is_control) {
            return Err(FieldError::new(
                path,
                format!("must be one line of 1 to {MAX_REMARK} characters"),
            ));
        }
        Ok(text.clone())
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
                    "not supported: CUSTOM hands the decision to another program; use ALLOW, DENY or AUDIT",
                ));
            }
        };
        let selector = Selector::labels(self.selector.as_ref())?;
        names::at_most("spec.rules", self.rules.len())?;
        let rules = self
            .rules
            .iter()
            .enumerate()
            .map(|(i, rule)| rule.resource(&format!("spec.rules[{i}]"), api_version))
            .collect::<Result<_, _>>()?;
        let policy = mesh::AuthorizationPolicy {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            selector,
            action: action.into(),
            rules,
            dry_run: self.is_dry_run(metadata, api_version)?,
            owner: Self::remark(self.owner.as_ref(), ("owner", OWNER), metadata, api_version)?,
            review_by: Self::remark(
                self.review_by.as_ref(),
                ("reviewBy", REVIEW_BY),
                metadata,
                api_version,
            )?,
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
