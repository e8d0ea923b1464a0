//! Asking the control API for a certificate: one request, by one proof.

use std::sync::Arc;
use std::time::Duration;

use mesh_auth::bundle::TrustBundles;
use mesh_auth::tls::Identity;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use mesh_proto::mesh::{IssueCertificateRequest, IssueCertificateResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::Certificates;
use crate::control::connect::{ConnectError, status_text};
use crate::control::proof::Proof;

/// How long one request may take once connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a certificate request failed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Nothing to prove the identity with.
    #[error("no valid certificate to renew and no token: {0}")]
    NoProof(String),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The control API said no, or nothing.
    #[error("the control API refused to issue a certificate by {proof}: {reason}")]
    Refused {
        /// What was shown: `join token`, `service-account token` or `current certificate`.
        proof: &'static str,
        /// Its answer.
        reason: String,
        /// True when another proof may help.
        unauthenticated: bool,
    },
    /// What was issued cannot be used.
    #[error("an issued certificate cannot be used: {0}")]
    Unusable(String),
    /// Something in this process failed.
    #[error("{0}")]
    Internal(String),
}

impl Certificates {
    /// Asks for a certificate of `key`, as `identity` or by `token`.
    pub(super) async fn request(
        &self,
        key: &KeyPair,
        roots: &Arc<TrustBundles>,
        identity: Option<&Identity>,
        token: Option<&Proof>,
    ) -> Result<IssueCertificateResponse, CertificateError> {
        let csr = signing_request(key)?;
        let proof = token.map_or("current certificate", |token| token.kind);
        let channel = self
            .settings
            .target
            .connect(identity, Arc::clone(roots))
            .await?;
        let mut request = Request::new(IssueCertificateRequest {
            csr,
            lifetime_seconds: 0,
        });
        if let Some(token) = token {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.value.expose()))
                .map_err(|_| {
                    CertificateError::NoProof(format!("the file holds more than a {}", token.kind))
                })?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = CertificateServiceClient::new(channel);
        let refused = |reason, unauthenticated| CertificateError::Refused {
            proof,
            reason,
            unauthenticated,
        };
        let asked = self.clock.now();
        match tokio::time::timeout(REQUEST_TIMEOUT, client.issue_certificate(request)).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                self.measure_skew(asked, &response);
                Ok(response)
            }
            Ok(Err(status)) => {
                let unauthenticated = matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied
                );
                Err(refused(status_text(&status), unauthenticated))
            }
            Err(_) => Err(refused(
                format!("no answer within {REQUEST_TIMEOUT:?}"),
                false,
            )),
        }
    }

    /// Compares the clocks: the answer was made between `asked` and now.
    fn measure_skew(&self, asked: i64, response: &IssueCertificateResponse) {
        if response.now_unix_ms == 0 {
            return;
        }
        let there = response.now_unix_ms.div_euclid(1000);
        let now = self.clock.now();
        // Nothing is known about the way: a moment within it is no skew.
        let skew = if there < asked {
            asked - there
        } else {
            now.min(there) - there
        };
        self.publisher.set_clock_skew(skew);
        self.status.update(|view| view.clock_skew = Some(skew));
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_clock_skew_seconds").set(skew as f64);
    }
}

/// A certificate request that asks for nothing but a signature on the key: who we are is for the CA to say.
pub(crate) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(key)
        .map(|csr| csr.der().to_vec())
        .map_err(|e| CertificateError::Internal(format!("certificate request: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_for_no_name_and_no_extension() {
        use x509_parser::certification_request::X509CertificationRequest;
        use x509_parser::prelude::FromDer;
        let key = KeyPair::generate().expect("key");
        let der = signing_request(&key).expect("request");
        let (rest, csr) = X509CertificationRequest::from_der(&der).expect("parses");
        assert!(rest.is_empty());
        assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
        assert!(
            csr.requested_extensions()
                .is_none_or(|mut e| e.next().is_none())
        );
    }
}
