//! Other trust domains: their bundles are fetched, kept, and pushed to sidecars, each for its own trust domain only.
//!
//! [`document`] reads and writes the SPIFFE bundle format; [`keeper`] asks the sources that `Federation` documents name and
//! keeps the last good answer over outages and restarts.

/// Where the own bundle is served, for other trust domains.
pub const BUNDLE_PATH: &str = "/bundle";
/// How often they are told to look, seconds.
pub const REFRESH_HINT: u32 = 300;

pub mod document;
pub mod keeper;

pub use keeper::{Foreign, Keeper, State};

use mesh_auth::TrustDomain;
use mesh_manifest::{Document, Resource};

use crate::registry::World;

/// Refuses documents that give one trust domain two bundles, or the own one another.
///
/// # Errors
/// Which document, and why.
pub fn check(documents: &[Document], world: &World, own: &TrustDomain) -> Result<(), String> {
    let federation = |document: &Document| match &document.resource {
        Resource::Federation(federation) => Some(federation.trust_domain.clone()),
        _ => None,
    };
    let given: Vec<_> = documents
        .iter()
        .filter_map(|document| Some((document, federation(document)?)))
        .collect();
    if given.is_empty() {
        return Ok(());
    }
    let replaced = |stored: &Document| given.iter().any(|(d, _)| d.key() == stored.key());
    let mut held: Vec<_> = world
        .documents
        .values()
        .filter_map(|s| Some((federation(&s.document)?, &s.document)))
        .filter(|(_, stored)| !replaced(stored))
        .map(|(domain, stored)| (domain, stored.name.clone()))
        .collect();
    for (document, domain) in given {
        let refuse = |why: String| {
            Err(format!(
                "Federation {}/{}: spec.trustDomain: {why}",
                document.namespace, document.name
            ))
        };
        if domain == *own {
            return refuse(format!("'{domain}' is this mesh's own trust domain"));
        }
        if let Some((_, other)) = held.iter().find(|(held, _)| *held == domain) {
            return refuse(format!("'{domain}' has a bundle already, by '{other}'"));
        }
        held.push((domain, document.name.clone()));
    }
    Ok(())
}
