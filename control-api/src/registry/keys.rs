//! Which key sets the documents name, and which workloads may have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_auth::token::key_set_name;
use mesh_manifest::{Resource, Scope};
use mesh_proto::mesh;

/// How long a fetch may take where no rule says.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Key sets that were fetched, by resource name.
pub type KeySets = BTreeMap<String, Arc<mesh::KeySet>>;

/// Where an issuer's keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource {
    /// The issuer, as tokens spell it.
    pub issuer: String,
    /// Where its keys are; empty: found by discovery.
    pub jwks_uri: String,
    /// How long one fetch may take.
    pub timeout: Duration,
}

/// The sources that documents name, by the name of their key set, and whose workloads need them.
pub(super) fn sources<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    root_namespace: &str,
) -> BTreeMap<String, (KeySource, Vec<Scope>)> {
    let mut sources: BTreeMap<String, (KeySource, Vec<Scope>)> = BTreeMap::new();
    for resource in resources {
        let (Resource::RequestAuthentication(document), Some(scope)) =
            (resource, Scope::of(resource, root_namespace))
        else {
            continue;
        };
        for rule in &document.rules {
            // The keys of JWT-SVIDs come with the trust bundle of their trust domain.
            let is_fetched =
                rule.profile() != mesh::TokenProfile::JwtSvid || !rule.jwks_uri.is_empty();
            let Some(name) = key_set_name(rule).filter(|_| is_fetched) else {
                continue;
            };
            let source = KeySource {
                issuer: rule.issuer.clone(),
                jwks_uri: rule.jwks_uri.clone(),
                timeout: match rule.timeout_ms {
                    0 => DEFAULT_TIMEOUT,
                    millis => Duration::from_millis(millis.into()),
                },
            };
            let (held, selected) = sources.entry(name).or_insert((source.clone(), vec![]));
            held.timeout = held.timeout.max(source.timeout);
            if !selected.contains(&scope) {
                selected.push(scope.clone());
            }
        }
    }
    sources
}
