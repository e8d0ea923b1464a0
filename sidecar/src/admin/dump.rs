//! The snapshot in force as JSON, for people. Keys and tokens are not part of a snapshot's resources; of certificates
//! only identities, validity and fingerprints are told.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use mesh_auth::bundle::vouched_namespaces;
use mesh_auth::latency::{Budget, Direction};
use mesh_auth::token;
use mesh_proto::alias::ip_address;
use mesh_proto::mesh;
use serde_json::{Value, json};

use crate::control::clock::rfc3339;
use crate::lookups::{Lookup, Scope};
use crate::snapshot::Snapshot;

/// Everything that decides and routes.
pub fn snapshot(snapshot: &Snapshot) -> Value {
    let resources = &snapshot.resources;
    json!({
        "epoch": snapshot.epoch,
        "revision": snapshot.revision,
        "workload": &*snapshot.own_uid,
        "trust_domain": snapshot.trust_domain.as_str(),
        "policy_in_force": snapshot.policy.is_some(),
        "identity": snapshot.tls.as_ref().map(|tls| json!({
            "spiffe_id": tls.identity.id().as_str(),
            "not_before": rfc3339(tls.identity.not_before()),
            "not_after": rfc3339(tls.identity.not_after()),
            "chain_sha256": tls.identity.chain().iter().map(|der| fingerprint(der)).collect::<Vec<_>>(),
        })),
        "defaults": resources.defaults.as_ref().map(defaults),
        "trust_bundles": resources.bundles.values().map(|b| bundle(b)).collect::<Vec<_>>(),
        "peer_authentications": resources.peer_authentications.values().map(|p| peer_authentication(p)).collect::<Vec<_>>(),
        "request_authentications": resources.request_authentications.values().map(|r| request_authentication(r)).collect::<Vec<_>>(),
        "token_providers": snapshot.tokens.as_ref().map_or(vec![], |t| t.providers().iter().map(|p| provider(p)).collect()),
        "authorization_policies": resources.policies.values().map(|p| policy(p)).collect::<Vec<_>>(),
        "latency_budgets": snapshot.budgets.iter().map(|b| latency_budget(b)).collect::<Vec<_>>(),
        "destinations": match &resources.scope {
            Scope::Everything | Scope::EverythingBut(_) | Scope::LastKnown => json!("all"),
            Scope::Named(known) => known.iter().map(Lookup::to_string).collect(),
        },
        "services": resources.services.values().map(|s| service(s)).collect::<Vec<_>>(),
        "workloads": resources.workloads.values().map(|w| workload(w)).collect::<Vec<_>>(),
    })
}

fn defaults(message: &mesh::MeshDefaults) -> Value {
    json!({
        "trust_domain": message.trust_domain,
        "root_namespace": message.root_namespace,
        "default_decision": message.default_decision().as_str_name(),
    })
}

fn bundle(message: &mesh::TrustBundle) -> Value {
    json!({
        "trust_domain": message.trust_domain,
        "sequence": message.sequence,
        "authorities_sha256": message.x509_authorities.iter().map(|der| fingerprint(der)).collect::<Vec<_>>(),
        "workload_authorities_sha256": message.workload_authorities.iter().map(|der| fingerprint(der)).collect::<Vec<_>>(),
        "workload_namespaces": vouched_namespaces(message),
    })
}

fn peer_authentication(message: &mesh::PeerAuthentication) -> Value {
    let mode = |value: i32| mesh::MtlsMode::try_from(value).map_or("UNKNOWN", |m| m.as_str_name());
    let ports = message
        .port_modes
        .iter()
        .map(|(port, value)| (port.to_string(), json!(mode(*value))));
    json!({
        "name": format!("{}/{}", message.namespace, message.name),
        "selector": message.selector,
        "mode": mode(message.mode),
        "port_modes": ports.collect::<serde_json::Map<_, _>>(),
    })
}

fn request_authentication(message: &mesh::RequestAuthentication) -> Value {
    json!({
        "name": format!("{}/{}", message.namespace, message.name),
        "selector": message.selector,
        "issuers": message.rules.iter().map(|rule| rule.issuer.clone()).collect::<Vec<_>>(),
    })
}

/// Keys by number; those that are left out by reason.
fn provider(provider: &token::Provider) -> Value {
    let rule = provider.rule();
    json!({
        "name": &**provider.name(),
        "profile": rule.profile().as_str_name(),
        "audiences": rule.audiences,
        "keys": provider.keys().map(token::Keys::len),
        "keys_left_out": provider.keys().map_or(vec![], |keys| {
            keys.ignored().iter().map(|k| json!({"index": k.index, "kid": k.kid, "why": k.why})).collect()
        }),
        "introspection": provider.introspection().map(|i| i.endpoint.clone()),
    })
}

