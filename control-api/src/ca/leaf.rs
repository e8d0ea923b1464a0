//! The shape of every certificate that is signed here: an X.509-SVID and nothing more.

use mesh_auth::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

use super::CaError;
use super::authority::Serial;

/// The parameters of a leaf: one URI name, end entity, signing only, both sides of TLS.
pub(super) fn params(
    id: &SpiffeId,
    serial: &Serial,
    not_before: i64,
    not_after: i64,
) -> Result<CertificateParams, CaError> {
    let date = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::Expired);
    let mut params = CertificateParams::default();
    // No subject: the alternative name is then critical, and there is no second place for an identity.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    Ok(params)
}
