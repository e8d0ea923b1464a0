//! A root of our own, for a mesh without an authority yet.

use mesh_auth::{Secret, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::CaError;
use super::authority::{BACKDATE, Serial};

/// Validity of a self-made root.
const LIFETIME: Duration = Duration::days(10 * 365);

/// A root certificate and its key, PEM.
pub(super) fn make(domain: &TrustDomain, now: i64) -> Result<(String, Secret<String>), CaError> {
    let now = OffsetDateTime::from_unix_timestamp(now).map_err(|_| CaError::Expired)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, domain.as_str());
    params
        .distinguished_name
        .push(DnType::CommonName, "Postern mesh root");
    // X.509-SVID §4.2: a signing certificate's own identity is the trust domain.
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(Serial::random()?.as_bytes()));
    params.not_before = now - Duration::seconds(BACKDATE);
    params.not_after = now + LIFETIME;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Secret::new(key.serialize_pem())))
}
