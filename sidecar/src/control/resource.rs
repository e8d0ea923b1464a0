//! One resource of the control stream: decoded, checked on its own, and put into or taken out of the set held.
//!
//! What passes here compiles in a snapshot unless it contradicts another resource. Messages name the field.

use std::sync::Arc;

use bytes::Bytes;
use mesh_auth::TrustDomain;
use mesh_auth::bundle::{ANY_NAMESPACE, TrustBundle};
use mesh_auth::latency::Budget;
use mesh_auth::revocation::Entry;
use mesh_auth::{policy, token};
use mesh_proto::{ResourceType, TypedResource, mesh};
use rustls_pki_types::CertificateDer;

use crate::directory::Directory;
use crate::snapshot::Resources;

/// Longest DNS-1123 label.
const MAX_LABEL: usize = 63;
/// Longest host name.
const MAX_HOST: usize = 253;

/// A decoded resource that is right in itself.
#[derive(Debug, Clone)]
pub enum Item {
    /// Mesh-wide settings.
    Defaults(mesh::MeshDefaults),
    /// Roots of a trust domain.
    Bundle(Arc<mesh::TrustBundle>),
    /// Something no longer believed.
    Revocation(Arc<mesh::Revocation>),
    /// Keys of a token issuer.
    KeySet(Arc<mesh::KeySet>),
    /// Mutual TLS modes.
    PeerAuthentication(Arc<mesh::PeerAuthentication>),
    /// Which tokens are accepted.
    RequestAuthentication(Arc<mesh::RequestAuthentication>),
    /// Who may connect.
    Policy(Arc<mesh::AuthorizationPolicy>),
    /// What requests may take.
    LatencyBudget(Arc<mesh::LatencyBudget>),
    /// A destination.
    Service(Arc<mesh::Service>),
    /// An instance.
    Workload(Arc<mesh::Workload>),
}

impl Item {
    /// Decodes and checks the resource `name` of type `kind`.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong with it.
    pub fn parse(
        kind: ResourceType,
        name: &str,
        value: &Bytes,
        trust_domain: &TrustDomain,
    ) -> Result<Self, String> {
        match kind {
            ResourceType::MeshDefaults => {
                let message: mesh::MeshDefaults = decode(name, value)?;
                check_defaults(&message, trust_domain)?;
                Ok(Self::Defaults(message))
            }
            ResourceType::TrustBundle => {
                let message: mesh::TrustBundle = decode(name, value)?;
                check_bundle(&message)?;
                Ok(Self::Bundle(Arc::new(message)))
            }
            ResourceType::Revocation => {
                let message: mesh::Revocation = decode(name, value)?;
                Entry::parse(&message).map_err(|e| e.to_string())?;
                Ok(Self::Revocation(Arc::new(message)))
            }
            ResourceType::KeySet => {
                let message: mesh::KeySet = decode(name, value)?;
                token::validate_key_set(&message).map_err(|e| e.to_string())?;
                Ok(Self::KeySet(Arc::new(message)))
            }
            ResourceType::PeerAuthentication => {
                let message: mesh::PeerAuthentication = decode(name, value)?;
                policy::validate_peer_authentication(&message).map_err(|e| e.to_string())?;
                Ok(Self::PeerAuthentication(Arc::new(message)))
            }
            ResourceType::RequestAuthentication => {
                let message: mesh::RequestAuthentication = decode(name, value)?;
                token::validate(&message).map_err(|e| e.to_string())?;
                Ok(Self::RequestAuthentication(Arc::new(message)))
            }
            ResourceType::AuthorizationPolicy => {
                let message: mesh::AuthorizationPolicy = decode(name, value)?;
                policy::validate(&message).map_err(|e| e.to_string())?;
                Ok(Self::Policy(Arc::new(message)))
            }
            ResourceType::LatencyBudget => {
                let message: mesh::LatencyBudget = decode(name, value)?;
                Budget::parse(&message).map_err(|e| e.to_string())?;
                Ok(Self::LatencyBudget(Arc::new(message)))
            }
            ResourceType::Service => {
                let message: mesh::Service = decode(name, value)?;
                check_service(&message)?;
                Self::indexed(Self::Service(Arc::new(message)), trust_domain)
            }
            ResourceType::Workload => {
                let message: mesh::Workload = decode(name, value)?;
                check_workload(&message)?;
                Self::indexed(Self::Workload(Arc::new(message)), trust_domain)
            }
        }
    }