fn policy(message: &mesh::AuthorizationPolicy) -> Value {
    json!({
        "name": format!("{}/{}", message.namespace, message.name),
        "selector": message.selector,
        "action": message.action().as_str_name(),
        "dry_run": message.dry_run,
        "rules": message.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(message: &mesh::PolicyRule) -> Value {
    let source = |s: &mesh::PolicySource| {
        without_empty(json!({
            "principals": s.principals,
            "not_principals": s.not_principals,
            "namespaces": s.namespaces,
            "not_namespaces": s.not_namespaces,
            "ip_blocks": s.ip_blocks,
            "not_ip_blocks": s.not_ip_blocks,
            "service_accounts": s.service_accounts,
            "not_service_accounts": s.not_service_accounts,
        }))
    };
    let operation = |o: &mesh::PolicyOperation| {
        without_empty(json!({"ports": o.ports, "not_ports": o.not_ports}))
    };
    json!({
        "from": message.from.iter().map(source).collect::<Vec<_>>(),
        "to": message.to.iter().map(operation).collect::<Vec<_>>(),
    })
}

fn latency_budget(budget: &Budget) -> Value {
    json!({
        "name": budget.name,
        "direction": match budget.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        },
        "phase": budget.phase.as_str(),
        "issuer": budget.issuer,
        "target_millionths": budget.target_millionths,
        "threshold_nanos": budget.threshold_nanos,
        "window_seconds": budget.window_seconds,
    })
}

fn service(message: &mesh::Service) -> Value {
    let port = |p: &mesh::ServicePort| {
        json!({
            "port": p.port,
            "target_port": if p.target_port == 0 { p.port } else { p.target_port },
            "protocol": p.protocol().as_str_name(),
            "name": p.name,
        })
    };
    json!({
        "name": format!("{}/{}", message.namespace, message.name),
        "hosts": message.hosts,
        "addresses": addresses(&message.addresses),
        "ports": message.ports.iter().map(port).collect::<Vec<_>>(),
    })
}

fn workload(message: &mesh::Workload) -> Value {
    let membership = |m: &mesh::ServiceMembership| {
        let ports = m
            .ports
            .iter()
            .map(|p| (p.service_port.to_string(), json!(p.target_port)));
        json!({"service": m.service, "ports": ports.collect::<serde_json::Map<_, _>>()})
    };
    json!({
        "uid": message.uid,
        "service_account": message.service_account,
        "trust_domain": message.trust_domain,
        "addresses": addresses(&message.addresses),
        "mesh_port": message.mesh_port,
        "mesh_protocol": message.mesh_protocol().as_str_name(),
        "labels": message.labels,
        "services": message.services.iter().map(membership).collect::<Vec<_>>(),
    })
}

fn addresses(bytes: &[Vec<u8>]) -> Vec<String> {
    let parsed = bytes.iter().filter_map(|b| ip_address(b));
    parsed.map(|ip| ip.to_string()).collect()
}

/// Leaves out the lists that say nothing.
fn without_empty(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, v| v.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

fn fingerprint(der: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Resources;
    use mesh_auth::TrustDomain;
    use std::sync::Arc;

    #[test]
    fn a_dump_shows_what_is_held_in_words() {
        let domain = TrustDomain::new("demo.test").expect("domain");
        let mut resources = Resources {
            scope: Scope::Everything,
            ..Resources::default()
        };
        resources
            .workloads
            .insert("demo/orders-1".into(), Arc::new(crate::testing::workload()));
        let allow = mesh::AuthorizationPolicy {
            name: "allow".into(),
            namespace: "demo".into(),
            rules: vec![mesh::PolicyRule {
                from: vec![mesh::PolicySource {
                    namespaces: vec!["demo".into()],
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        resources
            .policies
            .insert("demo/allow".into(), Arc::new(allow));
        let held = Snapshot::empty("demo/web-1", domain)
            .build(&Arc::new(resources), None, &[])
            .expect("snapshot");
        let dump = snapshot(&held);
        assert_eq!(dump["workload"], "demo/web-1");
        assert_eq!(dump["policy_in_force"], false);
        assert_eq!(dump["destinations"], "all");
        assert_eq!(dump["workloads"][0]["addresses"][0], "10.0.0.1");
        assert_eq!(
            dump["workloads"][0]["mesh_protocol"],
            "MESH_PROTOCOL_POSTERN"
        );
        assert_eq!(
            dump["authorization_policies"][0]["rules"][0]["from"][0],
            json!({"namespaces": ["demo"]})
        );
        assert_eq!(dump["identity"], Value::Null);
    }
}
