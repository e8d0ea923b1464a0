//! The names of the mesh's own trust domain.

use mesh_proto::mesh;

/// Istio's name for "the trust domain of this mesh, whatever it is called".
const LOCAL: &str = "cluster.local";

/// The mesh's trust domain and its earlier names. The default knows of none: patterns stay as they are.
#[derive(Debug, Default)]
pub(super) struct Trust {
    names: Vec<String>,
}

impl Trust {
    pub(super) fn of(defaults: &mesh::MeshDefaults) -> Self {
        let own = Some(&defaults.trust_domain).filter(|own| !own.is_empty());
        let names = own.into_iter().chain(&defaults.trust_domain_aliases);
        Self {
            names: names.cloned().collect(),
        }
    }

    /// Patterns of principals: those in one of the own names hold in all of them. A pattern with a wildcard in the trust
    /// domain is left alone.
    pub(super) fn expand(&self, patterns: &[String]) -> Vec<String> {
        let mut expanded = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            expanded.push(pattern.clone());
            let Some((domain, path)) = pattern.split_once('/') else {
                continue;
            };
            if domain != LOCAL && !self.names.iter().any(|name| name == domain) {
                continue;
            }
            for name in self.names.iter().filter(|name| *name != domain) {
                expanded.push(format!("{name}/{path}"));
            }
        }
        expanded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_hold_in_every_name_of_the_own_trust_domain() {
        let trust = Trust::of(&mesh::MeshDefaults {
            trust_domain: "new".into(),
            trust_domain_aliases: vec!["old".into()],
            ..Default::default()
        });
        let expand = |pattern: &str| trust.expand(&[pattern.to_owned()]);
        assert_eq!(expand("new/ns/a/sa/b"), ["new/ns/a/sa/b", "old/ns/a/sa/b"]);
        assert_eq!(expand("old/ns/a*"), ["old/ns/a*", "new/ns/a*"]);
        assert_eq!(
            expand("cluster.local/x"),
            ["cluster.local/x", "new/x", "old/x"]
        );
        assert_eq!(expand("foreign/x"), ["foreign/x"]);
        assert_eq!(expand("*/sa/b"), ["*/sa/b"]);
        assert_eq!(expand("*"), ["*"]);
        assert_eq!(Trust::default().expand(&["a/b".into()]), ["a/b"]);
    }
}
