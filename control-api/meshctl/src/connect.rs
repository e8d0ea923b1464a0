//! The way to the control API: its admin socket, or TLS with an operator certificate.
//!
//! The connection is opened here rather than inside the gRPC client, so that each thing that can be in the way (no such
//! socket, refused, a certificate from elsewhere, clocks) has its own words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::tls::{self, Identity};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;

use crate::cli::Global;
use crate::failure::Failure;

/// Where a control API's admin socket is looked for when nothing is said.
pub(crate) const DEFAULT_SOCKET: &str = "/run/postern/admin.sock";

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of the admin service.
pub(crate) type Admin = AdminServiceClient<Channel>;

/// A control API and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The admin socket.
    Socket(PathBuf),
    /// TLS with an operator certificate.
    Tls {
        /// `HOST:PORT`.
        address: String,
        /// Operator certificate chain.
        cert: PathBuf,
        /// Operator key.
        key: PathBuf,
        /// Trust bundle.
        ca: PathBuf,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "socket {}", path.display()),
            Self::Tls { address, .. } => write!(f, "{address} (TLS)"),
        }
    }
}

impl Target {
    /// What the options and the environment say.
    pub(crate) fn from_options(global: &Global) -> Result<Self, Failure> {
        let Some(address) = &global.control_api else {
            if let Some(socket) = &global.socket {
                return Ok(Self::Socket(socket.clone()));
            }
            if global.cert.is_some() || global.key.is_some() || global.ca.is_some() {
                return Err(Failure::usage(
                    "a certificate is given, but no control API to show it to",
                )
                .next("add `--control-api HOST:PORT`"));
            }
            return Ok(Self::Socket(DEFAULT_SOCKET.into()));
        };
        let port = address
            .rsplit_once(':')
            .and_then(|(_, p)| p.parse::<u16>().ok());
        if port.is_none() {
            return Err(Failure::usage(format!("`{address}` is no HOST:PORT"))
                .next("write it like `--control-api 127.0.0.1:15012`"));
        }
        let need = |file: &Option<PathBuf>, flag: &str| {
            file.clone().ok_or_else(|| {
                Failure::usage(format!("`--control-api` needs `{flag}` too"))
                    .why("the control API answers operators only, over mutual TLS")
                    .next("use operator.pem, operator.key and ca.pem, which `control-api init --operator-out DIR` writes, as --cert, --key and --ca")
            })
        };
        Ok(Self::Tls {
            address: address.clone(),
            cert: need(&global.cert, "--cert")?,
            key: need(&global.key, "--key")?,
            ca: need(&global.ca, "--ca")?,
        })
    }

    /// Opens the connection for administration.
    pub(crate) async fn connect(&self) -> Result<Admin, Failure> {
        self.channel().await.map(administration)
    }

    /// Opens the connection.
    pub(crate) async fn channel(&self) -> Result<Channel, Failure> {
        match self {
            Self::Socket(path) => dial_socket(path).await,
            Self::Tls {
                address,
                cert,
                key,
                ca,
            } => {
                let credentials = Credentials::load(cert, key, ca)?;
                connect_tls(address, &credentials).await
            }
        }
    }
}

/// An operator's certificate, key and trust bundle.
pub(crate) struct Credentials {
    /// Certificate and key, which belong together.
    pub(crate) identity: Identity,
    bundles: Arc<TrustBundles>,
}

