//! Whom a snapshot has believe: roots by trust domain, from the control API and from an outside Workload API.

use std::collections::BTreeMap;

use mesh_auth::TrustDomain;
use mesh_auth::bundle::{BundleError, TrustBundle, TrustBundles, vouched_namespaces};
use rustls_pki_types::CertificateDer;

use super::{Resources, SnapshotError};

/// Roots by name of their trust domain.
pub type RootsByDomain = BTreeMap<String, Vec<CertificateDer<'static>>>;

/// Roots that peers are verified by. `outside` are those that an outside Workload API brought, `fallback_roots` those of the own
/// domain until the control stream brings its bundle.
pub(super) fn bundles(
    own: &TrustDomain,
    own_namespace: &str,
    resources: &Resources,
    fallback_roots: &[CertificateDer<'static>],
    outside: &RootsByDomain,
) -> Result<TrustBundles, SnapshotError> {
    let mut bundles = TrustBundles::default();
    let fail = |name: &str, error: &dyn std::fmt::Display| SnapshotError::Bundle {
        name: name.to_owned(),
        reason: error.to_string(),
    };
    // Whoever else signs in the own domain does so for these namespaces only, by whatever way its roots come; where the control
    // API names none, roots from outside are good for the neighbours of this workload.
    let named = resources.bundles.get(own.as_str());
    let named = named.map(|bundle| vouched_namespaces(bundle));
    let named = named.as_deref().unwrap_or_default();
    let neighbours = [own_namespace.to_owned()];
    let bounds = if named.is_empty() { &neighbours } else { named };
    let mut insert = |name: &str, bundle: Result<TrustBundle, BundleError>| {
        let mut bundle = bundle.map_err(|e| fail(name, &e))?;
        if bundle.trust_domain() == own
            && let Some(more) = outside.get(own.as_str())
        {
            bundle = bundle
                .with_workload_roots(more.clone(), bounds)
                .map_err(|e| fail(name, &e))?;
        }
        bundles.insert(bundle).map_err(|e| fail(name, &e))
    };
    let is_new = |name: &str| !resources.bundles.contains_key(name);
    let own_outside = outside.contains_key(own.as_str());
    if is_new(own.as_str()) && (!fallback_roots.is_empty() || own_outside) {
        let roots = fallback_roots.to_vec();
        insert(own.as_str(), TrustBundle::new(own.clone(), roots, 0))?;
    }
    for (name, roots) in outside.iter().filter(|(name, _)| is_new(name)) {
        if name.as_str() != own.as_str() {
            let domain = TrustDomain::new(name).map_err(|e| SnapshotError::Bundle {
                name: name.clone(),
                reason: e.to_string(),
            })?;
            insert(name, TrustBundle::new(domain, roots.clone(), 0))?;
        }
    }
    for (name, bundle) in &resources.bundles {
        let domain = TrustDomain::new(&bundle.trust_domain).map_err(|e| SnapshotError::Bundle {
            name: name.clone(),
            reason: e.to_string(),
        })?;
        let roots = certificates(&bundle.x509_authorities);
        let others = certificates(&bundle.workload_authorities);
        let made = TrustBundle::new(domain, roots, bundle.sequence)
            .and_then(|made| made.with_workload_roots(others, &vouched_namespaces(bundle)));
        insert(name, made)?;
    }
    Ok(bundles)
}

fn certificates(ders: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    ders.iter().cloned().map(CertificateDer::from).collect()
}

/// The roots that the control API is verified by. Whoever signs for workloads only (`workload_authorities`, a Workload API)
/// cannot speak for it.
///
/// # Errors
/// A root cannot be used as one.
pub fn control_roots(
    own: &TrustDomain,
    resources: &Resources,
    fallback_roots: &[CertificateDer<'static>],
) -> Result<TrustBundles, SnapshotError> {
    let (roots, sequence) = match resources.bundles.get(own.as_str()) {
        Some(bundle) => (certificates(&bundle.x509_authorities), bundle.sequence),
        None => (fallback_roots.to_vec(), 0),
    };
    let mut bundles = TrustBundles::default();
    TrustBundle::new(own.clone(), roots, sequence)
        .and_then(|bundle| bundles.insert(bundle))
        .map_err(|e| SnapshotError::Bundle {
            name: own.to_string(),
            reason: e.to_string(),
        })?;
    Ok(bundles)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_auth::bundle::set_vouched_namespaces;
    use mesh_proto::mesh;

    use super::super::Snapshot;
    use super::*;

    #[test]
    fn roots_from_outside_stand_beside_the_own_ones_and_never_for_a_domain_that_is_spoken_of() {
        let root = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a root").der().clone()
        };
        let [own, helper, spire, partner, impostor, third] =
            ["own", "helper", "spire", "partner", "impostor", "third"].map(root);
        let bundle = |domain: &str, root: &CertificateDer<'_>| {
            let bundle = mesh::TrustBundle {
                trust_domain: domain.into(),
                x509_authorities: vec![root.to_vec()],
                workload_authorities: match domain {
                    "demo.test" => vec![helper.to_vec()],
                    _ => vec![],
                },
                workload_any_namespace: true,
                ..Default::default()
            };
            (domain.to_owned(), Arc::new(bundle))
        };
        let named = [bundle("demo.test", &own), bundle("partner.test", &partner)];
        let resources = Arc::new(Resources {
            bundles: named.into(),
            ..Default::default()
        });
        let outside: RootsByDomain = [
            ("demo.test".to_owned(), vec![spire.clone(), own.clone()]),
            ("partner.test".to_owned(), vec![impostor]),
            ("third.test".to_owned(), vec![third.clone()]),
        ]
        .into();
        let trust_domain = TrustDomain::new("demo.test").expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", trust_domain);
        let before = empty.build(&resources, None, &[]).expect("builds");
        let after = before
            .build_with(&resources, None, &[], Arc::new(outside))
            .expect("builds");
        assert!(before.trust_epoch < after.trust_epoch);
        // Whatever is built from it keeps them.
        let next = after.build(&resources, None, &[]).expect("builds");
        assert_eq!(after.trust_epoch, next.trust_epoch);
        let roots = |domain: &str| next.bundles().get(domain).map(|b| b.authorities().to_vec());
        let all = vec![own.clone(), helper.clone(), spire.clone()];
        assert_eq!(roots("demo.test"), Some(all));
        // They vouch for no more than the other authorities of the domain do; where those do for nobody, for the neighbours.
        for (named, of_spire) in [(&["shop"][..], "shop"), (&[], "demo")] {
            let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
            let mut bounded = (*resources).clone();
            let bundle = bounded.bundles.get_mut("demo.test").expect("a bundle");
            set_vouched_namespaces(Arc::make_mut(bundle), &named);
            let bounded = next.build(&Arc::new(bounded), None, &[]).expect("builds");
            let expected = TrustBundle::new(next.trust_domain.clone(), vec![own.clone()], 0)
                .and_then(|bundle| bundle.with_workload_roots(vec![helper.clone()], &named))
                .and_then(|bundle| {
                    bundle.with_workload_roots(vec![spire.clone()], &[of_spire.to_owned()])
                });
            let built = bounded.bundles().get("demo.test").expect("a bundle");
            assert!(built.trusts_like(&expected.expect("a bundle")), "{named:?}");
        }
        // Of all these only the own one speaks for the control API.
        let control: Vec<_> = next.control_roots.iter().collect();
        assert_eq!(control.len(), 1);
        assert_eq!(control[0].trust_domain(), &next.trust_domain);
        assert_eq!(control[0].authorities(), [own]);
        assert_eq!(roots("partner.test"), Some(vec![partner]));
        assert_eq!(roots("third.test"), Some(vec![third]));
    }

    #[test]
    fn roots_from_outside_do_not_take_the_place_of_a_bundle_that_was_taken_away() {
        let partner = mesh::TrustBundle {
            trust_domain: "partner.test".into(),
            ..Default::default()
        };
        let named = Resources {
            bundles: [("partner.test".to_owned(), Arc::new(partner))].into(),
            ..Default::default()
        };
        let outside: RootsByDomain = ["partner.test", "third.test"]
            .map(|name| (name.to_owned(), vec![]))
            .into();
        let empty = Snapshot::empty(
            "demo/orders-1",
            TrustDomain::new("demo.test").expect("a domain"),
        );
        let named = empty.build(&Arc::new(named), None, &[]).expect("builds");
        let nothing = Arc::new(Resources::default());
        let outside = Arc::new(outside);
        let with = named.build_with(&nothing, None, &[], Arc::clone(&outside));
        let with = with.expect("builds");
        let again = with.build(&nothing, None, &[]).expect("builds");
        // Another process, which the state file tells of it.
        let restored = Arc::new(Resources {
            spoken_of: ["partner.test".to_owned()].into(),
            ..Default::default()
        });
        let later = empty.build_with(&restored, None, &[], outside);
        for snapshot in [with, again, later.expect("builds")] {
            assert!(snapshot.bundles().get("partner.test").is_none());
            assert!(snapshot.bundles().get("third.test").is_some());
        }
    }
}
