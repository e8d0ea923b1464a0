//! X.509-SVID verification (SPIFFE X509-SVID §5, RFC 5280 §6).
//!
//! The chain is validated by `webpki` against the roots of the leaf's own trust domain and no other; the rules that
//! SPIFFE adds are checked here. A [`VerifiedPeer`] can only come from this module.

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::SpiffeId;
use crate::bundle::TrustBundles;
use crate::der::{self, Facts};

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

/// Why an SVID is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    Missing,
    /// More certificates or bytes than a chain may have.
    #[error(
        "the certificate chain is larger than {MAX_CHAIN_CERTIFICATES} certificates or {MAX_CHAIN_BYTES} bytes"
    )]
    TooLarge,
    /// The leaf is not a certificate that can be read.
    #[error("the leaf certificate is malformed")]
    Malformed,
    /// No URI SAN, or more than one.
    #[error("the leaf certificate has {0} URI SANs, an X.509-SVID has exactly one")]
    UriCount(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("the leaf certificate's URI SAN is not a SPIFFE ID: {0}")]
    NotSpiffe(String),
    /// The SPIFFE ID names a trust domain only.
    #[error(
        "the leaf certificate's SPIFFE ID has no path: signing certificates do not authenticate"
    )]
    NoPath,
    /// The leaf is a CA.
    #[error("the leaf certificate is a CA certificate")]
    CaLeaf,
    /// The key usage is not that of a leaf.
    #[error("the leaf certificate's key usage {0}")]
    KeyUsage(&'static str),
    /// The extended key usage lacks a purpose.
    #[error(
        "the leaf certificate's extended key usage must have both serverAuth and clientAuth, or be absent"
    )]
    ExtendedKeyUsage,
    /// Empty subject with a non-critical SAN.
    #[error(
        "the leaf certificate has an empty subject, so its SAN must be critical (RFC 5280 §4.2.1.6)"
    )]
    SanNotCritical,
    /// Not valid yet.
    #[error("the {which} certificate starts in {}; check clocks", human(*.seconds))]
    NotYetValid {
        /// `leaf` or `intermediate`.
        which: &'static str,
        /// Seconds until it starts.
        seconds: i64,
    },
    /// Not valid any more.
    #[error("the {which} certificate expired {} ago; check clocks and renewal", human(*.seconds))]
    Expired {
        /// `leaf` or `intermediate`.
        which: &'static str,
        /// Seconds since it expired.
        seconds: i64,
    },
    /// No bundle for the trust domain.
    #[error("no trust bundle is held for trust domain '{0}'")]
    UnknownTrustDomain(String),
    /// The chain does not lead to a root of the trust domain.
    #[error("the chain does not lead to a trusted root of '{domain}': {reason}")]
    Untrusted {
        /// The leaf's trust domain.
        domain: String,
        /// What path validation said.
        reason: String,
    },
    /// A valid SVID of somebody else.
    #[error("the peer is '{found}', expected {expected}")]
    UnexpectedId {
        /// Who answered.
        found: SpiffeId,
        /// Who should have.
        expected: String,
    },
}

impl SvidError {
    /// The stable code.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "certificate_missing",
            Self::TooLarge => "chain_too_large",
            Self::Malformed => "certificate_malformed",
            Self::UriCount(_) => "uri_san_count",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::NoPath => "spiffe_id_without_path",
            Self::CaLeaf => "ca_leaf",
            Self::KeyUsage(_) => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::SanNotCritical => "san_not_critical",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::Untrusted { .. } => "untrusted",
            Self::UnexpectedId { .. } => "unexpected_id",
        }
    }
}

/// A peer whose SVID was verified and whose possession of the key was proven by the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    not_before: i64,
    not_after: i64,
    serial: Vec<u8>,
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
        let facts = der::facts(leaf)?;
        let id = identity(&facts)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut leaf_sha256 = [0; 32];
        leaf_sha256.copy_from_slice(digest.as_ref());
        Ok(Self {
            id,
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial.to_vec(),
            leaf_sha256,
        })
    }
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
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Missing)?;
    if chain.len() > MAX_CHAIN_CERTIFICATES
        || chain.iter().map(|c| c.len()).sum::<usize>() > MAX_CHAIN_BYTES
    {
        return Err(SvidError::TooLarge);
    }
    let facts = der::facts(leaf)?;
    let id = check_leaf(&facts)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    check_validity("leaf", facts.not_before, facts.not_after, seconds)?;
    let domain = id.trust_domain();
    let bundle = bundles
        .get(domain)
        .ok_or_else(|| SvidError::UnknownTrustDomain(domain.to_owned()))?;
    let certificate =
        webpki::EndEntityCert::try_from(leaf).map_err(|e| path_error(&e, domain, seconds))?;
    let usage = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    bundle.with_anchors(seconds, |anchors| {
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(drop)
            .map_err(|error| path_error(&error, domain, seconds))
    })?;
    VerifiedPeer::of_verified_chain(chain)
}

