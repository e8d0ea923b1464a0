//! The documents of a mesh, and which of them concern a workload.

use std::collections::BTreeMap;

use mesh_auth::policy::PortModes;
use mesh_auth::token::{TokenPolicy, TokenPolicyError};
use mesh_manifest::{Document, Resource, Scope};
use mesh_proto::mesh::{self, AuthorizationPolicy, MeshDefaults};

/// Namespace whose policies hold for the whole mesh, where the mesh's defaults name none.
const ROOT_NAMESPACE: &str = "postern-system";

/// A workload as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// `namespace/name`, or as much of it as is known.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// The documents.
pub(crate) struct Mesh {
    documents: Vec<Document>,
    defaults: MeshDefaults,
}

impl Mesh {
    /// The mesh of `trust_domain` that these documents make.
    pub(crate) fn new(documents: Vec<Document>, trust_domain: &str) -> Self {
        let defaults = documents.iter().find_map(|d| match &d.resource {
            Resource::MeshDefaults(defaults) => Some(defaults.clone()),
            _ => None,
        });
        let mut defaults = defaults.unwrap_or_default();
        trust_domain.clone_into(&mut defaults.trust_domain);
        if defaults.root_namespace.is_empty() {
            ROOT_NAMESPACE.clone_into(&mut defaults.root_namespace);
        }
        Self {
            documents,
            defaults,
        }
    }

    pub(crate) fn defaults(&self) -> &MeshDefaults {
        &self.defaults
    }

    /// Every authorization policy with its scope, in the order in which sidecars hold them: by name.
    pub(crate) fn policies(&self) -> Vec<(&AuthorizationPolicy, Scope)> {
        let mut policies: Vec<_> = self
            .documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::AuthorizationPolicy(policy) => {
                    let scope = Scope::of(&document.resource, &self.defaults.root_namespace)?;
                    Some((policy, scope))
                }
                _ => None,
            })
            .collect();
        policies.sort_by_key(|(policy, _)| title(policy));
        policies
    }

    /// The authorization policies that select a workload.
    pub(crate) fn selecting(&self, subject: &Subject) -> Vec<AuthorizationPolicy> {
        let policies = self.policies().into_iter();
        policies
            .filter(|(_, scope)| scope.selects(&subject.namespace, &subject.labels))
            .map(|(policy, _)| policy.clone())
            .collect()
    }

    /// The rules on tokens that select a workload; `None` when there are none. Fetched keys are not among the documents.
    ///
    /// # Errors
    /// A rule does not compile.
    pub(crate) fn tokens(
        &self,
        subject: &Subject,
    ) -> Result<Option<TokenPolicy>, TokenPolicyError> {
        let root = &self.defaults.root_namespace;
        let selecting = self.documents.iter().filter_map(|document| {
            let Resource::RequestAuthentication(rules) = &document.resource else {
                return None;
            };
            Scope::of(&document.resource, root)?
                .selects(&subject.namespace, &subject.labels)
                .then_some(rules)
        });
        TokenPolicy::compile(selecting, &BTreeMap::new(), None)
    }

    /// The mutual TLS modes of a workload's ports.
    pub(crate) fn port_modes(&self, subject: &Subject) -> PortModes {
        let root = &self.defaults.root_namespace;
        let policies: Vec<mesh::PeerAuthentication> = self
            .documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::PeerAuthentication(policy) => Scope::of(&document.resource, root)?
                    .selects(&subject.namespace, &subject.labels)
                    .then(|| policy.clone()),
                _ => None,
            })
            .collect();
        PortModes::resolve(&policies, &subject.namespace, root)
    }

    /// Application ports that something is said about: a service's target, or a mode of its own.
    pub(crate) fn ports(&self, subject: &Subject) -> Vec<u32> {
        let mut ports = Vec::new();
        for document in &self.documents {
            match &document.resource {
                Resource::Service { service, selector } => {
                    let is_ours = service.namespace == subject.namespace
                        && !selector.is_empty()
                        && selector
                            .iter()
                            .all(|(k, v)| subject.labels.get(k) == Some(v));
                    if is_ours {
                        ports.extend(service.ports.iter().map(|port| match port.target_port {
                            0 => port.port,
                            target => target,
                        }));
                    }
                }
                Resource::PeerAuthentication(policy) => {
                    let scope = Scope::of(&document.resource, &self.defaults.root_namespace);
                    if scope.is_some_and(|s| s.selects(&subject.namespace, &subject.labels)) {
                        ports.extend(policy.port_modes.keys());
                    }
                }
                _ => {}
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// What every document means.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.documents.iter().map(|document| &document.resource)
    }

    /// A workload document as a subject, by `namespace/name`.
    pub(crate) fn subject(&self, uid: &str) -> Option<Subject> {
        self.workloads().find(|w| w.uid == uid).map(subject)
    }

    /// Every workload document.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &mesh::Workload> {
        self.documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::Workload(workload) => Some(workload),
                _ => None,
            })
    }
}

/// A workload as policies see it.
pub(crate) fn subject(workload: &mesh::Workload) -> Subject {
    Subject {
        name: workload.uid.clone(),
        namespace: workload.namespace.clone(),
        labels: workload.labels.clone(),
    }
}

/// `namespace/name`.
pub(crate) fn title(policy: &AuthorizationPolicy) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// The policy's action, as documents write it.
pub(crate) fn action(policy: &AuthorizationPolicy) -> &'static str {
    match policy.action() {
        mesh::PolicyAction::Allow => "ALLOW",
        mesh::PolicyAction::Deny => "DENY",
        mesh::PolicyAction::Audit => "AUDIT",
    }
}
