//! The authorization policies of a snapshot, those that cannot be read among them.

use mesh_auth::policy::{PolicyError, PolicySet};
use mesh_proto::mesh;

use super::Resources;
use crate::stand_in::StandIn;

/// The root namespace in force.
pub fn root_namespace(resources: &Resources) -> &str {
    match &resources.defaults {
        Some(d) if !d.root_namespace.is_empty() => &d.root_namespace,
        _ => "postern-system",
    }
}

/// What cannot be read keeps out whom it may have been meant to keep out.
pub(super) fn compile(resources: &Resources) -> Result<Option<PolicySet>, PolicyError> {
    let Some(defaults) = &resources.defaults else {
        return Ok(None);
    };
    let mut policies: Vec<_> = resources.policies.values().map(|p| (**p).clone()).collect();
    let mut closed_by = None;
    for (name, value) in &resources.unreadable {
        match StandIn::of(name, value) {
            Some(StandIn::DeniesAll) => closed_by = closed_by.or(Some(name)),
            Some(StandIn::AllowsNothing) => {
                let (namespace, own) = name.split_once('/').unwrap_or(("", name));
                policies.push(mesh::AuthorizationPolicy {
                    namespace: namespace.into(),
                    name: own.into(),
                    action: mesh::PolicyAction::Allow.into(),
                    ..Default::default()
                });
            }
            None => {}
        }
    }
    let set = PolicySet::compile(&policies, defaults)?.at_revision(resources.revision);
    Ok(Some(match closed_by {
        Some(name) => set.closed_by(name),
        None => set,
    }))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use mesh_auth::policy::Connection;
    use mesh_auth::{Reason, SpiffeId, TrustDomain};
    use mesh_proto::TypedResource;

    use super::super::Snapshot;
    use super::*;

    #[test]
    fn a_policy_that_cannot_be_read_lets_nobody_in_whom_it_may_keep_out() {
        use mesh::PolicyAction::{Allow, Audit, Deny};
        let peer = SpiffeId::parse("spiffe://demo.test/ns/demo/sa/web").expect("an id");
        let connection = Connection {
            peer: Some(&peer),
            source_ip: IpAddr::from([10, 0, 0, 1]),
            destination_ip: IpAddr::from([10, 0, 0, 2]),
            destination_port: 80,
            sni: None,
        };
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        let cases = [
            (None, Reason::AllowedByDefault, None),
            (Some(Audit), Reason::AllowedByDefault, None),
            (Some(Allow), Reason::NoAllowPolicyMatched, None),
            (Some(Deny), Reason::PolicyUnreadable, Some("demo/p")),
        ];
        for (action, reason, policy) in cases {
            let mut resources = Resources {
                defaults: Some(mesh::MeshDefaults {
                    trust_domain: "demo.test".into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            if let Some(action) = action {
                let unreadable = mesh::AuthorizationPolicy {
                    name: "p".into(),
                    namespace: "demo".into(),
                    action: action.into(),
                    ..Default::default()
                };
                let value = unreadable.to_any().value;
                resources.unreadable.insert("demo/p".into(), value);
            }
            let snapshot = empty
                .build(&Arc::new(resources), None, &[])
                .expect("builds");
            let set = snapshot.policy.expect("defaults are held");
            let decision = set.decide(&connection);
            assert_eq!(
                (decision.reason, decision.policy),
                (reason, policy),
                "{action:?}"
            );
            let standing = set.standing(&connection);
            let (method, headers) = (http::Method::GET, http::HeaderMap::new());
            let request = mesh_auth::policy::Request {
                connection,
                method: &method,
                host: "orders",
                path: "/",
                headers: &headers,
                token: None,
            };
            assert_eq!(
                set.decide_with(&standing, &request).reason,
                reason,
                "{action:?}"
            );
        }
    }
}
