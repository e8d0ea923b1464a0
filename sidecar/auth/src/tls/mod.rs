//! TLS between workloads: rustls configurations that verify SPIFFE identities and nothing else.
//!
//! TLS 1.3 only, X25519MLKEM768 preferred, no early data, resumption where it is asked for. Peers are verified by SPIFFE ID, never by DNS
//! name; SNI is neither sent nor looked at. Certificates are verified at the time that the configuration's `time_provider`
//! tells, rustls' own unless it is replaced.

mod hkdf;
mod hmac;
mod key_exchange;
mod random;
mod sessions;
mod tickets;
mod trust;
mod verifier;

pub use sessions::Sessions;
pub use trust::Trust;
pub use verifier::refusal;

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self as crypto, sign};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, CommonState, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroize as _;

use crate::svid::{self, SvidError, VerifiedPeer};
use crate::{SpiffeId, der};
use tickets::Tickets;
use verifier::Verifier;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = crypto::default_provider();
    provider.cipher_suites = hkdf::cipher_suites();
    provider.kx_groups = vec![
        key_exchange::X25519MLKEM768,
        key_exchange::X25519,
        crypto::kx_group::SECP256R1,
    ];
    provider.secure_random = &random::Stocked;
    mesh_x25519::prepare();
    Arc::new(provider)
});

/// The cryptography of every connection.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Why a certificate and key cannot be used as an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The leaf is not an X.509-SVID.
    #[error("the certificate is not an X.509-SVID: {0}")]
    Svid(#[from] SvidError),
    /// The key cannot be used, or belongs to another certificate.
    #[error("the private key cannot be used with the certificate: {0}")]
    Key(rustls::Error),
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("TLS configuration: {0}")]
pub struct ConfigError(#[from] rustls::Error);

/// An X.509-SVID with its private key, parsed once.
pub struct Identity {
    key: Arc<CertifiedKey>,
    id: SpiffeId,
    not_before: i64,
    not_after: i64,
    serial: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Takes a chain (leaf first) and the leaf's key.
    ///
    /// # Errors
    /// The chain is larger than a peer would accept, the leaf breaks an SVID rule, or the key does not belong to it.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        mut key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        // The parsed key lives in the cryptography library, which wipes it; the bytes it was read from are wiped here.
        let signing = sign::any_supported_type(&key);
        key.zeroize();
        let signing = signing.map_err(IdentityError::Key)?;
        let leaf = chain.first().ok_or(SvidError::Missing)?;
        svid::check_size(&chain)?;
        let facts = der::facts(leaf).map_err(SvidError::Malformed)?;
        let id = svid::check_leaf(&facts)?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        let serial = facts.serial.to_vec();
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(IdentityError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            id,
            not_before,
            not_after,
            serial,
        })
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Start of validity, Unix seconds.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// End of validity, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Serial number, big-endian as encoded.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Presents the identity to a server outside the mesh, which is verified by other rules than this module's (RFC 8705).
    pub fn resolver(&self) -> Arc<dyn rustls::client::ResolvesClientCert> {
        Arc::new(Single(Arc::clone(&self.key)))
    }
}

/// Whether a server demands a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No connection without one.
    Required,
    /// Verified if presented.
    Optional,
}

