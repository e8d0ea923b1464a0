//! What the doors hand out, complete at every moment: the application's SVID and the bundles in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_auth::bundle::TrustBundles;
use mesh_auth::token::JwtSvidVerifier;
use mesh_auth::{Secret, SpiffeId, TrustDomain};
use mesh_proto::mesh;
use rustls_pki_types::CertificateDer;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use super::status::no_identity;
use crate::snapshot::{Resources, SharedSnapshot};

/// How long a call waits for the first certificate of all: an application often starts at the same moment.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(5);

/// The application's X.509-SVID with its key.
pub struct AppSvid {
    /// The identity.
    pub id: SpiffeId,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub key: Secret<Vec<u8>>,
    /// Serial number, as encoded.
    pub serial: Vec<u8>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

/// Everything there is to hand out.
pub struct Material {
    /// Increases with every change; unique in this process.
    pub version: u64,
    /// The workload's own trust domain.
    pub trust_domain: TrustDomain,
    /// `None`: there is no identity to hand out, and nobody who asks is entitled to anything.
    pub svid: Option<Arc<AppSvid>>,
    /// Roots by trust domain.
    pub bundles: Arc<TrustBundles>,
    /// JWK sets by trust domain.
    pub jwt_bundles: BTreeMap<String, String>,
    /// Verifies with these.
    pub jwt_verifier: JwtSvidVerifier,
    /// There was an SVID before.
    pub issued_before: bool,
}

impl Material {
    /// Nothing yet.
    pub fn none(trust_domain: TrustDomain) -> Self {
        Self {
            version: 0,
            trust_domain,
            svid: None,
            bundles: Arc::default(),
            jwt_bundles: BTreeMap::new(),
            jwt_verifier: JwtSvidVerifier::default(),
            issued_before: false,
        }
    }
}

/// Puts material together whenever the SVID or the bundles in force change, for ever.
pub async fn assemble(
    material: watch::Sender<Arc<Material>>,
    mut svids: watch::Receiver<Option<Arc<AppSvid>>>,
    mut epochs: watch::Receiver<u64>,
    shared: SharedSnapshot,
) {
    loop {
        epochs.borrow_and_update();
        let svid = svids.borrow_and_update().clone();
        let snapshot = shared.load_full();
        let bundles = Arc::clone(snapshot.bundles());
        material.send_if_modified(|held| {
            let same_svid = match (&held.svid, &svid) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            if same_svid && Arc::ptr_eq(&held.bundles, &bundles) {
                return false;
            }
            let jwt_bundles = jwt_bundles(&snapshot.resources);
            *held = Arc::new(Material {
                version: held.version + 1,
                trust_domain: held.trust_domain.clone(),
                issued_before: held.issued_before || svid.is_some(),
                svid,
                bundles,
                jwt_verifier: jwt_verifier(&jwt_bundles),
                jwt_bundles,
            });
            true
        });
        let changed = tokio::select! {
            changed = svids.changed() => changed,
            changed = epochs.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The JWK sets of every trust domain that has one. A domain without keys has an empty set: nothing of it is trusted.
fn jwt_bundles(resources: &Resources) -> BTreeMap<String, String> {
    let set = |bundle: &mesh::TrustBundle| {
        if bundle.jwt_authorities.is_empty() {
            r#"{"keys":[]}"#.to_owned()
        } else {
            bundle.jwt_authorities.clone()
        }
    };
    let bundles = resources.bundles.iter();
    bundles
        .map(|(name, bundle)| (name.clone(), set(bundle)))
        .collect()
}

/// A verifier with the keys of these sets.
pub(super) fn jwt_verifier(bundles: &BTreeMap<String, String>) -> JwtSvidVerifier {
    let sets = bundles.iter();
    JwtSvidVerifier::new(sets.map(|(domain, set)| (domain.as_str(), set.as_str())))
}

/// What a caller is entitled to now. Only before the first certificate of all is one waited for.
///
/// # Errors
/// PERMISSION_DENIED: there is no identity to hand out.
pub async fn entitled(
    material: &mut watch::Receiver<Arc<Material>>,
) -> Result<Arc<Material>, Status> {
    let wait = material.wait_for(|m| m.svid.is_some() || m.issued_before);
    if let Ok(Ok(held)) = tokio::time::timeout(FIRST_CERTIFICATE, wait).await
        && held.svid.is_some()
    {
        return Ok(Arc::clone(&held));
    }
    Err(no_identity())
}
