//! Trust bundles: the roots that speak for a trust domain, and only for it.

use std::collections::BTreeMap;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::{TrustDomain, der};

/// Why a trust bundle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root does not parse.
    #[error("trust bundle of '{domain}': certificate {index} cannot be used as a root: {reason}")]
    Root {
        /// Trust domain.
        domain: String,
        /// Position in the bundle, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The PEM text does not parse.
    #[error("trust bundle of '{domain}': not PEM: {reason}")]
    Pem {
        /// Trust domain.
        domain: String,
        /// What is wrong.
        reason: String,
    },
    /// An older bundle than the one held.
    #[error(
        "trust bundle of '{domain}': sequence {offered} is older than {held}, which is held: rollback refused"
    )]
    Rollback {
        /// Trust domain.
        domain: String,
        /// Sequence of the refused bundle.
        offered: u64,
        /// Sequence of the bundle held.
        held: u64,
    },
}

/// The roots of one trust domain, parsed.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<(i64, i64)>,
    sequence: u64,
}

impl TrustBundle {
    /// Parses the roots (DER). An empty list is a bundle that trusts nobody.
    ///
    /// # Errors
    /// Names the root that cannot be used.
    pub fn new(
        domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let mut anchors = Vec::with_capacity(authorities.len());
        let mut validity = Vec::with_capacity(authorities.len());
        for (index, der) in authorities.iter().enumerate() {
            let fail = |reason: String| BundleError::Root {
                domain: domain.to_string(),
                index,
                reason,
            };
            let anchor =
                webpki::anchor_from_trusted_cert(der).map_err(|e| fail(format!("{e:?}")))?;
            let facts = der::facts(der).map_err(|e| fail(e.to_string()))?;
            if !facts.is_ca {
                return Err(fail(
                    "it is not a CA certificate (basicConstraints cA)".into(),
                ));
            }
            anchors.push(anchor.to_owned());
            validity.push((facts.not_before, facts.not_after));
        }
        Ok(Self {
            domain,
            authorities,
            anchors,
            validity,
            sequence,
        })
    }

    /// Parses the roots from PEM text.
    ///
    /// # Errors
    /// The text is not PEM, holds no certificate, or a root cannot be used.
    pub fn from_pem(domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let fail = |reason: String| BundleError::Pem {
            domain: domain.to_string(),
            reason,
        };
        let authorities = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| fail(e.to_string()))?;
        if authorities.is_empty() {
            return Err(fail("no CERTIFICATE block in it".into()));
        }
        Self::new(domain, authorities, 0)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots, DER.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Version of the bundle, increasing.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Runs `f` with the roots that are valid at `now`; validity of roots is not part of RFC 5280 path validation.
    pub(crate) fn with_anchors<R>(
        &self,
        now: i64,
        f: impl FnOnce(&[TrustAnchor<'static>]) -> R,
    ) -> R {
        let valid =
            |(not_before, not_after): &(i64, i64)| (*not_before..=*not_after).contains(&now);
        if self.validity.iter().all(valid) {
            return f(&self.anchors);
        }
        let anchors: Vec<_> = self
            .anchors
            .iter()
            .zip(&self.validity)
            .filter(|(_, v)| valid(v))
            .map(|(a, _)| a.clone())
            .collect();
        f(&anchors)
    }
}

/// Bundles by trust domain, never merged.
#[derive(Debug, Clone, Default)]
pub struct TrustBundles(BTreeMap<String, TrustBundle>);

impl TrustBundles {
    /// Adds or replaces the bundle of a trust domain.
    ///
    /// # Errors
    /// An older sequence than the one held.
    pub fn insert(&mut self, bundle: TrustBundle) -> Result<(), BundleError> {
        if let Some(held) = self.0.get(bundle.domain.as_str())
            && bundle.sequence < held.sequence
        {
            return Err(BundleError::Rollback {
                domain: bundle.domain.to_string(),
                offered: bundle.sequence,
                held: held.sequence,
            });
        }
        self.0.insert(bundle.domain.to_string(), bundle);
        Ok(())
    }

    /// The bundle of a trust domain.
    pub fn get(&self, domain: &str) -> Option<&TrustBundle> {
        self.0.get(domain)
    }

    /// Every bundle.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }
}
