//! Clients of a server-side proxy whose certificates its authority signed: as many as wanted, each known or new.
//!
//! What a client verifies is no part of what the server spends, so it takes whoever answers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};

use super::tls;
use crate::cpu::Sample;
use crate::statistics::median;

/// Who signs the clients' certificates.
#[derive(Clone)]
pub(crate) struct Authority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    id: String,
}

impl Authority {
    /// An authority from its certificate and key in PEM; its clients are `id`.
    pub(crate) fn read(certificate: &Path, key: &Path, id: &str) -> anyhow::Result<Self> {
        let read = |file: &Path| {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let key = KeyPair::from_pem(&read(key)?)?;
        Ok(Self {
            issuer: Arc::new(Issuer::from_ca_cert_pem(&read(certificate)?, key)?),
            id: id.to_owned(),
        })
    }

    /// A certificate that nobody has seen.
    fn certificate(&self) -> anyhow::Result<Arc<dyn ResolvesClientCert>> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.id.as_str().try_into()?)];
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::minutes(5);
        params.not_after = now + Duration::hours(2);
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)?;
        let certified = CertifiedKey::new(vec![leaf.der().clone()], key);
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }
}

/// What a client offers for the key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// What a sidecar offers: X25519MLKEM768 first.
    Hybrid,
    /// X25519 alone.
    X25519,
}

/// Who calls, in a row of handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Each time somebody whom the server has never seen.
    Stranger,
    /// One client again and again.
    Regular,
    /// The same, with a ticket.
    Resuming,
}

/// What handshakes took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// CPU of the server for each, microseconds.
    pub(crate) server_cpu_us: f64,
    /// From before the connection is made until the server's SETTINGS are there, median, microseconds.
    pub(crate) latency_us: f64,
}

/// Handshakes before those that are counted.
const WARM_UP: usize = 20;

/// One server-side proxy, and who may call it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) authority: Authority,
}

impl Server {
    fn config(&self, groups: Groups) -> anyhow::Result<ClientConfig> {
        let mut provider = CryptoProvider::clone(&mesh_auth::tls::provider());
        if groups == Groups::X25519 {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        }
        let provider = Arc::new(provider);
        let verifier = Arc::new(Anyone(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.authority.certificate()?);
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Clients that the server has never seen.
    fn strangers(&self, groups: Groups, count: usize) -> anyhow::Result<Vec<Client>> {
        let config = self.config(groups)?;
        let stranger = |_| {
            let mut config = config.clone();
            config.client_auth_cert_resolver = self.authority.certificate()?;
            Ok(self.client(config))
        };
        (0..count).map(stranger).collect()
    }

    /// One client that comes again and again.
    pub(crate) fn regular(&self, groups: Groups) -> anyhow::Result<Client> {
        Ok(self.client(self.config(groups)?))
    }

    /// The same, which resumes its session.
    fn resuming(&self, groups: Groups) -> anyhow::Result<Client> {
        let mut config = self.config(groups)?;
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(self.client(config))
    }

    /// Handshakes one after the other.
    pub(crate) async fn handshakes(
        &self,
        caller: Caller,
        groups: Groups,
        count: usize,
    ) -> anyhow::Result<Taken> {
        let row = self.row(caller, groups, count).await?;
        let before = Sample::take(&[self.pid])?;
        let latencies = row.call().await?;
        let spent = Sample::take(&[self.pid])?.since(&before);
        #[allow(clippy::cast_precision_loss)]
        let server_cpu_us = spent.nanoseconds as f64 / 1e3 / count as f64;
        Ok(Taken {
            server_cpu_us,
            latency_us: median(&latencies).unwrap_or(0.0),
        })
    }

    /// So many clients that are ready to call, of a server that is warm.
    pub(crate) async fn row(
        &self,
        caller: Caller,
        groups: Groups,
        count: usize,
    ) -> anyhow::Result<Row> {
        let group = match groups {
            Groups::Hybrid => NamedGroup::X25519MLKEM768,
            Groups::X25519 => NamedGroup::X25519,
        };
        let (regular, kind) = match caller {
            Caller::Resuming => (self.resuming(groups)?, HandshakeKind::Resumed),
            Caller::Stranger | Caller::Regular => (self.regular(groups)?, HandshakeKind::Full),
        };
        regular.call(HandshakeKind::Full, group).await?;
        for _ in 0..WARM_UP {
            regular.call(kind, group).await?;
        }
        let strangers = match caller {
            Caller::Stranger => self.strangers(groups, count)?,
            Caller::Regular | Caller::Resuming => Vec::new(),
        };
        Ok(Row {
            regular,
            strangers,
            count,
            kind,
            group,
        })
    }

    fn client(&self, config: ClientConfig) -> Client {
        Client(tls::Client {
            address: self.address,
            config: Arc::new(config),
            name: mesh_auth::tls::server_name(),
        })
    }
}

/// Clients that call one after the other.
pub(crate) struct Row {
    regular: Client,
    strangers: Vec<Client>,
    count: usize,
    kind: HandshakeKind,
    group: NamedGroup,
}

impl Row {
    /// Has each of them connect and close. Returns how long each took, microseconds.
    pub(crate) async fn call(&self) -> anyhow::Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(self.count);
        for at in 0..self.count {
            let client = self.strangers.get(at).unwrap_or(&self.regular);
            let start = Instant::now();
            client.call(self.kind, self.group).await?;
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies)
    }
}

/// One client.
pub(crate) struct Client(tls::Client);

impl Client {
    /// Connections that stay open and do nothing.
    pub(crate) async fn idle(&self, count: usize) -> anyhow::Result<Vec<tls::Idle>> {
        self.0.idle(count).await
    }

    /// Connects and closes; fails unless the handshake is of that kind, with that group.
    async fn call(&self, kind: HandshakeKind, group: NamedGroup) -> anyhow::Result<()> {
        let open = self.0.idle(1).await?;
        let Some(connection) = open.first().map(tls::Idle::session) else {
            bail!("no connection");
        };
        let seen = connection.handshake_kind();
        ensure!(seen == Some(kind), "a handshake was {seen:?}, not {kind:?}");
        let agreed = connection.negotiated_key_exchange_group();
        let agreed = agreed.map(rustls::crypto::SupportedKxGroup::name);
        ensure!(agreed == Some(group), "the key exchange was {agreed:?}");
        Ok(())
    }
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
