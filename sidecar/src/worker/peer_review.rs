//! The review of a mutual TLS connection: whether its peer would still be let in.

use std::cell::RefCell;
use std::sync::Arc;

use mesh_auth::Reason;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::svid::{Usage, VerifiedChains, VerifiedPeer};
use rustls::CommonState;
use rustls_pki_types::CertificateDer;

use super::metrics::Direction;
use super::review::{Subject, Topic};
use crate::snapshot::Snapshot;
use crate::wall_clock::{now, unix_seconds};

/// An open connection's peer, as the handshake verified it.
pub struct PeerReview {
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    direction: Direction,
    /// The bundles that vouched for the chain last: it is verified again only under others.
    verified: RefCell<Arc<TrustBundles>>,
}

impl PeerReview {
    /// The review of `connection`, whose handshake verified `peer` by `chains`.
    pub fn new(
        connection: &CommonState,
        peer: VerifiedPeer,
        chains: &VerifiedChains,
        direction: Direction,
    ) -> Self {
        Self {
            peer,
            chain: connection
                .peer_certificates()
                .map(<[_]>::to_vec)
                .unwrap_or_default(),
            direction,
            verified: RefCell::new(Arc::clone(chains.bundles())),
        }
    }

    /// Verifies the chain again, unless the roots of its trust domain are the ones that vouched for it.
    fn is_trusted(&self, chains: &VerifiedChains) -> bool {
        let bundles = chains.bundles();
        let mut verified = self.verified.borrow_mut();
        if Arc::ptr_eq(&verified, bundles) {
            return true;
        }
        let domain = self.peer.id().trust_domain();
        let unchanged = match (bundles.get(domain), verified.get(domain)) {
            (Some(bundle), Some(before)) => bundle.trusts_like(before),
            _ => false,
        };
        let usage = match self.direction {
            Direction::Inbound => Usage::Client,
            Direction::Outbound => Usage::Server,
        };
        let verify = |(leaf, intermediates): (_, &[_])| {
            chains.confirm(leaf, intermediates, usage, now()).is_ok()
        };
        let trusted = unchanged || self.chain.split_first().is_some_and(verify);
        if trusted {
            *verified = Arc::clone(bundles);
        }
        trusted
    }
}

impl Subject for PeerReview {
    fn topics(&self) -> &[Topic] {
        &[Topic::Trust]
    }

    fn review(&self, snapshot: &Snapshot) -> Option<Reason> {
        let seconds = unix_seconds();
        if snapshot.revocations.of(&self.peer, seconds).is_some() {
            return Some(Reason::PeerRevoked);
        }
        if snapshot.own_revocation(seconds).is_some() {
            return Some(Reason::IdentityRevoked);
        }
        (!self.is_trusted(&snapshot.chains)).then_some(Reason::PeerUntrusted)
    }

    fn direction(&self) -> Direction {
        self.direction
    }

    fn peer(&self) -> &str {
        self.peer.id().as_str()
    }
}
