//! Certificate requests (PKCS#10): the public key of one that asks for nothing else.

use rcgen::{CertificateSigningRequestParams, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

/// Largest certificate request, bytes. One with an RSA key of 8192 bits has about 2,200.
pub const MAX_REQUEST: usize = 16 << 10;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate request refused: {0}")]
pub struct RequestError(String);

/// The key of a request that proved possession of it and asked for nothing.
#[derive(Debug)]
pub struct RequestedKey {
    pub(super) info: SubjectPublicKeyInfo,
}

impl RequestedKey {
    /// Parses a request, DER.
    ///
    /// # Errors
    /// It is malformed, its key is weak or not proven, or it asks for a subject, an extension or anything else.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        let refuse = |problem: String| Err(RequestError(problem));
        if der.len() > MAX_REQUEST {
            return refuse(format!("has {} bytes, more than {MAX_REQUEST}", der.len()));
        }
        let (rest, request) = match X509CertificationRequest::from_der(der) {
            Ok(parsed) => parsed,
            Err(error) => return refuse(format!("not a PKCS#10 request in DER: {error}")),
        };
        if !rest.is_empty() {
            return refuse("bytes after the request".into());
        }
        let wanted = &request.certification_request_info;
        if wanted.subject.iter_rdn().next().is_some() {
            return refuse(format!(
                "it asks for the subject '{}': leave the subject empty, the identity comes from what the caller proved",
                wanted.subject.to_string().escape_debug()
            ));
        }
        if let Some(asked) = asked_for(&request) {
            return refuse(format!(
                "it asks for {asked}: send a request without extensions and attributes"
            ));
        }
        let info = strong_key(&request)?;
        // Verifies the self-signature. Its idea of the key's algorithm is taken from the signature's, and not used here.
        if let Err(error) =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        {
            return refuse(match error {
                rcgen::Error::InvalidCertificationRequestSignature => {
                    "its signature does not verify: the caller has not shown that it holds the key"
                        .into()
                }
                error => error.to_string(),
            });
        }
        Ok(Self { info })
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> [u8; 32] {
        let info = self.info.subject_public_key_info();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &info);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.as_ref());
        fingerprint
    }
}

/// What the request asks for beside a certificate on its key.
fn asked_for(request: &X509CertificationRequest<'_>) -> Option<String> {
    let mut asked = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        match attribute.parsed_attribute() {
            // An empty list of extensions asks for nothing.
            ParsedCriAttribute::ExtensionRequest(extensions) => asked.extend(
                extensions
                    .extensions
                    .iter()
                    .map(|e| extension_name(&e.oid.to_id_string())),
            ),
            // A word between caller and authority, no content of a certificate.
            ParsedCriAttribute::ChallengePassword(_) => {}
            ParsedCriAttribute::UnsupportedAttribute => {
                asked.push(format!("the attribute {}", attribute.oid.to_id_string()));
            }
        }
    }
    (!asked.is_empty()).then(|| asked.join(", "))
}

fn extension_name(oid: &str) -> String {
    let name = match oid {
        "2.5.29.17" => "subjectAltName",
        "2.5.29.15" => "keyUsage",
        "2.5.29.37" => "extendedKeyUsage",
        "2.5.29.19" => "basicConstraints",
        "2.5.29.14" => "subjectKeyIdentifier",
        "2.5.29.35" => "authorityKeyIdentifier",
        "2.5.29.30" => "nameConstraints",
        "2.5.29.31" => "cRLDistributionPoints",
        "2.5.29.32" => "certificatePolicies",
        other => return format!("the extension {other}"),
    };
    format!("{name} ({oid})")
}

fn strong_key(
    request: &X509CertificationRequest<'_>,
) -> Result<SubjectPublicKeyInfo, RequestError> {
    let key = &request.certification_request_info.subject_pki;
    let refuse = |problem: String| Err(RequestError(problem));
    const SUPPORTED: &str = "use ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 8192 bits";
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            // The modulus may carry a leading zero octet.
            let modulus = rsa.modulus.iter().skip_while(|b| **b == 0);
            let bits = modulus.count() * 8;
            if !RSA_BITS.contains(&bits) {
                return refuse(format!("its RSA key has {bits} bits: {SUPPORTED}"));
            }
        }
        Ok(PublicKey::EC(_)) => {}
        Ok(_) if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => {}
        Ok(_) | Err(_) => {
            return refuse(format!(
                "its key is of a kind that is not supported: {SUPPORTED}"
            ));
        }
    }
    let Ok(info) = SubjectPublicKeyInfo::from_der(key.raw) else {
        return refuse(format!(
            "its key is of a kind that is not supported: {SUPPORTED}"
        ));
    };
    let supported = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    // An encoding that we would write otherwise is one that somebody might read otherwise.
    if !supported.contains(&info.algorithm()) || info.subject_public_key_info() != key.raw {
        return refuse(format!(
            "its key is of a kind that is not supported: {SUPPORTED}"
        ));
    }
    Ok(info)
}

#[cfg(test)]
mod tests;
