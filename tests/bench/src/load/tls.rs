//! Mutual TLS connections straight to a server-side proxy: handshakes, and connections that stay idle.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client of a server-side proxy: its certificate, and how it recognises the server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Client {
    async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&self.config))
            .connect(self.name.clone(), tcp)
            .await
            .context("the handshake failed")
    }

    /// Connections that stay open and do nothing.
    pub(crate) async fn idle(&self, count: usize) -> anyhow::Result<Vec<Idle>> {
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            idle.push(Idle::open(self).await?);
        }
        Ok(idle)
    }
}

/// An HTTP/2 connection over mutual TLS without streams.
pub(crate) struct Idle {
    stream: TlsStream<TcpStream>,
}

/// The client's preface (RFC 9113 §3.4) with empty SETTINGS, and the acknowledgement of the server's.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const ACKNOWLEDGED: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
const SETTINGS: u8 = 4;

impl Idle {
    /// What was agreed on.
    pub(crate) fn session(&self) -> &rustls::ClientConnection {
        self.stream.get_ref().1
    }

    async fn open(client: &Client) -> anyhow::Result<Self> {
        let mut stream = client.connect().await?;
        stream.write_all(PREFACE).await?;
        // The server's SETTINGS show that it took the client's certificate.
        let mut head = [0; 9];
        stream
            .read_exact(&mut head)
            .await
            .context("the server did not answer the HTTP/2 preface")?;
        if head[3] != SETTINGS {
            bail!("the server began with a frame of type {}", head[3]);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        stream.write_all(ACKNOWLEDGED).await?;
        Ok(Self { stream })
    }
}
