//! Mutual TLS modes by port (Istio's `PeerAuthentication`).

use std::collections::BTreeMap;

use mesh_proto::mesh;

use super::PolicyError;

/// How strictly a port demands mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtlsMode {
    /// Mutual TLS only.
    Strict,
    /// Mutual TLS and plaintext.
    Permissive,
    /// Plaintext expected.
    Disable,
}

impl MtlsMode {
    /// `None` inherits. A mode that we do not know is STRICT: it was meant to say something, and only STRICT is safe.
    fn from_wire(mode: i32) -> Option<Self> {
        match mesh::MtlsMode::try_from(mode) {
            Ok(mesh::MtlsMode::Unset) => None,
            Ok(mesh::MtlsMode::Permissive) => Some(Self::Permissive),
            Ok(mesh::MtlsMode::Disable) => Some(Self::Disable),
            Ok(mesh::MtlsMode::Strict) | Err(_) => Some(Self::Strict),
        }
    }
}

/// The modes of one workload's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortModes {
    default: MtlsMode,
    ports: BTreeMap<u16, MtlsMode>,
}

impl PortModes {
    /// Resolves the policies that can select a workload: workload before namespace before mesh, then STRICT. Of several
    /// in one scope the first by name counts.
    pub fn resolve(
        policies: &[mesh::PeerAuthentication],
        own_namespace: &str,
        root_namespace: &str,
    ) -> Self {
        let mut policies: Vec<_> = policies.iter().collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        let scope = |namespace: &str, selects: bool| {
            policies
                .iter()
                .copied()
                .find(|p| p.namespace == namespace && p.selector.is_empty() != selects)
        };
        let mode_of = |policy: Option<&mesh::PeerAuthentication>| {
            policy.and_then(|p| MtlsMode::from_wire(p.mode))
        };
        let workload = scope(own_namespace, true);
        let namespace = (own_namespace != root_namespace)
            .then(|| scope(own_namespace, false))
            .flatten();
        let root = scope(root_namespace, false);
        let default = mode_of(workload)
            .or(mode_of(namespace))
            .or(mode_of(root))
            .unwrap_or(MtlsMode::Strict);
        let mut ports = BTreeMap::new();
        if let Some(workload) = workload {
            for (port, mode) in &workload.port_modes {
                if let (Ok(port), Some(mode)) = (u16::try_from(*port), MtlsMode::from_wire(*mode)) {
                    ports.insert(port, mode);
                }
            }
        }
        Self { default, ports }
    }

    /// The mode of an application port.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}

/// Checks a policy.
///
/// # Errors
/// The first field that is wrong.
pub fn validate_peer_authentication(policy: &mesh::PeerAuthentication) -> Result<(), PolicyError> {
    let fail = |field: String, problem: String| PolicyError {
        policy: format!("{}/{}", policy.namespace, policy.name),
        field,
        problem,
    };
    if policy.namespace.is_empty() || policy.name.is_empty() {
        return Err(fail(
            "metadata.name".into(),
            "name and namespace must not be empty".into(),
        ));
    }
    if mesh::MtlsMode::try_from(policy.mode).is_err() {
        return Err(fail(
            "spec.mtls.mode".into(),
            format!("unknown mode {}", policy.mode),
        ));
    }
    if !policy.port_modes.is_empty() && policy.selector.is_empty() {
        return Err(fail(
            "spec.portLevelMtls".into(),
            "needs a selector: ports are those of a workload".into(),
        ));
    }
    for (port, mode) in &policy.port_modes {
        let field = format!("spec.portLevelMtls.{port}");
        if *port == 0 || u16::try_from(*port).is_err() {
            return Err(fail(field, "is not a port".into()));
        }
        if mesh::MtlsMode::try_from(*mode).is_err() {
            return Err(fail(field, format!("unknown mode {mode}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_resolve_from_the_most_specific_scope() {
        let make = |name: &str,
                    namespace: &str,
                    selects: bool,
                    mode: mesh::MtlsMode,
                    ports: &[(u32, mesh::MtlsMode)]| {
            mesh::PeerAuthentication {
                name: name.into(),
                namespace: namespace.into(),
                selector: if selects {
                    [("app".to_owned(), "x".to_owned())].into()
                } else {
                    [].into()
                },
                mode: mode.into(),
                port_modes: ports.iter().map(|(p, m)| (*p, (*m).into())).collect(),
            }
        };
        use mesh::MtlsMode::{Disable, Permissive, Strict, Unset};
        let resolve =
            |policies: &[mesh::PeerAuthentication]| PortModes::resolve(policies, "shop", "root");
        assert_eq!(resolve(&[]).mode(80), MtlsMode::Strict);
        let root = make("r", "root", false, Permissive, &[]);
        let namespace = make("n", "shop", false, Strict, &[]);
        let workload = make("w", "shop", true, Unset, &[(80, Disable), (81, Unset)]);
        assert_eq!(
            resolve(std::slice::from_ref(&root)).mode(80),
            MtlsMode::Permissive
        );
        assert_eq!(
            resolve(&[root.clone(), namespace.clone()]).mode(80),
            MtlsMode::Strict
        );
        let all = resolve(&[root, namespace, workload]);
        assert_eq!(
            (all.mode(80), all.mode(81), all.mode(82)),
            (MtlsMode::Disable, MtlsMode::Strict, MtlsMode::Strict)
        );
        assert!(
            validate_peer_authentication(&make("w", "shop", false, Strict, &[(80, Strict)]))
                .is_err()
        );
    }
}
