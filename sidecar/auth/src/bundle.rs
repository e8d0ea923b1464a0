//! Trust bundles: the roots that speak for a trust domain, and only for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::mesh;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, Der, TrustAnchor};

use crate::{SpiffeId, TrustDomain, der, svid};

/// Stands for every identity of a trust domain where namespaces are named.
pub const ANY_NAMESPACE: &str = "*";

/// Whether `id` is a workload's of one of these namespaces (`/ns/NAMESPACE/sa/SERVICE-ACCOUNT`), or any of them will do
/// ([`ANY_NAMESPACE`]).
pub fn is_within(id: &SpiffeId, namespaces: &[String]) -> bool {
    let named = |namespace: &str| namespaces.iter().any(|name| name == namespace);
    named(ANY_NAMESPACE) || id.namespace().is_some_and(named)
}

/// The namespaces that the other authorities of a published bundle vouch for, as [`is_within`] takes them.
pub fn vouched_namespaces(bundle: &mesh::TrustBundle) -> Cow<'_, [String]> {
    match bundle.workload_any_namespace {
        true => Cow::Owned(vec![ANY_NAMESPACE.to_owned()]),
        false => Cow::Borrowed(&bundle.workload_namespaces),
    }
}

/// Writes down the namespaces that the other authorities of `bundle` vouch for; [`vouched_namespaces`] reads them.
pub fn set_vouched_namespaces(bundle: &mut mesh::TrustBundle, namespaces: &[String]) {
    bundle.workload_any_namespace = namespaces.iter().any(|name| name == ANY_NAMESPACE);
    bundle.workload_namespaces = match bundle.workload_any_namespace {
        true => vec![],
        false => namespaces.to_vec(),
    };
}

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

/// What a root says beside its name and key, which is all that path validation looks at.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    anchor: TrustAnchor<'static>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Intermediates that may stand between it and a leaf.
    pub(crate) path_length: Option<u32>,
    /// Namespaces of the workloads that it vouches for; `None`: for every identity of the trust domain.
    namespaces: Option<Arc<[String]>>,
}

/// The roots of one trust domain, parsed.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    roots: Vec<Root>,
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
        let mut roots = Vec::with_capacity(authorities.len());
        for (index, der) in authorities.iter().enumerate() {
            roots.push(Root::parse(der).map_err(|reason| BundleError::Root {
                domain: domain.to_string(),
                index,
                reason,
            })?);
        }
        Ok(Self {
            domain,
            authorities,
            roots,
            sequence,
        })
    }

    /// Adds roots (DER) that vouch for whom [`is_within`] these namespaces and nobody else, so for nobody if none is named. What is
    /// a root already stays what it is.
    ///
    /// # Errors
    /// Names the root that cannot be used.
    pub fn with_workload_roots(
        mut self,
        authorities: Vec<CertificateDer<'static>>,
        namespaces: &[String],
    ) -> Result<Self, BundleError> {
        let namespaces: Arc<[String]> = namespaces.into();
        let more = Self::new(self.domain.clone(), authorities, self.sequence)?;
        if namespaces.is_empty() {
            return Ok(self);
        }
        for (authority, mut root) in more.authorities.into_iter().zip(more.roots) {
            if !self.authorities.contains(&authority) {
                root.namespaces = Some(Arc::clone(&namespaces));
                self.authorities.push(authority);
                self.roots.push(root);
            }
        }
        Ok(self)
    }

    /// True if both believe the same of everybody.
    pub fn trusts_like(&self, other: &Self) -> bool {
        let mut roots = self.roots.iter().zip(&other.roots);
        self.authorities == other.authorities && roots.all(|(a, b)| a.namespaces == b.namespaces)
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

    /// The roots that are valid at `now`, and those that are not.
    pub(crate) fn roots_at(&self, now: i64) -> (Vec<&Root>, Vec<&Root>) {
        self.roots
            .iter()
            .partition(|root| (root.not_before..=root.not_after).contains(&now))
    }
}