impl Credentials {
    /// Reads the three files.
    pub(crate) fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, Failure> {
        let broken = |path: &Path, why: String| {
            Failure::problem(format!("cannot use {}", path.display()))
                .why(why)
                .command("control-api init --data-dir DIR --trust-domain NAME --operator-out OUT   # on the control API's machine")
                .next("make an operator certificate on the control API's machine: `control-api init --data-dir D --trust-domain TD --operator-out DIR`")
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| broken(cert, error.to_string()))?;
        if chain.is_empty() {
            return Err(broken(cert, "it holds no certificate".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| broken(key, e.to_string()))?;
        let identity =
            Identity::new(chain, private).map_err(|error| broken(cert, error.to_string()))?;
        let domain = TrustDomain::new(identity.id().trust_domain())
            .map_err(|error| broken(cert, error.to_string()))?;
        let pem = std::fs::read(ca).map_err(|error| broken(ca, error.to_string()))?;
        let bundle =
            TrustBundle::from_pem(domain, &pem).map_err(|error| broken(ca, error.to_string()))?;
        let mut bundles = TrustBundles::default();
        bundles
            .insert(bundle)
            .map_err(|error| broken(ca, error.to_string()))?;
        Ok(Self {
            identity,
            bundles: Arc::new(bundles),
        })
    }

    /// The identity that the control API must prove.
    pub(crate) fn control_api_id(&self) -> Result<SpiffeId, Failure> {
        let text = format!(
            "spiffe://{}/ns/postern-system/sa/control-api",
            self.identity.id().trust_domain()
        );
        SpiffeId::parse(&text).map_err(|error| {
            Failure::problem("the control API's identity cannot be named").why(error)
        })
    }
}

/// Connects to an admin socket.
pub(crate) async fn connect_socket(path: &Path) -> Result<Admin, Failure> {
    dial_socket(path).await.map(administration)
}

fn administration(channel: Channel) -> Admin {
    AdminServiceClient::new(channel).max_decoding_message_size(256 << 20)
}

async fn dial_socket(path: &Path) -> Result<Channel, Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::unreachable(format!("no control API at {}", path.display()))
            .command("control-api run --data-dir DIR --trust-domain NAME   # its socket is DIR/admin.sock");
        match error.kind() {
            io::ErrorKind::NotFound => failure
                .why("there is no such socket")
                .next("start one with `control-api run --data-dir D --trust-domain TD` and use `--socket D/admin.sock` (or POSTERN_SOCKET); over the network use `--control-api HOST:PORT`"),
            io::ErrorKind::PermissionDenied => failure
                .why("the socket belongs to another user")
                .command(format!("ls -l {}   # then run meshctl as that user", path.display()))
                .next("run meshctl as the control API's user, or use an operator certificate with `--control-api HOST:PORT`"),
            io::ErrorKind::ConnectionRefused => failure
                .why("the socket is there, but nobody listens: the control API has stopped")
                .next("start it again: `control-api run --data-dir D --trust-domain TD`"),
            _ => failure.why(error).next("see that the path is right and that the control API runs"),
        }
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    client(stream).await
}

async fn connect_tls(address: &str, credentials: &Credentials) -> Result<Channel, Failure> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")))
        .map_err(|error| {
            Failure::unreachable(format!("no control API at {address}"))
                .why(error)
                .command("ss -ltnp | grep control-api   # on its machine; nothing there: control-api run --data-dir DIR --trust-domain NAME")
                .next("see that `control-api run` is up there and that its port (15012 unless set) is open")
        })?;
    stream.set_nodelay(true).ok();
    let expected = credentials.control_api_id()?;
    let config = tls::client_config(
        Some(&credentials.identity),
        credentials.bundles.clone(),
        std::slice::from_ref(&expected),
        &[b"h2"],
    )
    .map_err(|error| Failure::problem("the operator certificate cannot be used").why(error))?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(tls::server_name(), stream);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS answer within 5 s")))
        .map_err(|error| {
            Failure::unreachable(format!("no trusted connection to {address}"))
                .why(format!("{error} (expected {expected})"))
                .command("date -u   # on both machines; when they agree, --ca is not this control API's ca.pem")
                .next("use the ca.pem of this control API as --ca, and see that both clocks are right (`date -u`)")
        })?;
    client(stream).await
}

/// A gRPC channel over one open connection.
async fn client<S>(stream: S) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    channel_over(stream, "http://control-api.postern.internal")
        .await
        .map_err(|error| Failure::unreachable("the control API hung up").why(error))
}

/// A gRPC channel over one open connection, whose requests name `origin`.
pub(crate) async fn channel_over<S>(stream: S, origin: &'static str) -> Result<Channel, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move {
            stream.map(TokioIo::new).ok_or_else(|| {
                io::Error::new(io::ErrorKind::ConnectionReset, "the connection ended")
            })
        }
    });
    tonic::transport::Endpoint::from_static(origin)
        .timeout(CALL_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| with_causes(&error))
}

/// An error and everything beneath it.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn target(arguments: &[&str]) -> Result<Target, Failure> {
        let all = ["meshctl", "status"].iter().chain(arguments);
        Target::from_options(&Cli::try_parse_from(all).expect("parses").global)
    }

    #[test]
    fn a_socket_is_the_default() {
        assert_eq!(
            target(&[]).expect("a target"),
            Target::Socket(DEFAULT_SOCKET.into())
        );
        assert_eq!(
            target(&["--socket", "/s"]).expect("a target"),
            Target::Socket("/s".into())
        );
    }

    #[test]
    fn an_address_needs_all_three_files() {
        let all = [
            "--control-api",
            "h:1",
            "--cert",
            "c",
            "--key",
            "k",
            "--ca",
            "a",
        ];
        assert!(matches!(target(&all), Ok(Target::Tls { .. })));
        for missing in [2, 4, 6] {
            let mut some = all.to_vec();
            some.drain(missing..missing + 2);
            let failure = target(&some).expect_err("one is missing");
            assert!(
                failure.summary().contains(all[missing]),
                "{}",
                failure.summary()
            );
        }
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        assert!(
            target(&[
                "--control-api",
                "h",
                "--cert",
                "c",
                "--key",
                "k",
                "--ca",
                "a"
            ])
            .is_err()
        );
    }
}
