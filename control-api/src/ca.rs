//! The certificate authority: signs SVIDs for identities that were proven.
//!
//! Of a request only the public key is used. The certificate is built from scratch, so that nothing a caller asks for
//! can get into it; a request that asks for anything is refused with the reason.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_auth::bundle::TrustBundle;
use mesh_auth::tls::{Identity, IdentityError};
use mesh_auth::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;

/// How far certificates are backdated: clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// Validity of a self-made root.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Largest certificate request, bytes.
pub const MAX_CSR: usize = 16 * 1024;

/// Why the authority cannot be opened or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the authority cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A file of the authority does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The request asks for what it may not, or is malformed.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// The signed certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

/// The authority of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    not_after: i64,
}

impl Authority {
    /// Opens the authority in `dir`, from the operator's files if given, or makes one.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or wrong.
    pub fn open(
        dir: &Path,
        trust_domain: TrustDomain,
        own: Option<(&Path, &Path)>,
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if let Some((own_certificate, own_key)) = own {
            return Self::load(own_certificate, own_key, trust_domain);
        }
        match (certificate.exists(), key.exists()) {
            (true, true) => {}
            (false, false) => make_root(&certificate, &key, &trust_domain, now)?,
            (present, _) => {
                return Err(CaError::Content {
                    path: if present { key } else { certificate },
                    problem: "missing, while its counterpart exists: restore it from a backup; a new authority would \
                              lock every sidecar out"
                        .into(),
                });
            }
        }
        Self::load(&certificate, &key, trust_domain)
    }

    fn load(certificate: &Path, key: &Path, trust_domain: TrustDomain) -> Result<Self, CaError> {
        let wrong = |path: &Path, problem: String| CaError::Content {
            path: path.to_owned(),
            problem,
        };
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| wrong(certificate, format!("not PEM: {e}")))?;
        let (Some(signer), Some(root)) = (chain.first(), chain.last()) else {
            return Err(wrong(certificate, "no CERTIFICATE block in it".into()));
        };
        TrustBundle::new(trust_domain.clone(), vec![root.clone()], 0)
            .map_err(|e| wrong(certificate, e.to_string()))?;
        let pem = read(key)?;
        let text = std::str::from_utf8(&pem).map_err(|_| wrong(key, "not PEM".into()))?;
        let key_pair =
            KeyPair::from_pem(text).map_err(|e| wrong(key, format!("not a private key: {e}")))?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(signer)
            .map_err(|e| wrong(certificate, e.to_string()))?;
        if parsed.public_key().raw != key_pair.subject_public_key_info() {
            return Err(wrong(
                key,
                format!("does not belong to {}", certificate.display()),
            ));
        }
        let not_after = parsed.validity().not_after.timestamp();
        Ok(Self {
            trust_domain,
            issuer: Issuer::from_ca_cert_der(signer, key_pair)?,
            intermediates: if chain.len() > 1 {
                chain[..chain.len() - 1].to_vec()
            } else {
                vec![]
            },
            root: root.clone(),
            not_after,
        })
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// End of validity of the signing certificate, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The root, PEM.
    pub fn bundle_pem(&self) -> String {
        pem("CERTIFICATE", &self.root)
    }

    /// Signs the key of a request (PKCS#10, DER) for `id`.
    ///
    /// # Errors
    /// The request is malformed or asks for anything.
    pub fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, CaError> {
        let refuse = |problem: String| CaError::Request(problem);
        if csr.len() > MAX_CSR {
            return Err(refuse(format!("larger than {MAX_CSR} bytes")));
        }
        let (rest, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(csr)
                .map_err(|e| refuse(format!("not a PKCS#10 request: {e}")))?;
        if !rest.is_empty() {
            return Err(refuse("bytes after the request".into()));
        }
        let info = &parsed.certification_request_info;
        if info.subject.iter_rdn().next().is_some() {
            return Err(refuse(
                "it names a subject; leave the subject empty, identities come from what the caller proved".into(),
            ));
        }
        if let Some(attribute) = info.iter_attributes().next() {
            let asked = match attribute.parsed_attribute() {
                x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(request) => {
                    request
                        .extensions
                        .iter()
                        .map(|e| extension_name(&e.oid.to_id_string()))
                        .collect::<Vec<_>>()
                        .join(", ")
                }
                _ => attribute.oid.to_id_string(),
            };
            return Err(refuse(format!(
                "it asks for {asked}; send a request without extensions and attributes"
            )));
        }
        // Checks the self-signature with the request's own key, of a type that rustls can use.
        let request = CertificateSigningRequestParams::from_der(
            &CertificateSigningRequestDer::from(csr.to_vec()),
        )
        .map_err(|e| refuse(e.to_string()))?;
        self.sign_key(&request.public_key, id, lifetime, now)
    }

    /// An identity of our own: key made here, certificate signed here.
    ///
    /// # Errors
    /// Signing failed.
    pub fn identity(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Identity, CaError> {
        let (chain, key) = self.own_certificate(id, lifetime, now)?;
        Ok(Identity::new(chain, key)?)
    }

    /// A certificate and key of our own, for files.
    ///
    /// # Errors
    /// Signing failed.
    pub fn own_certificate(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate()?;
        let issued = self.sign_key(&key, id, lifetime, now)?;
        let der = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| CaError::Request(e.to_string()))?;
        Ok((issued.chain, der))
    }

    fn sign_key(
        &self,
        key: &impl rcgen::PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, self.trust_domain.as_str());
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = now - BACKDATE;
        let wanted = (now + lifetime).unix_timestamp();
        let not_after = wanted.min(self.not_after);
        params.not_after = OffsetDateTime::from_unix_timestamp(not_after).unwrap_or(now);
        let mut serial = [0u8; 20];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Request("no randomness".into()))?;
        // RFC 5280 §4.1.2.2: positive, at most 20 octets.
        serial[0] = (serial[0] & 0x7f) | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let leaf = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued {
            chain,
            serial: serial.iter().map(|b| format!("{b:02x}")).collect(),
            not_after,
        })
    }
}

