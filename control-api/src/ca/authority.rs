//! The signing key and its chain: opened from the data directory, or from an operator's own files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::svid::{self, Usage};
use mesh_auth::tls::Identity;
use mesh_auth::{Secret, SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{CaError, RequestedKey, leaf, root};
use crate::files;
use crate::store::roots::{self, RootRecord};

pub use mesh_auth::revocation::BACKDATE;

/// A serial number: positive, 159 bits, random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial([u8; 20]);

impl Serial {
    /// A new one.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn random() -> Result<Self, CaError> {
        let mut bytes = [0; 20];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Randomness)?;
        // RFC 5280 §4.1.2.2: positive, at most 20 octets. A leading zero octet would have to be left out.
        bytes[0] &= 0x7f;
        bytes[0] |= u8::from(bytes[0] == 0);
        Ok(Self(bytes))
    }

    /// Big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Hexadecimal.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// What [`hex`] made.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then intermediates; the root is not included.
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
    /// What a peer needs between a leaf and the root.
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    /// What a peer needs between a leaf and the root before this one: that one's signature on this root's key, and so on.
    bridge: Vec<CertificateDer<'static>>,
    not_after: i64,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// Opens the authority in `dir`. With `own` (certificate chain and key files, PEM) the operator's is taken over into
    /// `dir`; without, and if there is none yet, a root is made. `root` is the SHA-256 (hexadecimal) of the root that peers
    /// trust; `None` before anybody does.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or wrong.
    pub fn open(
        dir: &Path,
        domain: &TrustDomain,
        own: Option<(&Path, &Path)>,
        root: Option<&str>,
        now: i64,
    ) -> Result<Self, CaError> {
        Self::open_named(dir, roots::FIRST, domain, own, root, now)
    }

    /// As [`Self::open`], from files of another name.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or wrong.
    pub fn open_named(
        dir: &Path,
        name: &str,
        domain: &TrustDomain,
        own: Option<(&Path, &Path)>,
        root: Option<&str>,
        now: i64,
    ) -> Result<Self, CaError> {
        let files = Files::named(dir, name);
        let source = match own {
            Some((certificate, key)) => Files {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            },
            None => {
                // Half an authority is what a crash of the first start leaves; later it is half a backup.
                if !files.both_exist(root.is_some())? {
                    let made = root::make(domain, None, now)?;
                    let key = Secret::new(made.key.expose().as_bytes().to_vec());
                    files.write(made.certificate.as_bytes(), &key)?;
                }
                files.clone()
            }
        };
        let authority = Self::load(&source.certificate, &source.key, domain, now)?;
        if root.is_some_and(|root| root != authority.root_sha256()) {
            return Err(content(
                &source.certificate,
                "leads to another root than the one that every sidecar trusts: use a certificate that leads to that one, or \
                 start with an empty data directory to change roots"
                    .into(),
            ));
        }
        if own.is_some() {
            files.write(
                &files::read(&source.certificate)?,
                &Secret::new(files::read(&source.key)?),
            )?;
        }
        Ok(authority)
    }

    /// Opens the authority of a record: its root is the recorded one, its bridge is sent along.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or wrong.
    pub fn load_named(
        dir: &Path,
        domain: &TrustDomain,
        record: &RootRecord,
        now: i64,
    ) -> Result<Self, CaError> {
        let authority =
            Self::open_named(dir, &record.files, domain, None, Some(&record.sha256), now)?;
        authority.with_bridge(&record.bridge)
    }

    /// With a recorded bridge.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn with_bridge(mut self, bridge: &[String]) -> Result<Self, CaError> {
        self.bridge = bridge
            .iter()
            .map(|text| unhex(text).map(CertificateDer::from))
            .collect::<Option<_>>()
            .ok_or(CaError::Bridge)?;
        Ok(self)
    }

    /// Makes the authority that is to follow `before`, and its files; returns their name as well.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn make_next(
        dir: &Path,
        domain: &TrustDomain,
        before: &Self,
        now: i64,
    ) -> Result<(Self, String), CaError> {
        let made = root::make(domain, Some((&before.issuer, before.not_after)), now)?;
        let der = CertificateDer::from_pem_slice(made.certificate.as_bytes())
            .map_err(|e| content(dir, format!("the root made is not PEM: {e}")))?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let name = format!("{}-{}", roots::FIRST, &hex(digest.as_ref())[..16]);
        let files = Files::named(dir, &name);
        let key = Secret::new(made.key.expose().as_bytes().to_vec());
        files.write(made.certificate.as_bytes(), &key)?;
        let mut next = Self::load(&files.certificate, &files.key, domain, now)?;
        next.bridge.extend(made.bridge);
        next.bridge.extend(before.intermediates.iter().cloned());
        // An operator's signing certificate may forbid another authority below it: then there is no bridge.
        if let Err(error) = next.prove_by(before, &files.certificate, now) {
            tracing::warn!(%error, "whoever misses the change of roots will not be able to follow it");
            next.bridge.clear();
        }
        Ok((next, name))
    }

    fn load(
        certificate: &Path,
        key: &Path,
        domain: &TrustDomain,
        now: i64,
    ) -> Result<Self, CaError> {
        let chain = CertificateDer::pem_slice_iter(&files::read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| content(certificate, format!("not PEM: {e}")))?;
        let (Some(signer), Some(root)) = (chain.first(), chain.last()) else {
            return Err(content(certificate, "no CERTIFICATE block in it".into()));
        };
        let key_pair = load_key(key)?;
        let (_, parsed) = X509Certificate::from_der(signer)
            .map_err(|e| content(certificate, format!("the first certificate: {e}")))?;
        if parsed.public_key().raw != key_pair.subject_public_key_info() {
            return Err(content(
                key,
                format!(
                    "does not belong to the first certificate of {}",
                    certificate.display()
                ),
            ));
        }
        // A leaf must end before everything above it does.
        let mut not_after = parsed.validity().not_after.timestamp();
        for above in &chain {
            let (_, above) = X509Certificate::from_der(above)
                .map_err(|e| content(certificate, e.to_string()))?;
            not_after = not_after.min(above.validity().not_after.timestamp());
        }
        let authority = Self {
            trust_domain: domain.clone(),
            issuer: Issuer::from_ca_cert_der(signer, key_pair)?,
            intermediates: chain[..chain.len() - 1].to_vec(),
            root: root.clone(),
            bridge: vec![],
            not_after,
        };
        authority.prove(certificate, now)?;
        Ok(authority)
    }

    /// Signs for itself and verifies the result as any peer would: a chain in the wrong order, an expired root, a name
    /// constraint or a wrong trust domain shows now and not on every connection.
    fn prove(&self, certificate: &Path, now: i64) -> Result<(), CaError> {
        self.prove_by(self, certificate, now)
    }

    /// The same, for a peer that trusts the root of `trusted` alone.
    fn prove_by(&self, trusted: &Self, certificate: &Path, now: i64) -> Result<(), CaError> {
        let wrong = |problem: &dyn std::fmt::Display| {
            content(
                certificate,
                format!("certificates signed with it would be refused: {problem}"),
            )
        };
        let bundle = trusted.bundle(0).map_err(|e| wrong(&e))?;
        let mut bundles = TrustBundles::default();
        bundles.insert(bundle).map_err(|e| wrong(&e))?;
        let id = SpiffeId::workload(&self.trust_domain, "postern-system", "proof")
            .map_err(|e| wrong(&e))?;
        let (chain, _) = self.own_certificate(&id, Duration::from_secs(60), now)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        svid::verify(&chain, Usage::Server, &bundles, at)
            .map(drop)
            .map_err(|e| wrong(&e))
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What a peer that trusts only the root before this one needs; empty: it cannot follow.
    pub fn bridge(&self) -> &[CertificateDer<'static>] {
        &self.bridge
    }

    /// Whether a certificate leads to this root, without any bridge.
    pub fn signed(&self, chain: &[CertificateDer<'_>], now: i64) -> bool {
        let mut bundles = TrustBundles::default();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        let bundle = self.bundle(0).ok().map(|bundle| bundles.insert(bundle));
        bundle.is_some() && svid::verify(chain, Usage::Client, &bundles, at).is_ok()
    }

    /// This root as a trust bundle.
    ///
    /// # Errors
    /// The root cannot be used as one.
    pub fn bundle(&self, sequence: u64) -> Result<TrustBundle, mesh_auth::bundle::BundleError> {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()], sequence)
    }

    /// SHA-256 of the root certificate, hexadecimal.
    pub fn root_sha256(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.root);
        hex(digest.as_ref())
    }

    /// End of validity of what it signs with, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Signs a requested key for `id`.
    ///
    /// # Errors
    /// The authority has expired, or signing failed.
    pub fn sign(
        &self,
        key: &RequestedKey,
        id: &SpiffeId,
        lifetime: Duration,
        serial: &Serial,
        now: i64,
    ) -> Result<Issued, CaError> {
        self.sign_key(&key.info, id, lifetime, serial, now)
    }

    /// An identity of our own: key made here, certificate signed here.
    ///
    /// # Errors
    /// Signing failed.
    pub fn identity(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: i64,
    ) -> Result<Identity, CaError> {
        let (chain, key) = self.own_certificate(id, lifetime, now)?;
        Ok(Identity::new(chain, key)?)
    }

    /// A certificate and key of our own.
    ///
    /// # Errors
    /// Signing failed.
    pub fn own_certificate(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: i64,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate()?;
        let issued = self.sign_key(&key, id, lifetime, &Serial::random()?, now)?;
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((issued.chain, der))
    }

    fn sign_key(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        serial: &Serial,
        now: i64,
    ) -> Result<Issued, CaError> {
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let not_after = now.saturating_add(lifetime).min(self.not_after);
        if not_after <= now {
            return Err(CaError::Expired);
        }
        let params = leaf::params(id, serial, now.saturating_sub(BACKDATE), not_after)?;
        let signed = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![signed.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        chain.extend(self.bridge.iter().cloned());
        Ok(Issued {
            chain,
            serial: serial.to_hex(),
            not_after,
        })
    }
}