    /// The check that the directory makes of it.
    fn indexed(self, trust_domain: &TrustDomain) -> Result<Self, String> {
        let mut alone = Resources::default();
        self.clone().put(&mut alone);
        Directory::build(trust_domain, "", &alone, &Directory::default())
            .map_err(|e| e.to_string())?;
        Ok(self)
    }

    /// Every name that a service or workload can be subscribed to by, its own among them; of others none.
    pub fn aliases(&self) -> Vec<String> {
        let (mut aliases, name) = match self {
            Self::Service(m) => (m.aliases(), m.resource_name()),
            Self::Workload(m) => (m.aliases(), m.resource_name()),
            _ => return Vec::new(),
        };
        aliases.push(name);
        aliases
    }

    /// Adds or replaces it.
    pub fn put(self, resources: &mut Resources) {
        match self {
            Self::Defaults(m) => resources.defaults = Some(m),
            Self::Bundle(m) => drop(resources.bundles.insert(m.resource_name(), m)),
            Self::Revocation(m) => drop(resources.revocations.insert(m.resource_name(), m)),
            Self::KeySet(m) => drop(resources.key_sets.insert(m.resource_name(), m)),
            Self::PeerAuthentication(m) => {
                drop(resources.peer_authentications.insert(m.resource_name(), m));
            }
            Self::RequestAuthentication(m) => {
                drop(
                    resources
                        .request_authentications
                        .insert(m.resource_name(), m),
                );
            }
            Self::Policy(m) => drop(resources.policies.insert(m.resource_name(), m)),
            Self::LatencyBudget(m) => drop(resources.latency_budgets.insert(m.resource_name(), m)),
            Self::Service(m) => drop(resources.services.insert(m.resource_name(), m)),
            Self::Workload(m) => drop(resources.workloads.insert(m.resource_name(), m)),
        }
    }
}

/// Takes the resource `name` out; nothing happens when it is not there.
pub fn take(resources: &mut Resources, kind: ResourceType, name: &str) {
    match kind {
        ResourceType::MeshDefaults => resources.defaults = None,
        ResourceType::TrustBundle => drop(resources.bundles.remove(name)),
        ResourceType::Revocation => drop(resources.revocations.remove(name)),
        ResourceType::KeySet => drop(resources.key_sets.remove(name)),
        ResourceType::PeerAuthentication => drop(resources.peer_authentications.remove(name)),
        ResourceType::RequestAuthentication => {
            drop(resources.request_authentications.remove(name));
        }
        ResourceType::AuthorizationPolicy => drop(resources.policies.remove(name)),
        ResourceType::LatencyBudget => drop(resources.latency_budgets.remove(name)),
        ResourceType::Service => drop(resources.services.remove(name)),
        ResourceType::Workload => drop(resources.workloads.remove(name)),
    }
}

fn decode<M: TypedResource>(name: &str, value: &Bytes) -> Result<M, String> {
    let message =
        M::decode(value.clone()).map_err(|e| format!("not a {} message: {e}", M::TYPE.kind()))?;
    let own = message.resource_name();
    if own == name {
        Ok(message)
    } else {
        Err(format!(
            "its name on the stream is '{name}', its content says '{own}'"
        ))
    }
}

fn check_defaults(message: &mesh::MeshDefaults, trust_domain: &TrustDomain) -> Result<(), String> {
    if !message.trust_domain.is_empty() && message.trust_domain != trust_domain.as_str() {
        return Err(format!(
            "trust_domain: '{}' is not this sidecar's, '{trust_domain}'",
            message.trust_domain
        ));
    }
    if !message.root_namespace.is_empty() {
        label("root_namespace", &message.root_namespace)?;
    }
    mesh::DefaultDecision::try_from(message.default_decision)
        .map(drop)
        .map_err(|e| format!("default_decision: {e}"))
}

