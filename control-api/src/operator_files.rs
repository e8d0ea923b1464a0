//! The operator's certificate, key and trust bundle, as files for `meshctl`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_auth::{Secret, SpiffeId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::ca::{self, Authorities};
use crate::files;

/// Lifetime of an operator's certificate.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// A directory with operator.pem, operator.key and ca.pem.
pub struct OperatorFiles(PathBuf);

impl OperatorFiles {
    /// In `directory`, which need not exist.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Makes a certificate and writes all three files.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn make(&self, authorities: &Authorities, now: i64) -> anyhow::Result<()> {
        let out = &self.0;
        files::make_dir(out)?;
        let domain = authorities.trust_domain();
        let user = std::env::var("USER").unwrap_or_default();
        let id = SpiffeId::parse(&format!("spiffe://{domain}/operator/{user}"))
            .or_else(|_| SpiffeId::parse(&format!("spiffe://{domain}/operator/admin")))?;
        let (chain, key) = authorities.signing().own_certificate(&id, LIFETIME, now)?;
        let chain: String = chain.iter().map(|c| ca::pem("CERTIFICATE", c)).collect();
        let key = Secret::new(ca::pem("PRIVATE KEY", key.secret_der()));
        files::write_secret(&out.join("operator.key"), key.expose().as_bytes())?;
        files::write(&out.join("operator.pem"), chain.as_bytes())?;
        files::write(&out.join("ca.pem"), authorities.bundle_pem().as_bytes())?;
        Ok(())
    }

    /// Brings the files up to date, where there are any: the bundle always, certificate and key if the signing root has
    /// changed. Files that the operator took away stay away.
    ///
    /// # Errors
    /// They cannot be made or written.
    pub fn refresh(&self, authorities: &Authorities, now: i64) -> anyhow::Result<()> {
        let certificate = self.0.join("operator.pem");
        if !certificate.exists() {
            return Ok(());
        }
        let pem = files::read(&certificate)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .unwrap_or_default();
        if authorities.signing().signed(&chain, now) {
            files::write(&self.0.join("ca.pem"), authorities.bundle_pem().as_bytes())?;
            return Ok(());
        }
        self.make(authorities, now)
    }
}
