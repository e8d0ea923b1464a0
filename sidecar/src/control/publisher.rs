//! Puts snapshots in force: the only place that stores one.
//!
//! A snapshot is made of the resources held and the identity in use; either side changes on its own. Readers see the
//! store before they are told of it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_auth::TrustDomain;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::tls::Identity;
use mesh_proto::ResourceType;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::snapshot::{
    Resources, RootsByDomain, SharedSnapshot, Snapshot, SnapshotError, control_roots,
};

/// Builds and stores snapshots.
pub struct Publisher {
    shared: SharedSnapshot,
    epochs: watch::Sender<u64>,
    trust_domain: TrustDomain,
    parts: Mutex<Parts>,
}

struct Parts {
    identity: Option<Arc<Identity>>,
    clock_skew: Option<i64>,
    resources: Arc<Resources>,
    /// The latest bundles known, in force or not.
    trusted: Arc<Resources>,
    /// Roots of the own trust domain until the stream brings them.
    initial_roots: Vec<CertificateDer<'static>>,
}

impl Publisher {
    /// Publishes to `shared` and tells `epochs`.
    pub fn new(
        shared: SharedSnapshot,
        epochs: watch::Sender<u64>,
        trust_domain: TrustDomain,
        initial_roots: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            shared,
            epochs,
            trust_domain,
            parts: Mutex::new(Parts {
                identity: None,
                clock_skew: None,
                resources: Arc::default(),
                trusted: Arc::default(),
                initial_roots,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot that `resources` would make with the identity in use.
    ///
    /// # Errors
    /// Names the resource that does not fit.
    pub fn build(&self, resources: &Arc<Resources>) -> Result<Snapshot, SnapshotError> {
        let parts = self.lock();
        self.shared
            .load()
            .build(resources, parts.identity.clone(), &parts.initial_roots)
    }

    /// Tells by how many seconds this clock is ahead of the control API's; in force with the next snapshot.
    pub fn set_clock_skew(&self, skew: i64) {
        self.lock().clock_skew = Some(skew);
    }

    /// Whether the listeners serve `identity`.
    pub fn serves(&self, identity: &Arc<Identity>) -> bool {
        let snapshot = self.shared.load();
        let tls = snapshot.tls.as_ref();
        tls.is_some_and(|tls| Arc::ptr_eq(&tls.identity, identity))
    }

    /// The epoch of the snapshot in force.
    pub fn epoch(&self) -> u64 {
        self.shared.load().epoch
    }

    /// Services and workloads that were used since this was called last.
    pub fn take_used(&self) -> HashSet<(ResourceType, Arc<str>)> {
        self.shared.load().directory.take_used()
    }

    /// Puts a snapshot that [`Self::build`] made in force. Both run on the control thread with no wait between them, so
    /// no other snapshot comes between.
    pub fn store(&self, snapshot: Snapshot) {
        self.lock().resources = Arc::clone(&snapshot.resources);
        self.publish(snapshot);
    }

    /// Uses `identity` from now on; `None`: has none, everything is refused, which cannot fail once a snapshot is in force.
    ///
    /// # Errors
    /// When no TLS context can be made of it; the previous one stays in use.
    pub fn set_identity(&self, identity: Option<Arc<Identity>>) -> Result<(), SnapshotError> {
        let mut parts = self.lock();
        let before = self.shared.load();
        let snapshot = match &identity {
            None if before.epoch > 0 => before.without_identity(),
            _ => before.build(&parts.resources, identity.clone(), &parts.initial_roots)?,
        };
        parts.identity = identity;
        drop(parts);
        self.publish(snapshot);
        Ok(())
    }

    /// Uses `identity` from now on, and with it the roots that came with it.
    ///
    /// # Errors
    /// When a root cannot be used or no TLS context can be made; what was in force stays.
    pub fn set_outside(
        &self,
        identity: &Arc<Identity>,
        roots: RootsByDomain,
    ) -> Result<(), SnapshotError> {
        let mut parts = self.lock();
        let snapshot = self.shared.load().build_with(
            &parts.resources,
            Some(Arc::clone(identity)),
            &parts.initial_roots,
            Arc::new(roots),
        )?;
        parts.identity = Some(Arc::clone(identity));
        drop(parts);
        self.publish(snapshot);
        Ok(())
    }

    fn publish(&self, mut snapshot: Snapshot) {
        snapshot.clock_skew = self.lock().clock_skew;
        let epoch = snapshot.epoch;
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_snapshot_epoch").set(epoch as f64);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_snapshot_revision").set(snapshot.revision as f64);
        self.shared.store(Arc::new(snapshot));
        self.epochs.send_replace(epoch);
    }

    /// Verifies the control API with the bundles of `resources` from now on, in force or not.
    pub fn trust(&self, resources: &Arc<Resources>) {
        self.lock().trusted = Arc::clone(resources);
    }

    /// Certificates whose notBefore is lower are to be replaced, over that many seconds.
    pub fn renewal_demanded(&self) -> Option<(i64, u32)> {
        let parts = self.lock();
        let bundle = parts.trusted.bundles.get(self.trust_domain.as_str())?;
        let before = bundle.renew_certificates_before;
        (before > 0).then_some((before, bundle.renew_spread_seconds))
    }

    /// The roots to verify the control API with: the latest known, else the ones given at the start.
    ///
    /// # Errors
    /// When they do not parse.
    pub fn roots(&self) -> Result<Arc<TrustBundles>, String> {
        let parts = self.lock();
        control_roots(&self.trust_domain, &parts.trusted, &parts.initial_roots)
            .map(Arc::new)
            .map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use mesh_proto::mesh;

    use super::*;
    use crate::control::fake_api::{Authority, DOMAIN};
    use crate::directory::Destination;

    /// A publisher that has published nothing, where it publishes to, and an identity that it can use.
    fn start() -> (Publisher, SharedSnapshot, Arc<Identity>) {
        let authority = Authority::new();
        let domain = TrustDomain::new(DOMAIN).expect("a domain");
        let empty = Snapshot::empty("demo/orders-1", domain.clone());
        let shared: SharedSnapshot = Arc::new(ArcSwap::from_pointee(empty));
        let (epochs, _) = watch::channel(0);
        let publisher = Publisher::new(Arc::clone(&shared), epochs, domain, vec![authority.root()]);
        let identity = authority.identity(&format!("spiffe://{DOMAIN}/ns/demo/sa/orders"));
        (publisher, shared, Arc::new(identity))
    }

    #[test]
    fn an_identity_is_withdrawn_also_when_nothing_can_be_built() {
        let (publisher, shared, identity) = start();
        let served = publisher.set_identity(Some(Arc::clone(&identity)));
        served.expect("served");
        assert!(publisher.serves(&identity));
        let bad = Resources {
            revocations: [("bad".to_owned(), Arc::new(mesh::Revocation::default()))].into(),
            ..Resources::default()
        };
        publisher.lock().resources = Arc::new(bad);
        let again = publisher.set_identity(Some(Arc::clone(&identity)));
        again.expect_err("nothing can be built");
        publisher.set_identity(None).expect("withdrawn");
        assert!(!publisher.serves(&identity));
        let snapshot = shared.load();
        assert!(snapshot.tls.is_none() && snapshot.bundles().get(DOMAIN).is_some());
        assert_eq!(publisher.epoch(), 2);
    }

    #[test]
    fn before_the_control_api_has_said_anything_no_destination_is_outside() {
        let (publisher, shared, identity) = start();
        let unresolved = || {
            let address = "10.0.0.1:80".parse().expect("an address");
            matches!(
                shared.load().directory.by_address(address),
                Destination::Unresolved
            )
        };
        assert!(unresolved());
        let served = publisher.set_identity(Some(identity));
        served.expect("served");
        assert!(unresolved());
    }
}
