//! A root of our own: for a mesh without an authority yet, and for one that changes roots.

use mesh_auth::{Secret, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::CaError;
use super::authority::{BACKDATE, Serial};

/// Validity of a self-made root.
const LIFETIME: Duration = Duration::days(10 * 365);

/// A self-made root.
pub(super) struct Root {
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    pub(super) key: Secret<String>,
    /// The same name and key, signed by another authority.
    pub(super) bridge: Option<CertificateDer<'static>>,
}

/// Makes a root. `before` is the authority that it is to follow: whoever trusts that one follows the bridge. It ends with
/// `before`, at `end`.
pub(super) fn make(
    domain: &TrustDomain,
    before: Option<(&Issuer<'static, KeyPair>, i64)>,
    now: i64,
) -> Result<Root, CaError> {
    let date = |at| OffsetDateTime::from_unix_timestamp(at).map_err(|_| CaError::Expired);
    let key = KeyPair::generate()?;
    let serial = Serial::random()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, domain.as_str());
    // Two roots of one name are told apart by their keys; people tell them apart by this.
    let name = match before {
        None => "Postern mesh root".to_owned(),
        Some(_) => format!("Postern mesh root {}", &serial.to_hex()[..8]),
    };
    params.distinguished_name.push(DnType::CommonName, name);
    // X.509-SVID §4.2: a signing certificate's own identity is the trust domain.
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = date(now - BACKDATE)?;
    params.not_after = date(now)? + LIFETIME;
    let certificate = params.self_signed(&key)?;
    let bridge = match before {
        None => None,
        Some((issuer, end)) => {
            params.serial_number = Some(SerialNumber::from_slice(Serial::random()?.as_bytes()));
            params.use_authority_key_identifier_extension = true;
            params.not_after = params.not_after.min(date(end)?);
            Some(params.signed_by(&key, issuer)?.der().clone())
        }
    };
    Ok(Root {
        certificate: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
        bridge,
    })
}
