//! Whom a policy selects.

use std::collections::BTreeMap;

use crate::document::Resource;

/// The workloads that a policy can select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Namespace of the workloads; `None`: every one.
    pub namespace: Option<String>,
    /// Labels they have.
    pub labels: BTreeMap<String, String>,
}

impl Scope {
    /// The scope of a policy; `None` for a document that is none. In the root namespace a policy on requests and connections
    /// or on their tokens holds everywhere, for whom its selector selects (as Istio has it); a peer authentication with a
    /// selector is a workload's, also there.
    pub fn of(resource: &Resource, root_namespace: &str) -> Option<Self> {
        let (namespace, selector, is_everywhere) = match resource {
            Resource::AuthorizationPolicy(policy) => (
                &policy.namespace,
                &policy.selector,
                policy.namespace == root_namespace,
            ),
            Resource::RequestAuthentication(policy) => (
                &policy.namespace,
                &policy.selector,
                policy.namespace == root_namespace,
            ),
            Resource::LatencyBudget(budget) => (
                &budget.namespace,
                &budget.selector,
                budget.namespace == root_namespace,
            ),
            Resource::PeerAuthentication(policy) => (
                &policy.namespace,
                &policy.selector,
                policy.namespace == root_namespace && policy.selector.is_empty(),
            ),
            _ => return None,
        };
        Some(Self {
            namespace: (!is_everywhere).then(|| namespace.clone()),
            labels: selector.clone(),
        })
    }

    /// True if it selects a workload of `namespace` with `labels`.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
            && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
    }

    /// True if it selects everybody whom `other` selects.
    pub fn covers(&self, other: &Self) -> bool {
        (self.namespace.is_none() || self.namespace == other.namespace)
            && self
                .labels
                .iter()
                .all(|(k, v)| other.labels.get(k) == Some(v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespace: Option<&str>, labels: &[(&str, &str)]) -> Scope {
        Scope {
            namespace: namespace.map(Into::into),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        }
    }

    #[test]
    fn a_scope_selects_by_namespace_and_every_label() {
        let labels = scope(None, &[("app", "web"), ("tier", "front")]).labels;
        for (scope, selects) in [
            (scope(None, &[]), true),
            (scope(Some("shop"), &[]), true),
            (scope(Some("other"), &[]), false),
            (scope(None, &[("app", "web")]), true),
            (scope(None, &[("app", "web"), ("x", "y")]), false),
        ] {
            assert_eq!(scope.selects("shop", &labels), selects, "{scope:?}");
        }
        assert!(scope(None, &[]).covers(&scope(Some("shop"), &[("app", "web")])));
        assert!(!scope(Some("shop"), &[]).covers(&scope(None, &[])));
        assert!(!scope(None, &[("app", "web")]).covers(&scope(None, &[])));
    }
}