impl Files {
    fn named(dir: &Path, name: &str) -> Self {
        Self {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        }
    }

    /// Whether there is an authority. With `must` there has to be one, whole.
    fn both_exist(&self, must: bool) -> Result<bool, CaError> {
        let (certificate, key) = (self.certificate.exists(), self.key.exists());
        if certificate && key {
            return Ok(true);
        }
        if must || certificate {
            let missing = if certificate {
                &self.key
            } else {
                &self.certificate
            };
            return Err(content(
                missing,
                "missing: restore it from a backup. A new authority would lock every sidecar out"
                    .into(),
            ));
        }
        Ok(false)
    }

    fn write(&self, certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<(), CaError> {
        // The key first: a crash in between leaves a key that nobody has a certificate of.
        files::write_secret(&self.key, key.expose())?;
        files::write(&self.certificate, certificate)?;
        Ok(())
    }
}

fn load_key(path: &Path) -> Result<KeyPair, CaError> {
    let pem = Secret::new(files::read(path)?);
    let text = std::str::from_utf8(pem.expose()).map_err(|_| content(path, "not PEM".into()))?;
    KeyPair::from_pem(text)
        .map_err(|e| content(path, format!("not a private key in PKCS#8 PEM: {e}")))
}

fn content(path: &Path, problem: String) -> CaError {
    CaError::Content {
        path: path.to_owned(),
        problem,
    }
}

/// DER in PEM armour.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests;
