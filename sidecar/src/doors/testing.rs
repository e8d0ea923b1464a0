//! Material that the tests of the doors hand out.

use std::sync::Arc;

use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::{Secret, SpiffeId, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use super::material::{AppSvid, Material, jwt_verifier};

/// The workload.
pub(super) const ID: &str = "spiffe://demo.test/ns/demo/sa/web";

/// A root of a trust domain.
pub(super) fn root() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key).expect("root").der().clone();
    (root, Issuer::new(params, key))
}

/// The application's SVID, number 7, from 1000 on.
pub(super) fn svid() -> AppSvid {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().expect("ASCII"))];
    let leaf = params.signed_by(&key, &root().1).expect("leaf");
    AppSvid {
        id: SpiffeId::parse(ID).expect("an ID"),
        chain: vec![leaf.der().clone()],
        key: Secret::new(key.serialize_der()),
        serial: vec![7],
        not_before: 1_000,
        not_after: i64::MAX,
    }
}

fn with(svid: AppSvid, version: u64) -> Material {
    static BUNDLES: std::sync::LazyLock<Arc<TrustBundles>> = std::sync::LazyLock::new(|| {
        let mut bundles = TrustBundles::default();
        for name in ["demo.test", "other.test"] {
            let domain = TrustDomain::new(name).expect("a domain");
            let bundle = TrustBundle::new(domain, vec![root().0], 1).expect("a bundle");
            bundles.insert(bundle).expect("new");
        }
        Arc::new(bundles)
    });
    let jwt_bundles = [("demo.test".to_owned(), r#"{"keys":[]}"#.to_owned())].into();
    Material {
        version,
        trust_domain: TrustDomain::new("demo.test").expect("a domain"),
        svid: Some(Arc::new(svid)),
        bundles: Arc::clone(&BUNDLES),
        jwt_verifier: jwt_verifier(&jwt_bundles),
        jwt_bundles,
        issued_before: true,
    }
}

/// An SVID, and two trust domains.
pub(super) fn material() -> Material {
    with(svid(), 1)
}

/// The same with another SVID.
pub(super) fn rotated() -> Material {
    with(svid(), 2)
}
