//! Which key sets the documents name, and which workloads may have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_manifest::Resource;
use mesh_proto::mesh;

use super::world::Selects;

/// Key sets that were fetched, by resource name.
pub type KeySets = BTreeMap<String, Arc<mesh::KeySet>>;

/// Where an issuer's keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeySource {
    /// The issuer, as tokens spell it.
    pub issuer: String,
    /// Where its keys are; empty: found by discovery.
    pub jwks_uri: String,
}

impl KeySource {
    /// Name of the key set on the stream.
    pub fn name(&self) -> String {
        // One fetch serves every issuer that names the same address.
        match self.jwks_uri.as_str() {
            "" => format!("issuer/{}", self.issuer),
            uri => format!("uri/{uri}"),
        }
    }
}

/// The sources that documents name, and whose workloads need them.
pub(super) fn sources<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    root_namespace: &str,
) -> BTreeMap<KeySource, Vec<Selects>> {
    let mut sources: BTreeMap<KeySource, Vec<Selects>> = BTreeMap::new();
    for resource in resources {
        for (source, selects) in named_by(resource, root_namespace) {
            let held = sources.entry(source).or_default();
            if !held.contains(&selects) {
                held.push(selects);
            }
        }
    }
    sources
}

fn named_by(_resource: &Resource, _root_namespace: &str) -> Vec<(KeySource, Selects)> {
    Vec::new()
}