impl Root {
    /// The root as path validation takes it. Copies nothing.
    pub(crate) fn anchor(&self) -> TrustAnchor<'_> {
        TrustAnchor {
            subject: Der::from_slice(&self.anchor.subject),
            subject_public_key_info: Der::from_slice(&self.anchor.subject_public_key_info),
            name_constraints: self.anchor.name_constraints.as_deref().map(Der::from_slice),
        }
    }

    /// Whether it may vouch for `id`, by name.
    pub(crate) fn vouches_for(&self, id: &SpiffeId) -> bool {
        let namespaces = self.namespaces.as_deref();
        namespaces.is_none_or(|namespaces| is_within(id, namespaces))
    }

    fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|e| format!("{e:?}"))?;
        let facts = der::facts(der)?;
        if !facts.is_ca {
            return Err("it is not a CA certificate (basicConstraints cA)".into());
        }
        // Absent is let pass: what the operator trusts by hand may be older than the rule.
        if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
            return Err("its key usage lacks keyCertSign".into());
        }
        svid::check_signer_id(facts.uri, facts.uri_count, None)?;
        Ok(Self {
            anchor: anchor.to_owned(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            path_length: facts.path_length,
            namespaces: None,
        })
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};

    use super::*;
    use crate::testing::*;

    #[test]
    fn only_signing_certificates_become_roots() {
        let cases: &[(&str, Change, Option<&str>)] = &[
            ("as it should be", |_| {}, None),
            ("no key usage", |p| p.key_usages.clear(), None),
            ("no ID", |p| p.subject_alt_names.clear(), None),
            (
                "the trust domain's ID",
                |p| p.subject_alt_names = vec![uri("spiffe://td")],
                None,
            ),
            (
                "path length",
                |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(3)),
                None,
            ),
            ("no CA", |p| p.is_ca = IsCa::ExplicitNoCa, Some("not a CA")),
            (
                "no keyCertSign",
                |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
                Some("keyCertSign"),
            ),
            (
                "a workload's ID",
                |p| p.subject_alt_names = vec![uri("spiffe://td/ns/a/sa/b")],
                Some("has a path"),
            ),
        ];
        let domain = TrustDomain::new("td").unwrap();
        for (what, change, problem) in cases {
            let mut params = signer_params("root");
            change(&mut params);
            let roots = vec![authority("td").der().clone(), root(params).der().clone()];
            let result = TrustBundle::new(domain.clone(), roots, 1);
            match (result, problem) {
                (Ok(bundle), None) => assert_eq!(bundle.authorities().len(), 2),
                (Err(error), Some(problem)) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("certificate 1") && text.contains(problem),
                        "{what}: {text}"
                    );
                }
                (result, _) => panic!("{what}: {result:?}"),
            }
        }
    }

    #[test]
    fn pem_text_is_read_and_what_is_not_pem_is_named() {
        let domain = || TrustDomain::new("td").unwrap();
        let (first, second) = (authority("td"), authority("td"));
        let text = format!("# a comment\n{}\n{}", first.pem(), second.pem());
        let bundle = TrustBundle::from_pem(domain(), text.as_bytes()).unwrap();
        assert_eq!(
            bundle.authorities(),
            [first.der().clone(), second.der().clone()]
        );
        let garbage = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let cases = [
            ("", "no CERTIFICATE block"),
            ("hello", "no CERTIFICATE block"),
            ("-----BEGIN CERTIFICATE-----\n%%%\n", "not PEM"),
            (garbage, "certificate 0"),
        ];
        for (text, problem) in cases {
            let error = TrustBundle::from_pem(domain(), text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_lower_sequence_is_a_rollback_and_bundles_are_never_merged() {
        let (td, other) = (authority("td"), authority("other"));
        let mut bundles = TrustBundles::default();
        bundles.insert(bundle("td", &[&td], 5)).unwrap();
        bundles.insert(bundle("other", &[&other], 1)).unwrap();
        let error = bundles.insert(bundle("td", &[&td], 4)).unwrap_err();
        assert!(error.to_string().contains("rollback refused"), "{error}");
        assert_eq!(bundles.get("td").map(TrustBundle::sequence), Some(5));
        bundles.insert(bundle("td", &[&td], 5)).unwrap();
        // Replaced, not added to; an empty bundle takes all trust away.
        bundles.insert(bundle("td", &[], 6)).unwrap();
        let count = |domain| bundles.get(domain).map(|b| b.authorities().len());
        assert_eq!(
            (count("td"), count("other"), count("t")),
            (Some(0), Some(1), None)
        );
    }
}
