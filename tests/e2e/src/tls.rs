//! TLS peers that present what a test wants them to present.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
pub use rustls::HandshakeKind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};

/// A certificate with its key.
#[derive(Debug)]
pub struct Credential(CertificateDer<'static>, KeyPair);

impl Credential {
    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.0
    }

    /// The key, PKCS#8 in DER.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        self.1.serialize_der()
    }
}

/// Who signs.
pub type Authority = Issuer<'static, KeyPair>;

/// The mesh's own authority, from its data directory.
#[must_use]
pub fn mesh_authority(directory: &Path) -> Authority {
    let read = |name| std::fs::read_to_string(directory.join("control-api").join(name));
    let key = KeyPair::from_pem(&read("ca.key").expect("the key")).expect("a key");
    Issuer::from_ca_cert_pem(&read("ca.pem").expect("the certificate"), key).expect("an authority")
}

/// An authority nobody trusts.
#[must_use]
pub fn other_authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Issuer::new(params, KeyPair::generate().expect("a key"))
}

/// An authority for another trust domain, and its root certificate.
#[must_use]
pub fn root() -> (Authority, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a root");
    let der = certificate.der().to_vec();
    (Issuer::new(params, key), der)
}

/// An SVID for `uris` that ended `ended` ago (negative: ends in the future).
#[must_use]
pub fn credential(authority: &Authority, uris: &[&str], ended: Duration) -> Credential {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().expect("ASCII")))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.not_after = OffsetDateTime::now_utc() - ended;
    params.not_before = params.not_after - Duration::hours(2);
    let certificate = params.signed_by(&key, authority).expect("signed");
    Credential(certificate.der().clone(), key)
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client that resumes sessions as rustls does by itself.
#[derive(Debug)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// A client that presents `credential`, or nothing, and takes whoever answers.
    #[must_use]
    pub fn new(credential: Option<&Credential>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(Credential(certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                builder
                    .with_client_auth_cert(vec![certificate.clone()], key)
                    .expect("they belong together")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.enable_early_data = true;
        Self(Arc::new(config))
    }

    /// The certificate that a server proves itself with, DER.
    #[must_use]
    pub fn certificate_of(&self, address: SocketAddr) -> Vec<u8> {
        let name = ServerName::try_from("mesh").expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        let mut stream = super::http::connect(address);
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("a handshake");
        }
        connection.peer_certificates().expect("a chain")[0].to_vec()
    }

    /// Handshakes; the server's first byte of HTTP/2, proof that it took the certificate, and whether that was resumed.
    ///
    /// # Errors
    /// What the server said instead, usually an alert.
    pub fn connect(&self, address: SocketAddr) -> std::io::Result<(u8, HandshakeKind)> {
        let mut stream = self.open(address)?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok((byte[0], stream.conn.handshake_kind().expect("done")))
    }

    /// A connection that the client's preface of HTTP/2 was written to.
    ///
    /// # Errors
    /// What the server said instead, usually an alert.
    pub fn open(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from("mesh").expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        assert!(connection.early_data().is_none(), "early data is offered");
        let mut stream = StreamOwned::new(connection, super::http::connect(address));
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        Ok(stream)
    }
}

/// Handshakes with `credential` and returns the server's first byte of HTTP/2: proof that it took the certificate.
///
/// # Errors
/// What the server said instead, usually an alert.
pub fn first_byte(address: SocketAddr, credential: Option<&Credential>) -> std::io::Result<u8> {
    Client::new(credential)
        .connect(address)
        .map(|(byte, _)| byte)
}

/// Serves what `body` says at the time, over HTTPS with `credential`, for as long as the process runs; returns the port.
#[must_use]
pub fn serve_https(
    credential: &Credential,
    body: impl Fn() -> String + Send + Sync + 'static,
) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(credential.key().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![credential.0.clone()], key)
        .expect("they belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a server");
            // A client that does not believe the certificate goes away.
            let _ = answer(StreamOwned::new(connection, stream), &body());
        }
    });
    address
}

fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>, body: &str) -> std::io::Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}
