//! What a peer's certificate is held against.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundles;
use crate::revocation::Revocations;
use crate::svid::{self, SvidError, Usage, VerifiedPeer};

/// Roots to believe, and what is no longer believed in spite of them.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Roots by trust domain.
    pub bundles: Arc<TrustBundles>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
}

impl From<Arc<TrustBundles>> for Trust {
    fn from(bundles: Arc<TrustBundles>) -> Self {
        Self {
            bundles,
            ..Self::default()
        }
    }
}

impl Trust {
    /// Verifies a chain (leaf first) at `now`.
    ///
    /// # Errors
    /// The first rule that is broken; [`SvidError::Revoked`] for a chain that is good and revoked.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        let peer = svid::verify(chain, usage, &self.bundles, now)?;
        self.check_revocation(&peer, now)?;
        Ok(peer)
    }

    /// # Errors
    /// [`SvidError::Revoked`].
    pub fn check_revocation(&self, peer: &VerifiedPeer, now: UnixTime) -> Result<(), SvidError> {
        match self.revocations.of(peer, svid::seconds(now)) {
            None => Ok(()),
            Some(mark) => Err(SvidError::Revoked {
                id: peer.id().clone(),
                entry: mark.name.to_string(),
                reason: mark.reason.to_string(),
            }),
        }
    }
}