fn check_bundle(message: &mesh::TrustBundle) -> Result<(), String> {
    let domain =
        TrustDomain::new(&message.trust_domain).map_err(|e| format!("trust_domain: {e}"))?;
    for (field, roots) in [
        ("x509_authorities", &message.x509_authorities),
        ("workload_authorities", &message.workload_authorities),
    ] {
        let roots = roots.iter().map(|der| CertificateDer::from(der.clone()));
        TrustBundle::new(domain.clone(), roots.collect(), message.sequence)
            .map_err(|e| format!("{field}: {e}"))?;
    }
    for (i, namespace) in message.workload_namespaces.iter().enumerate() {
        // As it was written before there was a field for it.
        if namespace == ANY_NAMESPACE {
            continue;
        }
        label(&format!("workload_namespaces[{i}]"), namespace)?;
    }
    Ok(())
}

/// Which keys can be used is judged where they are prepared: one bad key must not cost the others.
fn check_service(message: &mesh::Service) -> Result<(), String> {
    label("name", &message.name)?;
    label("namespace", &message.namespace)?;
    if message.ports.is_empty() {
        return Err("ports: at least one is needed".into());
    }
    for (i, host) in message.hosts.iter().enumerate() {
        host_name(&format!("hosts[{i}]"), host)?;
    }
    for (i, declared) in message.ports.iter().enumerate() {
        port(&format!("ports[{i}].port"), declared.port)?;
        if declared.target_port != 0 {
            port(&format!("ports[{i}].target_port"), declared.target_port)?;
        }
        if message.ports[..i].iter().any(|p| p.port == declared.port) {
            return Err(format!(
                "ports[{i}].port: {} is declared twice",
                declared.port
            ));
        }
    }
    Ok(())
}

fn check_workload(message: &mesh::Workload) -> Result<(), String> {
    label("name", &message.name)?;
    label("namespace", &message.namespace)?;
    if message.uid != format!("{}/{}", message.namespace, message.name) {
        return Err(format!(
            "uid: '{}' is not '{}/{}'",
            message.uid, message.namespace, message.name
        ));
    }
    if message.service_account.is_empty() {
        return Err("service_account: empty".into());
    }
    for (i, membership) in message.services.iter().enumerate() {
        for (j, mapping) in membership.ports.iter().enumerate() {
            let field = format!("services[{i}].ports[{j}]");
            port(&format!("{field}.service_port"), mapping.service_port)?;
            port(&format!("{field}.target_port"), mapping.target_port)?;
        }
    }
    Ok(())
}

fn port(field: &str, value: u32) -> Result<(), String> {
    match u16::try_from(value) {
        Ok(1..) => Ok(()),
        _ => Err(format!("{field}: {value} is not a port (1..65535)")),
    }
}

fn label(field: &str, value: &str) -> Result<(), String> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let well_formed = !value.is_empty()
        && value.len() <= MAX_LABEL
        && value.bytes().all(inside)
        && !value.starts_with('-')
        && !value.ends_with('-');
    if well_formed {
        Ok(())
    } else {
        Err(format!(
            "{field}: '{}' is not a DNS label (lower-case letters, digits, '-', at most {MAX_LABEL})",
            value.escape_debug()
        ))
    }
}