fn extension_name(oid: &str) -> String {
    match oid {
        "2.5.29.17" => "subjectAltName".into(),
        "2.5.29.19" => "basicConstraints".into(),
        "2.5.29.15" => "keyUsage".into(),
        "2.5.29.37" => "extendedKeyUsage".into(),
        "2.5.29.30" => "nameConstraints".into(),
        other => other.into(),
    }
}

fn make_root(
    certificate: &Path,
    key: &Path,
    domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<(), CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, domain.as_str());
    params
        .distinguished_name
        .push(DnType::CommonName, "Postern mesh root");
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://{domain}").as_str().try_into()?,
    )];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_LIFETIME;
    let pair = KeyPair::generate()?;
    let root = params.self_signed(&pair)?;
    write_secret(key, pair.serialize_pem().as_bytes())?;
    write_file(certificate, root.pem().as_bytes(), 0o644)
}

/// PEM text of some DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    fs::read(path).map_err(|error| CaError::File {
        path: path.to_owned(),
        error,
    })
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// Names the file.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), CaError> {
    write_file(path, content, 0o600)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// Names the file.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), CaError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| CaError::File {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_auth::bundle::TrustBundles;
    use mesh_auth::svid::{Usage, verify};
    use rcgen::CustomExtension;
    use rustls_pki_types::UnixTime;

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("td").unwrap();
        let authority =
            Authority::open(dir.path(), domain, None, OffsetDateTime::now_utc()).unwrap();
        (dir, authority)
    }

    fn request(change: fn(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_signed_certificate_is_an_svid_of_the_proven_identity_and_survives_a_restart() {
        let (dir, authority) = authority();
        let id = SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap();
        let now = OffsetDateTime::now_utc();
        let issued = authority
            .sign(&request(|_| ()), &id, Duration::from_secs(3600), now)
            .unwrap();
        let again =
            Authority::open(dir.path(), TrustDomain::new("td").unwrap(), None, now).unwrap();
        assert_eq!(again.root(), authority.root());
        let mut bundles = TrustBundles::default();
        bundles
            .insert(
                TrustBundle::new(
                    TrustDomain::new("td").unwrap(),
                    vec![again.root().clone()],
                    0,
                )
                .unwrap(),
            )
            .unwrap();
        let peer = verify(&issued.chain, Usage::Client, &bundles, UnixTime::now()).unwrap();
        assert_eq!(peer.id(), &id);
        assert_eq!(peer.not_before(), now.unix_timestamp() - 300);
        assert_eq!(peer.not_after(), now.unix_timestamp() + 3600);
    }

    #[test]
    fn a_request_that_asks_for_anything_is_refused_with_the_reason() {
        let (_dir, authority) = authority();
        let id = SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap();
        type Change = fn(&mut CertificateParams);
        let cases: &[(Change, &str)] = &[
            (
                |p| p.subject_alt_names = vec![SanType::URI("spiffe://td/x".try_into().unwrap())],
                "subjectAltName",
            ),
            (
                |p| p.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())],
                "subjectAltName",
            ),
            (
                |p| p.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())],
                "subjectAltName",
            ),
            (
                |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                "basicConstraints",
            ),
            (
                |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign],
                "keyUsage",
            ),
            (
                |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
                "extendedKeyUsage",
            ),
            (
                |p| {
                    p.custom_extensions =
                        vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])]
                },
                "1.2.3",
            ),
            (
                |p| p.distinguished_name.push(DnType::CommonName, "admin"),
                "subject",
            ),
        ];
        for (change, expected) in cases {
            let error = authority
                .sign(
                    &request(*change),
                    &id,
                    Duration::from_secs(60),
                    OffsetDateTime::now_utc(),
                )
                .expect_err(expected)
                .to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let mut broken = request(|_| ());
        let last = broken.len() - 1;
        broken[last] ^= 1;
        for bad in [broken, vec![], vec![0x30; 50], vec![0; MAX_CSR + 1]] {
            assert!(
                authority
                    .sign(
                        &bad,
                        &id,
                        Duration::from_secs(60),
                        OffsetDateTime::now_utc()
                    )
                    .is_err()
            );
        }
    }

    #[test]
    fn half_an_authority_is_not_replaced() {
        let (dir, _) = authority();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Authority::open(
            dir.path(),
            TrustDomain::new("td").unwrap(),
            None,
            OffsetDateTime::now_utc(),
        )
        .err()
        .unwrap();
        assert!(
            error.to_string().contains("ca.key") && error.to_string().contains("backup"),
            "{error}"
        );
    }
}