fn path_error(error: &webpki::Error, domain: &str, now: i64) -> SvidError {
    let seconds = |t: &UnixTime| i64::try_from(t.as_secs()).unwrap_or(i64::MAX);
    match error {
        // The leaf's own validity was checked before.
        webpki::Error::CertExpired { not_after, .. } => SvidError::Expired {
            which: "intermediate",
            seconds: now - seconds(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => SvidError::NotYetValid {
            which: "intermediate",
            seconds: seconds(not_before) - now,
        },
        webpki::Error::CaUsedAsEndEntity => SvidError::CaLeaf,
        webpki::Error::BadDer => SvidError::Malformed,
        other => SvidError::Untrusted {
            domain: domain.to_owned(),
            reason: match other {
                webpki::Error::UnknownIssuer => "no trusted root issued it".into(),
                webpki::Error::InvalidSignatureForPublicKey => "a signature is wrong".into(),
                webpki::Error::NameConstraintViolation => {
                    "a name constraint forbids the name".into()
                }
                webpki::Error::PathLenConstraintViolated => {
                    "a path length constraint is exceeded".into()
                }
                webpki::Error::EndEntityUsedAsCa => {
                    "a certificate that is no CA signed another".into()
                }
                webpki::Error::UnsupportedCriticalExtension => {
                    "an unknown critical extension".into()
                }
                other => format!("{other:?}"),
            },
        },
    }
}

fn check_validity(
    which: &'static str,
    not_before: i64,
    not_after: i64,
    now: i64,
) -> Result<(), SvidError> {
    if now < not_before {
        return Err(SvidError::NotYetValid {
            which,
            seconds: not_before - now,
        });
    }
    if now > not_after {
        return Err(SvidError::Expired {
            which,
            seconds: now - not_after,
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
    let id = SpiffeId::parse(text).map_err(|e| SvidError::NotSpiffe(e.to_string()))?;
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
    if facts.subject_is_empty && !facts.san_critical {
        return Err(SvidError::SanNotCritical);
    }
    Ok(id)
}

fn human(seconds: i64) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m {}s", s / 60, s % 60),
        s if s < 86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        s => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
        DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };

    use super::*;
    use crate::TrustDomain;
    use crate::bundle::TrustBundle;

    const NOW: u64 = 1_800_000_000;

    pub(crate) fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    pub(crate) fn authority(domain: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = name(domain);
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        params.not_before = at(-10_000);
        params.not_after = at(1_000_000);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn name(text: &str) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, text);
        name
    }

    fn at(offset: i64) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp(i64::try_from(NOW).unwrap() + offset).unwrap()
    }

    pub(crate) fn leaf_params(id: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.distinguished_name = name("workload");
        params.subject_alt_names = vec![uri(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = at(-300);
        params.not_after = at(3600);
        params
    }

    pub(crate) fn good_leaf() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        leaf_params("spiffe://td/ns/a/sa/b")
            .signed_by(&key, &authority("td"))
            .unwrap()
            .der()
            .to_vec()
    }

    pub(crate) fn bundles(
        authorities: &[(&str, &CertifiedIssuer<'static, KeyPair>)],
    ) -> TrustBundles {
        let mut bundles = TrustBundles::default();
        for (domain, authority) in authorities {
            let bundle = TrustBundle::new(
                TrustDomain::new(domain).unwrap(),
                vec![authority.der().clone()],
                1,
            )
            .unwrap();
            bundles.insert(bundle).unwrap();
        }
        bundles
    }

    fn check(params: &CertificateParams, offset: i64) -> Result<VerifiedPeer, SvidError> {
        let authority = authority("td");
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &authority).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(
            NOW.checked_add_signed(offset).unwrap(),
        ));
        verify(
            &[leaf.der().clone()],
            Usage::Client,
            &bundles(&[("td", &authority)]),
            now,
        )
    }

    #[test]
    fn a_leaf_that_keeps_every_rule_is_accepted() {
        let peer = check(&leaf_params("spiffe://td/ns/a/sa/b"), 0).unwrap();
        assert_eq!(peer.id().as_str(), "spiffe://td/ns/a/sa/b");
        assert_eq!(peer.not_after(), i64::try_from(NOW).unwrap() + 3600);
        let mut without_purposes = leaf_params("spiffe://td/ns/a/sa/b");
        without_purposes.extended_key_usages.clear();
        check(&without_purposes, 0).expect("no extended key usage is fine");
    }

    #[test]
    fn a_leaf_that_breaks_one_rule_is_refused_with_its_reason() {
        type Change = fn(&mut CertificateParams);
        let cases: &[(&str, Change, &str)] = &[
            (
                "no URI SAN",
                |p| p.subject_alt_names.clear(),
                "uri_san_count",
            ),
            (
                "only a DNS SAN that looks like one",
                |p| p.subject_alt_names = vec![SanType::DnsName("td".try_into().unwrap())],
                "uri_san_count",
            ),
            (
                "two URI SANs",
                |p| p.subject_alt_names.push(uri("spiffe://td/ns/a/sa/c")),
                "uri_san_count",
            ),
            (
                "the same URI SAN twice",
                |p| p.subject_alt_names.push(uri("spiffe://td/ns/a/sa/b")),
                "uri_san_count",
            ),
            (
                "https URI",
                |p| p.subject_alt_names = vec![uri("https://td/ns/a/sa/b")],
                "not_spiffe",
            ),
            (
                "upper-case trust domain",
                |p| p.subject_alt_names = vec![uri("spiffe://TD/ns/a/sa/b")],
                "not_spiffe",
            ),
            (
                "trailing slash",
                |p| p.subject_alt_names = vec![uri("spiffe://td/ns/a/")],
                "not_spiffe",
            ),
            (
                "no path",
                |p| p.subject_alt_names = vec![uri("spiffe://td")],
                "spiffe_id_without_path",
            ),
            (
                "CA leaf",
                |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                "ca_leaf",
            ),
            ("no key usage", |p| p.key_usages.clear(), "key_usage"),
            (
                "no digitalSignature",
                |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
                "key_usage",
            ),
            (
                "keyCertSign",
                |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
                "key_usage",
            ),
            (
                "cRLSign",
                |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
                "key_usage",
            ),
            (
                "serverAuth only",
                |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
                "extended_key_usage",
            ),
            (
                "clientAuth only",
                |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
                "extended_key_usage",
            ),
            (
                "codeSigning only",
                |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
                "extended_key_usage",
            ),
            (
                "another trust domain's name",
                |p| p.subject_alt_names = vec![uri("spiffe://other/ns/a/sa/b")],
                "unknown_trust_domain",
            ),
            (
                "non-critical key usage",
                |p| {
                    p.key_usages.clear();
                    p.custom_extensions = vec![CustomExtension::from_oid_content(
                        &[2, 5, 29, 15],
                        vec![0x03, 0x02, 0x07, 0x80],
                    )];
                },
                "key_usage",
            ),
            (
                "unknown critical extension",
                |p| {
                    let mut extension = CustomExtension::from_oid_content(
                        &[1, 3, 6, 1, 4, 1, 99999, 1],
                        vec![5, 0],
                    );
                    extension.set_criticality(true);
                    p.custom_extensions = vec![extension];
                },
                "untrusted",
            ),
        ];
        for (what, change, reason) in cases {
            let mut params = leaf_params("spiffe://td/ns/a/sa/b");
            change(&mut params);
            match check(&params, 0) {
                Ok(_) => panic!("{what}: accepted"),
                Err(error) => assert_eq!(error.reason(), *reason, "{what}: {error}"),
            }
        }
    }

    #[test]
    fn validity_is_exact_and_the_error_names_the_skew() {
        let params = leaf_params("spiffe://td/ns/a/sa/b");
        assert!(check(&params, -300).is_ok() && check(&params, 3600).is_ok());
        let early = check(&params, -300 - 7380).unwrap_err();
        assert_eq!(
            early.to_string(),
            "the leaf certificate starts in 2h 3m; check clocks"
        );
        assert_eq!(check(&params, 3601).unwrap_err().reason(), "expired");
        assert_eq!(check(&params, -301).unwrap_err().reason(), "not_yet_valid");
    }

    #[test]
    fn only_the_roots_of_the_leafs_own_trust_domain_count() {
        let (own, other) = (authority("td"), authority("other"));
        let bundles = bundles(&[("td", &own), ("other", &other)]);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let key = KeyPair::generate().unwrap();
        let stolen_name = leaf_params("spiffe://td/ns/a/sa/b")
            .signed_by(&key, &other)
            .unwrap();
        let error = verify(&[stolen_name.der().clone()], Usage::Client, &bundles, now).unwrap_err();
        assert_eq!(error.reason(), "untrusted");
        let foreign = leaf_params("spiffe://other/ns/a/sa/b")
            .signed_by(&key, &other)
            .unwrap();
        let peer = verify(&[foreign.der().clone()], Usage::Client, &bundles, now).unwrap();
        assert_eq!(peer.id().trust_domain(), "other");
    }

    #[test]
    fn intermediates_are_followed_and_leaves_do_not_sign() {
        let root = authority("td");
        let bundles = bundles(&[("td", &root)]);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = name("intermediate");
        params.not_before = at(-300);
        params.not_after = at(600);
        let intermediate =
            CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = leaf_params("spiffe://td/ns/a/sa/b")
            .signed_by(&key, &intermediate)
            .unwrap();
        let chain = [leaf.der().clone(), intermediate.der().clone()];
        assert!(verify(&chain, Usage::Server, &bundles, now).is_ok());
        assert_eq!(
            verify(&chain[..1], Usage::Server, &bundles, now)
                .unwrap_err()
                .reason(),
            "untrusted"
        );
        let later = UnixTime::since_unix_epoch(Duration::from_secs(NOW + 700));
        let error = verify(&chain, Usage::Server, &bundles, later).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the intermediate certificate expired 1m 40s ago; check clocks and renewal"
        );

        let signer = CertifiedIssuer::signed_by(
            leaf_params("spiffe://td/x"),
            KeyPair::generate().unwrap(),
            &root,
        )
        .unwrap();
        let forged = leaf_params("spiffe://td/ns/a/sa/b")
            .signed_by(&key, &signer)
            .unwrap();
        let chain = [forged.der().clone(), signer.der().clone()];
        assert_eq!(
            verify(&chain, Usage::Client, &bundles, now)
                .unwrap_err()
                .reason(),
            "untrusted"
        );
    }

    #[test]
    fn chains_are_bounded_and_empty_ones_refused() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let bundles = TrustBundles::default();
        assert_eq!(
            verify(&[], Usage::Client, &bundles, now).unwrap_err(),
            SvidError::Missing
        );
        let leaf = CertificateDer::from(good_leaf());
        let long = vec![leaf; MAX_CHAIN_CERTIFICATES + 1];
        assert_eq!(
            verify(&long, Usage::Client, &bundles, now).unwrap_err(),
            SvidError::TooLarge
        );
        let garbage = [CertificateDer::from(vec![0x30; 100])];
        assert_eq!(
            verify(&garbage, Usage::Client, &bundles, now).unwrap_err(),
            SvidError::Malformed
        );
    }

    #[test]
    fn an_empty_bundle_trusts_nobody() {
        let mut bundles = TrustBundles::default();
        bundles
            .insert(TrustBundle::new(TrustDomain::new("td").unwrap(), vec![], 1).unwrap())
            .unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let chain = [CertificateDer::from(good_leaf())];
        assert_eq!(
            verify(&chain, Usage::Client, &bundles, now)
                .unwrap_err()
                .reason(),
            "untrusted"
        );
    }

    #[test]
    fn a_lower_bundle_sequence_is_a_rollback() {
        let root = authority("td");
        let bundle = |sequence| {
            TrustBundle::new(
                TrustDomain::new("td").unwrap(),
                vec![root.der().clone()],
                sequence,
            )
            .unwrap()
        };
        let mut bundles = TrustBundles::default();
        bundles.insert(bundle(5)).unwrap();
        assert!(
            bundles
                .insert(bundle(4))
                .unwrap_err()
                .to_string()
                .contains("rollback")
        );
        bundles.insert(bundle(5)).unwrap();
    }
}
