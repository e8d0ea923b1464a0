//! What the tests of this crate forge: authorities, leaves and bundles, right unless a test makes them wrong.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::TrustDomain;
use crate::bundle::{TrustBundle, TrustBundles};

/// The time at which the forged certificates are valid, Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;
pub(crate) type Change = fn(&mut CertificateParams);

pub(crate) fn at(offset: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(NOW.cast_signed() + offset).unwrap()
}

pub(crate) fn unix(offset: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.checked_add_signed(offset).unwrap()))
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

pub(crate) fn extension(oid: &[u64], critical: bool, content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

/// The value of a subjectAltName extension, from tags and contents of its names.
pub(crate) fn san(names: &[(u8, &[u8])]) -> Vec<u8> {
    let names: Vec<u8> = names
        .iter()
        .flat_map(|(tag, content)| tlv(*tag, content))
        .collect();
    tlv(0x30, &names)
}

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        length @ 0..0x80 => der.push(length.try_into().unwrap()),
        length @ 0x80..0x100 => der.extend([0x81, length.try_into().unwrap()]),
        length => {
            der.push(0x82);
            der.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    der.extend(content);
    der
}

pub(crate) fn signer_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = name(common_name);
    params.not_before = at(-10_000);
    params.not_after = at(1_000_000);
    params
}

pub(crate) fn root(params: CertificateParams) -> Issuer {
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn intermediate(params: CertificateParams, issuer: &Issuer) -> Issuer {
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
}

/// A root of a trust domain.
pub(crate) fn authority(domain: &str) -> Issuer {
    let mut params = signer_params(domain);
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    root(params)
}

/// A leaf that keeps every rule.
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

pub(crate) fn sign(params: &CertificateParams, issuer: &Issuer) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().der().clone()
}

pub(crate) fn good_leaf() -> CertificateDer<'static> {
    sign(&leaf_params("spiffe://td/ns/a/sa/b"), &authority("td"))
}

pub(crate) fn bundle(domain: &str, roots: &[&Issuer], sequence: u64) -> TrustBundle {
    let roots = roots.iter().map(|root| root.der().clone()).collect();
    TrustBundle::new(TrustDomain::new(domain).unwrap(), roots, sequence).unwrap()
}

pub(crate) fn bundles(authorities: &[(&str, &Issuer)]) -> TrustBundles {
    let mut bundles = TrustBundles::default();
    for (domain, authority) in authorities {
        bundles.insert(bundle(domain, &[authority], 1)).unwrap();
    }
    bundles
}
