//! Connections to the control API: TCP, TLS 1.3 with the API's SPIFFE ID as the only name that counts, HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_auth::SpiffeId;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::tls::{self, Identity};
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long name resolution, TCP and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A control API that answers no ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server may send ahead of our reading it, per connection.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Where the control API is and how it is recognised.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// The identity it must prove.
    pub id: SpiffeId,
    /// Mark on the socket, which the capture rules let pass; `None` where there is no need or no permission.
    pub mark: Option<u32>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `host:port`.
    #[error("control API address '{0}' is not HOST:PORT")]
    Address(String),
    /// No TLS context could be made.
    #[error("TLS to the control API cannot be set up: {0}")]
    Tls(String),
    /// Nobody there, or not the one expected.
    #[error("cannot connect to the control API at {address}: {reason}")]
    Connect {
        /// The address.
        address: String,
        /// All causes, outermost first.
        reason: String,
    },
}

impl Target {
    /// Opens a connection, with `identity` as client certificate if given.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        identity: Option<&Identity>,
        roots: Arc<TrustBundles>,
    ) -> Result<Channel, ConnectError> {
        let config = tls::client_config(identity, roots, std::slice::from_ref(&self.id), &[b"h2"])
            .map_err(|e| ConnectError::Tls(e.to_string()))?;
        let origin = Uri::try_from(format!("https://{}", self.address))
            .map_err(|_| ConnectError::Address(self.address.clone()))?;
        // TLS is the connector's business; what the server sees as its origin is https all the same.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|_| ConnectError::Address(self.address.clone()))?
            .origin(origin)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let target = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (target, config) = (target.clone(), Arc::clone(&config));
            async move { target.open(config).await.map(TokioIo::new) }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| ConnectError::Connect {
                address: self.address.clone(),
                reason: causes(&error),
            })
    }

    async fn open(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let attempt = async {
            let tcp = self.dial().await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(config)
                .connect(tls::server_name(), tcp)
                .await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, attempt)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    }

    /// Tries every address of the name in turn.
    async fn dial(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host(&self.address).await? {
            match self.dial_address(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_address(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(address).await
    }
}

/// An error with all its causes in one line; tonic's own text is only `transport error`.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A gRPC status as people read it.
pub fn status_text(status: &tonic::Status) -> String {
    let message = if status.message().is_empty() {
        std::error::Error::source(status).map_or_else(String::new, causes)
    } else {
        status.message().to_owned()
    };
    let code = status.code().description();
    if message.is_empty() {
        code.to_owned()
    } else {
        format!("{code}: {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: middle")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("middle")]
        struct Middle(#[source] io::Error);
        let inner = io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        assert_eq!(causes(&Outer(Middle(inner))), "outer: middle: refused");
    }
}
