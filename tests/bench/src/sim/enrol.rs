//! The first certificate: a key, a certificate request, a join token.

use anyhow::Context;
use mesh_auth::tls::Identity;
use mesh_proto::mesh::IssueCertificateRequest;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::Target;

/// Makes a key, proves a workload with its join token, and returns the identity that was issued.
pub(crate) async fn enrol(target: &Target, token: &str) -> anyhow::Result<Identity> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    let mut request = Request::new(IssueCertificateRequest {
        csr,
        lifetime_seconds: 0,
    });
    let proof = MetadataValue::try_from(format!("Bearer {token}"))?;
    request.metadata_mut().insert("authorization", proof);
    let channel = target.connect(None).await?;
    let issued = CertificateServiceClient::new(channel)
        .issue_certificate(request)
        .await
        .context("no certificate was issued")?
        .into_inner();
    let chain = issued
        .certificate_chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Identity::new(chain, key).context("the issued certificate does not fit its key")
}
