//! X.509-SVID verification (SPIFFE X509-SVID §5, RFC 5280 §6).
//!
//! The chain is validated by `webpki` against the roots of the leaf's own trust domain and no other; the rules that
//! SPIFFE adds are checked here. A [`VerifiedPeer`] can only come from this module.

mod chains;
mod error;
mod path;

pub(crate) use chains::ChainName;
pub use chains::{Tally, VerifiedChains};
pub use error::{SvidError, describe_skew};
pub(crate) use path::check_signer_id;

use std::ops::RangeInclusive;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::SpiffeId;
use crate::bundle::TrustBundles;
use crate::der::{self, Facts};
use crate::prepared::PreparedKeys;

/// Certificates a peer may present.
pub const MAX_CHAIN_CERTIFICATES: usize = 8;
/// Bytes of certificates a peer may present.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// What the peer acts as on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It opened the connection.
    Client,
    /// It accepted the connection.
    Server,
}

/// A peer whose SVID was verified and whose possession of the key was proven by the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    not_before: i64,
    not_after: i64,
    serial: Arc<[u8]>,
    leaf_sha256: [u8; 32],
}

impl VerifiedPeer {
    /// The peer's identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Start of its certificate's validity, Unix seconds.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// End of its certificate's validity, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Serial number of its certificate, big-endian as encoded.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// SHA-256 of its certificate, DER.
    pub fn leaf_sha256(&self) -> &[u8; 32] {
        &self.leaf_sha256
    }

    /// Reads the leaf of a chain that was verified before; checks only what makes the identity.
    pub(crate) fn of_verified_chain(chain: &[CertificateDer<'_>]) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Missing)?;
        let facts = der::facts(leaf).map_err(SvidError::Malformed)?;
        Ok(Self::of_leaf(leaf, &facts, identity(&facts)?))
    }

    fn of_leaf(leaf: &CertificateDer<'_>, facts: &Facts<'_>, id: SpiffeId) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut leaf_sha256 = [0; 32];
        leaf_sha256.copy_from_slice(digest.as_ref());
        Self {
            id,
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial.into(),
            leaf_sha256,
        }
    }
}

/// Certificates that lie one after the other in DER, as the Workload API sends them. They are not looked into.
pub fn certificates(der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let elements = der::elements(der)?.into_iter();
    Some(elements.map(|e| e.to_vec().into()).collect())
}

/// Verifies a chain (leaf first) at `now`.
///
/// # Errors
/// The first rule that is broken; see [`SvidError`].
pub fn verify(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    bundles: &TrustBundles,
    now: UnixTime,
) -> Result<VerifiedPeer, SvidError> {
    verify_with_validity(chain, usage, bundles, None, now).map(|(peer, _)| peer)
}

/// When a path is valid, Unix seconds: from the last of its certificates to begin to the first to end.
type Validity = RangeInclusive<i64>;

/// As [`verify`], with keys that may be prepared, and how long what was found stays true.
fn verify_with_validity(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    bundles: &TrustBundles,
    keys: Option<&PreparedKeys>,
    now: UnixTime,
) -> Result<(VerifiedPeer, Validity), SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Missing)?;
    check_size(chain)?;
    let facts = der::facts(leaf).map_err(SvidError::Malformed)?;
    let id = check_leaf(&facts)?;
    check_validity(&facts, seconds(now))?;
    let domain = id.trust_domain();
    let bundle = bundles
        .get(domain)
        .ok_or_else(|| SvidError::UnknownTrustDomain(domain.to_owned()))?;
    let signers = path::verify((leaf, &id), intermediates, usage, (bundle, keys), now)?;
    let validity = facts.not_before.max(*signers.start())..=facts.not_after.min(*signers.end());
    Ok((VerifiedPeer::of_leaf(leaf, &facts, id), validity))
}

/// The bound on what a peer can make us read and verify.
pub(crate) fn check_size<'a>(
    chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> Result<(), SvidError> {
    let (mut certificates, mut bytes) = (0, 0);
    for certificate in chain {
        certificates += 1;
        bytes += certificate.len();
    }
    if certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        return Err(SvidError::TooLarge);
    }
    Ok(())
}

/// Unix seconds, as the rest of the crate counts them.
pub(crate) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// `notBefore` and `notAfter` are part of the validity (RFC 5280 §4.1.2.5).
fn check_validity(leaf: &Facts<'_>, now: i64) -> Result<(), SvidError> {
    if now < leaf.not_before {
        return Err(SvidError::NotYetValid {
            which: "leaf",
            seconds: leaf.not_before - now,
        });
    }
    if now > leaf.not_after {
        return Err(SvidError::Expired {
            which: "leaf",
            seconds: now - leaf.not_after,
        });
    }
    Ok(())
}

fn identity(facts: &Facts<'_>) -> Result<SpiffeId, SvidError> {
    let uri = match facts.uri {
        Some(uri) if facts.uri_count == 1 => uri,
        _ => return Err(SvidError::UriCount(facts.uri_count)),
    };
    let text = std::str::from_utf8(uri).map_err(|_| SvidError::NotSpiffe("not UTF-8".into()))?;
    let id = SpiffeId::parse(text).map_err(|error| SvidError::NotSpiffe(error.to_string()))?;
    if id.path().is_empty() {
        return Err(SvidError::NoPath);
    }
    Ok(id)
}

/// The rules of a leaf (SPIFFE X509-SVID §2, §4).
pub(crate) fn check_leaf(facts: &Facts<'_>) -> Result<SpiffeId, SvidError> {
    if facts.is_ca {
        return Err(SvidError::CaLeaf);
    }
    let id = identity(facts)?;
    if facts.has_name_constraints {
        return Err(SvidError::LeafNameConstraints);
    }
    let usage = facts.key_usage.ok_or(SvidError::KeyUsage("is missing"))?;
    if !usage.critical {
        return Err(SvidError::KeyUsage("is not critical"));
    }
    if !usage.digital_signature {
        return Err(SvidError::KeyUsage("lacks digitalSignature"));
    }
    if usage.key_cert_sign || usage.crl_sign {
        return Err(SvidError::KeyUsage("has keyCertSign or cRLSign"));
    }
    if let Some(purposes) = facts.extended_key_usage
        && !(purposes.server_auth && purposes.client_auth)
    {
        return Err(SvidError::ExtendedKeyUsage);
    }
    if facts.subject.is_empty() && !facts.san_critical {
        return Err(SvidError::SanNotCritical);
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
