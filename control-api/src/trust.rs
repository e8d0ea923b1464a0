//! What the mesh is to trust: puts the trust bundle together and has the registry publish it.
//!
//! Publishing is idempotent: whoever changes a part of the bundle calls [`Trust::publish`], and a change whose publishing
//! failed, or was cut off by a crash, is published by the next call or the next start.

use std::sync::Arc;

use mesh_auth::bundle;
use mesh_proto::mesh;
use rustls_pki_types::CertificateDer;

use crate::ca::Authorities;
use crate::federation::Foreign;
use crate::jwt::JwtKeys;
use crate::registry::Registry;
use crate::store::StoreError;

/// Author of what is published without an operator's command.
const SELF: &str = "control-api";

fn ders(roots: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    roots.iter().map(|root| root.to_vec()).collect()
}

/// The parts of the bundles.
#[derive(Clone)]
pub struct Trust {
    /// Roots of certificates.
    pub authorities: Arc<Authorities>,
    /// Keys of JWT-SVIDs.
    pub jwt: Arc<JwtKeys>,
    /// Bundles of other trust domains.
    pub foreign: Arc<Foreign>,
}

impl Trust {
    /// Every bundle as it should be published now.
    pub fn bundles(&self) -> Vec<mesh::TrustBundle> {
        let state = self.authorities.state();
        let mut own = mesh::TrustBundle {
            trust_domain: self.authorities.trust_domain().to_string(),
            x509_authorities: ders(&state.roots()),
            workload_authorities: ders(self.authorities.others()),
            jwt_authorities: self.jwt.authorities(),
            renew_certificates_before: state.renew_before(),
            renew_spread_seconds: state.record().spread,
            ..mesh::TrustBundle::default()
        };
        bundle::set_vouched_namespaces(&mut own, self.authorities.others_namespaces());
        let mut bundles = vec![own];
        bundles.extend(self.foreign.bundles());
        bundles
    }

    /// Has them published, if they are not. Returns the revision.
    ///
    /// # Errors
    /// The store failed.
    pub fn publish(&self, registry: &Registry, now: i64) -> Result<u64, StoreError> {
        registry.set_bundles(self.bundles(), SELF, now)
    }
}
