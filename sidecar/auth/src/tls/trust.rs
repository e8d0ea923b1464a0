//! What a peer's certificate is held against.

use std::sync::Arc;

use rustls::CommonState;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundles;
use crate::revocation::Revocations;
use crate::svid::{self, ChainName, SvidError, Usage, VerifiedChains, VerifiedPeer};

/// Roots to believe, and what is no longer believed in spite of them.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Roots by trust domain, and the chains that are known to lead to them.
    pub chains: Arc<VerifiedChains>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
}

impl From<Arc<TrustBundles>> for Trust {
    fn from(bundles: Arc<TrustBundles>) -> Self {
        Self {
            chains: Arc::new(VerifiedChains::forgetful(bundles)),
            ..Self::default()
        }
    }
}

impl Trust {
    /// Verifies a chain at `now`.
    ///
    /// # Errors
    /// The first rule that is broken; [`SvidError::Revoked`] for a chain that is good and revoked.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        let peer = self.chains.verify(leaf, intermediates, usage, now)?;
        self.check_revocation(&peer, now)?;
        Ok(peer)
    }

    /// As [`Trust::verify`], of a chain that was verified before: not counted as one that a peer presents.
    ///
    /// # Errors
    /// As [`Trust::verify`].
    pub fn confirm(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Missing)?;
        let peer = self.chains.confirm(leaf, intermediates, usage, now)?;
        self.check_revocation(&peer, now)?;
        Ok(peer)
    }

    /// Keeps with a known chain how it is `written`; its peer, and the name to ask [`Trust::kept`] by. `None` for a chain that
    /// is not known, is not valid at `now`, or is revoked.
    pub(super) fn keep(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
        written: &[u8],
    ) -> Option<(VerifiedPeer, ChainName)> {
        let (peer, name) = self.chains.keep(chain, usage, now, written)?;
        self.check_revocation(&peer, now).ok()?;
        Some((peer, name))
    }

    /// The peer of a chain that would be let in at `now`, and how the chain is written. `None` also if it was forgotten.
    pub(super) fn kept(
        &self,
        name: &ChainName,
        now: UnixTime,
    ) -> Option<(VerifiedPeer, Arc<[u8]>)> {
        let (peer, written) = self.chains.kept(name, now)?;
        self.check_revocation(&peer, now).ok()?;
        Some((peer, written))
    }

    /// The peer of a completed handshake, verified again at `now`: what rustls remembers of a peer was true once.
    ///
    /// # Errors
    /// As [`Trust::verify`]; [`SvidError::Missing`] if the peer presented no certificate.
    pub fn peer_of(
        &self,
        connection: &CommonState,
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        self.confirm(chain, usage, now)
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
