//! TLS towards servers outside the mesh: TLS 1.3, verified by name against public or given roots.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is no list of certificates.
    #[error("not a list of certificates in PEM: {0}")]
    Pem(String),
    /// A certificate cannot be a root.
    #[error("certificate {index} cannot be a root: {reason}")]
    Root {
        /// Which, from 1.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The library refuses.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// A configuration that trusts the certificates of `pem` and nobody else, or, without it, the public authorities of
/// Mozilla's list.
///
/// # Errors
/// What is wrong with the text.
pub fn client_config(pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match pem {
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
        Some(pem) => given(pem)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn given(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (i, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|e| TlsError::Pem(e.to_string()))?;
        roots.add(certificate).map_err(|e| TlsError::Root {
            index: i + 1,
            reason: e.to_string(),
        })?;
    }
    if roots.is_empty() {
        return Err(TlsError::Pem("there is none in it".into()));
    }
    Ok(roots)
}
