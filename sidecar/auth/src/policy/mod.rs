//! Authorization of connections, and the mutual TLS mode of ports.
//!
//! Semantics of Istio's `AuthorizationPolicy` for what is known of a connection: peer identity, addresses, port. DENY
//! policies are looked at first; then, if any ALLOW policy exists, one must match; else the mesh's default decides.
//! AUDIT policies never decide. Policies marked `dryRun` decide nothing and are told by [`PolicySet::would_decide`].
//!
//! # A peer without an identity
//! What is positive (`principals`, `namespaces`, `serviceAccounts`, `*` too) never matches it, so that an ALLOW rule that
//! names anybody keeps plaintext out. What is negative (`notPrincipals`, ...) does match it, as in Istio and Envoy:
//! a DENY rule with `notPrincipals: ["*"]` catches plaintext, and an ALLOW rule that has *only* negative fields, or none,
//! lets plaintext in. Such a peer gets this far only through a port that is PERMISSIVE or DISABLE.
//!
//! # Other trust domains
//! `namespaces` and `serviceAccounts` do not look at the trust domain (Istio's rule). Where bundles of other domains are
//! held, name `principals`, which do.

mod compile;
mod matcher;
mod modes;

pub use compile::{PolicyError, validate};
pub use modes::{MtlsMode, PortModes, validate_peer_authentication};

use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::mesh;

use crate::{Reason, SpiffeId};
use compile::Policy;

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The verified peer; `None` for plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// Source address; IPv4-mapped IPv6 is taken as IPv4.
    pub source_ip: IpAddr,
    /// Application port.
    pub destination_port: u16,
}

/// Let in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let in.
    Allow,
    /// Refused.
    Deny,
}

/// A verdict and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The deciding policy, `namespace/name`.
    pub policy: Option<Arc<str>>,
    /// Position of the deciding rule in it, from 0.
    pub rule: Option<u32>,
}

/// The policies that select one workload, compiled.
#[derive(Debug)]
pub struct PolicySet {
    deny: Vec<Policy>,
    allow: Vec<Policy>,
    audit: Vec<Policy>,
    dry_deny: Vec<Policy>,
    dry_allow: Vec<Policy>,
    trust_domain: Box<str>,
    default_deny: bool,
}

impl PolicySet {
    /// Compiles the policies that select a workload.
    ///
    /// `defaults` without a trust domain lets nobody in by default.
    ///
    /// # Errors
    /// Names the policy and the field that cannot be compiled.
    pub fn compile(
        policies: &[mesh::AuthorizationPolicy],
        defaults: &mesh::MeshDefaults,
    ) -> Result<Self, PolicyError> {
        let mut set = Self {
            deny: Vec::new(),
            allow: Vec::new(),
            audit: Vec::new(),
            dry_deny: Vec::new(),
            dry_allow: Vec::new(),
            trust_domain: defaults.trust_domain.as_str().into(),
            default_deny: denies_by_default(defaults)?,
        };
        for policy in policies {
            let compiled = Policy::compile(policy)?;
            let list = match (policy.action(), policy.dry_run) {
                (mesh::PolicyAction::Allow, false) => &mut set.allow,
                (mesh::PolicyAction::Allow, true) => &mut set.dry_allow,
                (mesh::PolicyAction::Deny, false) => &mut set.deny,
                (mesh::PolicyAction::Deny, true) => &mut set.dry_deny,
                (mesh::PolicyAction::Audit, _) => &mut set.audit,
            };
            list.push(compiled);
        }
        Ok(set)
    }

    /// Decides a connection. Allocates nothing.
    pub fn decide(&self, connection: &Connection<'_>) -> Decision {
        self.evaluate(connection, [&self.deny, &[]], [&self.allow, &[]])
    }

    /// What would be decided if the policies marked `dryRun` were in force; `None` when there are none.
    pub fn would_decide(&self, connection: &Connection<'_>) -> Option<Decision> {
        if self.dry_deny.is_empty() && self.dry_allow.is_empty() {
            return None;
        }
        Some(self.evaluate(
            connection,
            [&self.deny, &self.dry_deny],
            [&self.allow, &self.dry_allow],
        ))
    }

    /// The AUDIT policies that match, `namespace/name`.
    pub fn audited<'a>(
        &'a self,
        connection: &'a Connection<'_>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        self.audit
            .iter()
            .filter(|p| p.matches(connection).is_some())
            .map(Policy::name)
    }

    fn evaluate(
        &self,
        connection: &Connection<'_>,
        deny: [&[Policy]; 2],
        allow: [&[Policy]; 2],
    ) -> Decision {
        let first = |policies: [&[Policy]; 2]| {
            policies.into_iter().flatten().find_map(|p| {
                p.matches(connection)
                    .map(|rule| (Arc::clone(p.name()), rule))
            })
        };
        let decision = |verdict, reason, by: Option<(Arc<str>, u32)>| {
            let (policy, rule) = by.unzip();
            Decision {
                verdict,
                reason,
                policy,
                rule,
            }
        };
        if let Some(by) = first(deny) {
            return decision(Verdict::Deny, Reason::DeniedByPolicy, Some(by));
        }
        if allow.iter().any(|policies| !policies.is_empty()) {
            return match first(allow) {
                Some(by) => decision(Verdict::Allow, Reason::AllowedByPolicy, Some(by)),
                None => decision(Verdict::Deny, Reason::NoAllowPolicyMatched, None),
            };
        }
        match connection.peer {
            _ if self.default_deny => decision(Verdict::Deny, Reason::DeniedByDefault, None),
            None => decision(Verdict::Deny, Reason::UnauthenticatedPeer, None),
            Some(peer) if peer.trust_domain() == &*self.trust_domain => {
                decision(Verdict::Allow, Reason::AllowedByDefault, None)
            }
            Some(_) => decision(Verdict::Deny, Reason::ForeignTrustDomain, None),
        }
    }
}

/// An unknown decision is an error: taken for the default it could let in whom it was to keep out.
fn denies_by_default(defaults: &mesh::MeshDefaults) -> Result<bool, PolicyError> {
    match mesh::DefaultDecision::try_from(defaults.default_decision) {
        Ok(decision) => Ok(decision == mesh::DefaultDecision::Deny),
        Err(_) => Err(PolicyError {
            policy: "mesh defaults".into(),
            field: "spec.defaultDecision".into(),
            problem: format!("unknown decision {}", defaults.default_decision),
        }),
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
