//! The strict rules of `svid` as rustls asks for them. Names and addresses of the connection are not looked at.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::PROVIDER;
use super::Trust;
use crate::SpiffeId;
use crate::der;
use crate::svid::{SvidError, Usage};

/// Verifies the peer of a handshake, in either direction.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    /// `None`: any valid SVID (policy decides later).
    pub(super) expected: Option<Vec<SpiffeId>>,
    /// Whether a client must present a certificate.
    pub(super) mandatory: bool,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let peer = self
            .trust
            .verify(leaf, intermediates, usage, now)
            .map_err(tls_error)?;
        match &self.expected {
            Some(expected) if !expected.contains(peer.id()) => {
                Err(tls_error(SvidError::UnexpectedId {
                    found: peer.id().clone(),
                    expected: match expected.as_slice() {
                        [] => "nobody".into(),
                        ids => ids
                            .iter()
                            .map(|id| format!("'{id}'"))
                            .collect::<Vec<_>>()
                            .join(" or "),
                    },
                }))
            }
            _ => Ok(()),
        }
    }

    /// Possession of the leaf's key (RFC 8446 §4.4.3).
    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let keys = self.trust.chains.keys();
        // What the library would make of this scheme is a verification by that leaf's key, if it is one of P-256.
        let is_p256 = signature.scheme == SignatureScheme::ECDSA_NISTP256_SHA256;
        if is_p256 && let Some(good) = keys.verify(leaf, message, signature.signature()) {
            return if good {
                Ok(HandshakeSignatureValid::assertion())
            } else {
                Err(CertificateError::BadSignature.into())
            };
        }
        let valid = rustls::crypto::verify_tls13_signature(
            message,
            leaf,
            signature,
            &PROVIDER.signature_verification_algorithms,
        )?;
        if is_p256 {
            keys.found_good(leaf, || der::p256_point(der::facts(leaf).ok()?.public_key));
        }
        Ok(valid)
    }
}

fn tls_error(error: SvidError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(
        error,
    )))))
}

/// Carries a refusal through rustls, which shows what it carries with `Debug`: a log is to have the sentence.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Refusal(SvidError);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why our verifier refused the peer, from the error of a handshake: a `rustls::Error`, or the `std::io::Error` it comes
/// in. `None` when something else went wrong.
pub fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a SvidError> {
    let error: &'a (dyn Error + 'static) = match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref()?,
        None => error,
    };
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(carried))) => {
            carried.downcast_ref::<Refusal>().map(|refusal| &refusal.0)
        }
        _ => None,
    }
}

fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Usage::Server, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Usage::Client, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}