#[derive(Debug)]
struct Single(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Single {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Single {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether connections can be resumed (RFC 8446 §2.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resumption {
    /// By tickets that end with a certificate of either side and with every change of the own SVID, bundles or revocations.
    On,
    /// Every handshake is a full one.
    #[default]
    Off,
}

/// A server that presents `identity` and lets in clients that `trust` believes. Nothing is resumed.
///
/// # Errors
/// The configuration is inconsistent.
pub fn server_config(
    identity: &Identity,
    trust: impl Into<Trust>,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    Ok(Arc::new(server(identity, trust.into(), clients, alpn)?))
}

/// As [`server_config`], of a server that demands a certificate and may give tickets. A resumed connection has to be asked
/// with [`Trust::peer_of`] who its peer is.
///
/// # Errors
/// The configuration is inconsistent, or there is no randomness for the key of the tickets.
pub fn mesh_server_config(
    identity: &Identity,
    trust: Trust,
    alpn: &[&[u8]],
    resumption: Resumption,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let mut config = server(identity, trust.clone(), ClientAuth::Required, alpn)?;
    if resumption == Resumption::On {
        give_tickets(&mut config, identity, trust, Arc::new(DefaultTimeProvider))?;
    }
    Ok(Arc::new(config))
}

fn server(
    identity: &Identity,
    trust: Trust,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Result<ServerConfig, ConfigError> {
    let verifier = Arc::new(Verifier {
        trust,
        expected: None,
        mandatory: clients == ClientAuth::Required,
    });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Single(Arc::clone(&identity.key))));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // What rustls would give by itself outlives the checks that this configuration stands for.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn give_tickets(
    config: &mut ServerConfig,
    identity: &Identity,
    trust: Trust,
    clock: Arc<dyn TimeProvider>,
) -> Result<(), ConfigError> {
    config.ticketer = Arc::new(Tickets::new(trust, identity.not_after, clock)?);
    // One is as much as the next connection needs.
    config.send_tls13_tickets = 1;
    Ok(())
}

/// A client that presents `identity` (if any) and accepts a server only as one of `expected`. Nothing is resumed.
///
/// # Errors
/// The configuration is inconsistent.
pub fn client_config(
    identity: Option<&Identity>,
    trust: impl Into<Trust>,
    expected: &[SpiffeId],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    Ok(Arc::new(client(identity, trust.into(), expected, alpn)?))
}

/// As [`client_config`], of a client of one server whose sessions are kept if `resumption` says so. A resumed connection has
/// to be asked with [`Trust::peer_of`] who its peer is, and [`Sessions::limit`] to be told when that one's certificate ends.
///
/// # Errors
/// The configuration is inconsistent.
pub fn mesh_client_config(
    identity: &Identity,
    trust: Trust,
    expected: &SpiffeId,
    alpn: &[&[u8]],
    resumption: Resumption,
) -> Result<(Arc<ClientConfig>, Option<Arc<Sessions>>), ConfigError> {
    let mut config = client(Some(identity), trust, std::slice::from_ref(expected), alpn)?;
    let sessions = (resumption == Resumption::On)
        .then(|| keep_sessions(&mut config, identity, Arc::new(DefaultTimeProvider)));
    Ok((Arc::new(config), sessions))
}

fn client(
    identity: Option<&Identity>,
    trust: Trust,
    expected: &[SpiffeId],
    alpn: &[&[u8]],
) -> Result<ClientConfig, ConfigError> {
    let verifier = Arc::new(Verifier {
        trust,
        expected: Some(expected.to_vec()),
        mandatory: true,
    });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(Single(Arc::clone(&identity.key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(config)
}

fn keep_sessions(
    config: &mut ClientConfig,
    identity: &Identity,
    clock: Arc<dyn TimeProvider>,
) -> Arc<Sessions> {
    let sessions = Arc::new(Sessions::new(identity.not_after, clock));
    config.resumption = rustls::client::Resumption::store(Arc::clone(&sessions) as _);
    sessions
}

/// The name to hand to rustls; it is neither sent nor verified.
#[allow(clippy::missing_panics_doc, clippy::expect_used)]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("peer.invalid").expect("a constant, valid DNS name")
}

/// The peer of a completed full handshake under a configuration of this module, which has verified its chain. Where
/// connections are resumed, [`Trust::peer_of`] is to be asked.
///
/// # Errors
/// The peer presented no certificate.
pub fn peer_of(connection: &CommonState) -> Result<VerifiedPeer, SvidError> {
    VerifiedPeer::of_verified_chain(connection.peer_certificates().ok_or(SvidError::Missing)?)
}

#[cfg(test)]
mod tests;
