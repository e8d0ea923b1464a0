//! What stands in for an authorization policy that cannot be read: nobody gets in whom it may have been meant to keep out.

use bytes::Bytes;
use mesh_proto::{TypedResource, mesh};
use prost::Message;

/// What stands in for an authorization policy that selects the workload and cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandIn {
    /// An ALLOW policy that matches nothing: what no other one allows is denied.
    AllowsNothing,
    /// For a DENY policy, or one of which not even the action can be told: everything is denied.
    DeniesAll,
}

impl StandIn {
    /// Of the policy `name`; `None` for one that would decide nothing.
    pub(crate) fn of(name: &str, value: &Bytes) -> Option<Self> {
        let policy = match mesh::AuthorizationPolicy::decode(value.clone()) {
            Ok(policy) if policy.resource_name() == name => policy,
            Ok(_) | Err(_) => return Some(Self::DeniesAll),
        };
        match mesh::PolicyAction::try_from(policy.action) {
            _ if policy.dry_run => None,
            Ok(mesh::PolicyAction::Audit) => None,
            Ok(mesh::PolicyAction::Allow) => Some(Self::AllowsNothing),
            Ok(mesh::PolicyAction::Deny) | Err(_) => Some(Self::DeniesAll),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unreadable_policy_stands_for_denies_whenever_it_may_deny() {
        use mesh::PolicyAction::{Allow, Audit, Deny};
        let of = |name: &str, action: i32, dry_run| {
            let policy = mesh::AuthorizationPolicy {
                name: "p".into(),
                namespace: "demo".into(),
                action,
                dry_run,
                ..Default::default()
            };
            StandIn::of(name, &policy.to_any().value)
        };
        let cases = [
            ("demo/p", Allow.into(), false, Some(StandIn::AllowsNothing)),
            ("demo/p", Deny.into(), false, Some(StandIn::DeniesAll)),
            ("demo/p", 9, false, Some(StandIn::DeniesAll)),
            ("demo/other", Allow.into(), false, Some(StandIn::DeniesAll)),
            ("demo/p", Audit.into(), false, None),
            ("demo/p", Deny.into(), true, None),
        ];
        for (name, action, dry_run, expected) in cases {
            assert_eq!(
                of(name, action, dry_run),
                expected,
                "{name} {action} {dry_run}"
            );
        }
        for bytes in ["", "no message"] {
            let value = Bytes::from(bytes);
            assert_eq!(StandIn::of("demo/p", &value), Some(StandIn::DeniesAll));
        }
    }
}