fn host_name(field: &str, value: &str) -> Result<(), String> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let well_formed = !value.is_empty()
        && value.len() <= MAX_HOST
        && value.bytes().all(inside)
        && !value.split('.').any(str::is_empty);
    if well_formed {
        Ok(())
    } else {
        Err(format!(
            "{field}: '{}' is not a lower-case host name without port",
            value.escape_debug()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{service, workload};

    fn domain() -> TrustDomain {
        TrustDomain::new("demo.test").expect("domain")
    }

    fn parse<M: TypedResource>(name: &str, message: &M) -> Result<Item, String> {
        Item::parse(M::TYPE, name, &message.to_any().value, &domain())
    }

    #[test]
    fn good_ones_pass() {
        parse("demo/orders-1", &workload()).expect("workload");
        parse("demo/orders", &service()).expect("service");
        parse("default", &mesh::MeshDefaults::default()).expect("defaults");
    }

    #[test]
    fn a_bad_workload_is_refused_with_its_field() {
        type Change = fn(&mut mesh::Workload);
        let cases: &[(Change, &str)] = &[
            (|w| w.addresses = vec![vec![1, 2, 3]], "addresses[0]"),
            (|w| w.mesh_port = 70_000, "mesh_port"),
            (|w| w.mesh_protocol = 99, "mesh_protocol"),
            (|w| w.service_account = String::new(), "service_account"),
            (|w| w.service_account = "../admin".into(), "service_account"),
            (|w| w.trust_domain = "Upper.Case".into(), "trust_domain"),
            (|w| w.namespace = "other".into(), "uid"),
            (
                |w| {
                    w.services = vec![mesh::ServiceMembership {
                        service: "demo/orders".into(),
                        ports: vec![mesh::PortMapping {
                            service_port: 80,
                            target_port: 0,
                        }],
                    }];
                },
                "services[0].ports[0].target_port",
            ),
        ];
        for (change, field) in cases {
            let mut message = workload();
            change(&mut message);
            let error = parse("demo/orders-1", &message).expect_err(field);
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn a_bad_service_is_refused_with_its_field() {
        type Change = fn(&mut mesh::Service);
        let cases: &[(Change, &str)] = &[
            (|s| s.ports.clear(), "ports"),
            (|s| s.ports[0].port = 0, "ports[0].port"),
            (|s| s.ports[0].port = 65_536, "ports[0].port"),
            (|s| s.ports[0].protocol = 7, "ports[0].protocol"),
            (|s| s.ports.push(s.ports[0].clone()), "ports[1].port"),
            (|s| s.hosts = vec!["Orders".into()], "hosts[0]"),
            (|s| s.hosts = vec!["orders:80".into()], "hosts[0]"),
            (|s| s.hosts = vec!["a..b".into()], "hosts[0]"),
            (|s| s.addresses = vec![vec![]], "addresses[0]"),
            (|s| s.name = "orders\n".into(), "name"),
        ];
        for (change, field) in cases {
            let mut message = service();
            change(&mut message);
            let name = message.resource_name();
            let error = parse(&name, &message).expect_err(field);
            assert!(error.contains(field), "{field}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn a_resource_under_another_name_and_bytes_that_are_no_message_are_refused() {
        let error = parse("demo/payments-1", &workload()).expect_err("name");
        assert!(error.contains("demo/payments-1") && error.contains("demo/orders-1"));
        let garbage = Bytes::from_static(&[0xff, 0xff, 0xff]);
        for kind in ResourceType::ALL {
            let error = Item::parse(kind, "x", &garbage, &domain()).expect_err("garbage");
            assert!(error.contains(kind.kind()), "{error}");
        }
    }

    #[test]
    fn defaults_of_another_trust_domain_are_refused() {
        let message = mesh::MeshDefaults {
            trust_domain: "evil.test".into(),
            ..Default::default()
        };
        assert!(
            parse("default", &message)
                .expect_err("foreign")
                .contains("evil.test")
        );
    }

    #[test]
    fn put_and_take_are_inverse() {
        let mut resources = Resources::default();
        parse("demo/orders-1", &workload())
            .expect("workload")
            .put(&mut resources);
        parse("demo/orders", &service())
            .expect("service")
            .put(&mut resources);
        parse("default", &mesh::MeshDefaults::default())
            .expect("defaults")
            .put(&mut resources);
        assert!(
            resources.workloads.len() == 1
                && resources.services.len() == 1
                && resources.defaults.is_some()
        );
        take(&mut resources, ResourceType::Workload, "demo/orders-1");
        take(&mut resources, ResourceType::Service, "demo/orders");
        take(&mut resources, ResourceType::Service, "demo/none");
        take(&mut resources, ResourceType::MeshDefaults, "default");
        assert!(
            resources.workloads.is_empty()
                && resources.services.is_empty()
                && resources.defaults.is_none()
        );
    }
}
