//! Connections to the control API, as a sidecar makes them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper_util::rt::TokioIo;
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::tls::{self, Identity};
use mesh_auth::{SpiffeId, TrustDomain};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Time for TCP and TLS. Generous: in a storm everybody waits in one queue.
const CONNECT: Duration = Duration::from_secs(60);
/// Requests waiting in one channel; the default of 1,024 is memory that thousands of channels do not need.
const BUFFER: usize = 4;

/// A control API and how it is recognised.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    id: SpiffeId,
    roots: Arc<TrustBundles>,
}

impl Target {
    /// The control API of a trust domain, verified with its bundle in PEM.
    pub(crate) fn new(
        address: SocketAddr,
        trust_domain: &str,
        bundle: &[u8],
    ) -> anyhow::Result<Self> {
        let domain = TrustDomain::new(trust_domain)?;
        let id = SpiffeId::workload(&domain, "postern-system", "control-api")?;
        let mut roots = TrustBundles::default();
        roots.insert(TrustBundle::from_pem(domain, bundle)?)?;
        Ok(Self {
            address,
            id,
            roots: Arc::new(roots),
        })
    }

    /// A TLS client for the mesh port of the sidecar with this identity.
    pub(crate) fn peer_config(
        &self,
        identity: &Identity,
        expected: &SpiffeId,
    ) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        let expected = std::slice::from_ref(expected);
        Ok(tls::client_config(
            Some(identity),
            Arc::clone(&self.roots),
            expected,
            &[b"h2"],
        )?)
    }

    /// Opens a connection, with `identity` as client certificate if given.
    pub(super) async fn connect(&self, identity: Option<&Identity>) -> anyhow::Result<Channel> {
        let config = tls::client_config(
            identity,
            Arc::clone(&self.roots),
            std::slice::from_ref(&self.id),
            &[b"h2"],
        )?;
        let address = self.address;
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                let io = TlsConnector::from(config)
                    .connect(tls::server_name(), tcp)
                    .await?;
                io::Result::Ok(TokioIo::new(io))
            }
        });
        let origin = format!("https://{address}").parse()?;
        Endpoint::from_shared(format!("http://{address}"))?
            .origin(origin)
            .buffer_size(BUFFER)
            .connect_timeout(CONNECT)
            .connect_with_connector(connector)
            .await
            .context("no connection to the control API")
    }
}
