//! A workload that keeps something open through every sidecar of a fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::try_join_all;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{ECHO_PORT, PATIENCE, STREAM_PORT};

/// What is kept open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A tunnel of opaque bytes.
    Tunnel,
    /// The answer of a gRPC call, which does not end.
    Stream,
}

/// A workload without a sidecar, connected to many.
#[derive(Default)]
pub(crate) struct Caller {
    /// By sidecar.
    connections: Vec<SendRequest<Bytes>>,
    drivers: JoinSet<()>,
}

impl Caller {
    pub(super) async fn connect(
        &mut self,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> anyhow::Result<()> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(config)
            .connect(mesh_auth::tls::server_name(), tcp)
            .await?;
        let (send, connection) = h2::client::handshake(tls).await?;
        // Its end is the end of the streams on it, which is what is looked at.
        self.drivers.spawn(async move { drop(connection.await) });
        self.connections.push(send);
        Ok(())
    }

    /// Waits until every connection is closed from the other side; the times since `started`.
    pub(crate) async fn all_closed(self, started: Instant) -> anyhow::Result<Vec<Duration>> {
        // Handles keep nothing open; what is opened on them is somebody else's.
        let Self {
            connections,
            mut drivers,
        } = self;
        let count = connections.len();
        let mut times = Vec::with_capacity(count);
        let all = async {
            while let Some(ended) = drivers.join_next().await {
                ended.context("a watcher failed")?;
                times.push(started.elapsed());
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(done) => done?,
            Err(_) => bail!(
                "{} of {count} connections are still open",
                count - times.len()
            ),
        }
        drop(connections);
        Ok(times)
    }

    /// Opens one of a kind through every sidecar, and returns when bytes have come back through each.
    pub(crate) async fn open(&self, kind: Kind) -> anyhow::Result<Vec<Open>> {
        let all = self.connections.iter().enumerate().map(|(index, send)| {
            let send = send.clone();
            async move {
                tokio::time::timeout(PATIENCE, Open::begin(send, kind))
                    .await
                    .context("no answer")
                    .flatten()
                    .with_context(|| format!("{kind:?} through member-{index}"))
            }
        });
        try_join_all(all).await
    }
}

/// Something open through one sidecar.
pub(crate) struct Open {
    kind: Kind,
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Open {
    async fn begin(send: SendRequest<Bytes>, kind: Kind) -> anyhow::Result<Self> {
        let mut send = send.ready().await?;
        let request = match kind {
            Kind::Tunnel => Request::builder()
                .method(Method::CONNECT)
                .uri(format!("127.0.0.1:{ECHO_PORT}")),
            Kind::Stream => Request::builder()
                .method(Method::POST)
                .uri("http://member/bench.Bench/Watch")
                .header(mesh_auth::headers::PORT, STREAM_PORT.to_string())
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
        };
        let (response, send) = send.send_request(request.body(())?, false)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            bail!("answered with {}", response.status());
        }
        let mut open = Self {
            kind,
            send,
            receive: response.into_body(),
        };
        if kind == Kind::Tunnel {
            open.send.send_data(Bytes::from_static(b"first"), false)?;
        }
        let first = open.receive.data().await;
        if first.transpose()?.is_none_or(|data| data.is_empty()) {
            bail!("nothing came through");
        }
        Ok(open)
    }

    /// Waits until it is ended from the other side; says when, and with which word: the `grpc-message` of a stream that was
    /// ended with trailers, else `reset` or `end`.
    pub(crate) async fn ended(mut self) -> (Instant, String) {
        loop {
            match self.receive.data().await {
                Some(Ok(data)) => {
                    let _ = self.receive.flow_control().release_capacity(data.len());
                }
                Some(Err(_)) => return (Instant::now(), "reset".to_owned()),
                None => break,
            }
        }
        let trailers = self.receive.trailers().await.ok().flatten();
        let at = Instant::now();
        let message = trailers.as_ref().and_then(|t| t.get("grpc-message"));
        let word = message.and_then(|m| m.to_str().ok()).unwrap_or("end");
        (at, word.to_owned())
    }

    /// Whether bytes still come back through a tunnel. A stream is only asked whether it has ended.
    pub(crate) async fn is_alive(&mut self) -> bool {
        match self.kind {
            Kind::Tunnel => {
                let sent = self.send.send_data(Bytes::from_static(b"again"), false);
                let back = tokio::time::timeout(PATIENCE, self.receive.data()).await;
                sent.is_ok() && matches!(back, Ok(Some(Ok(_))))
            }
            Kind::Stream => {
                let more = tokio::time::timeout(Duration::ZERO, self.receive.data()).await;
                more.is_err()
            }
        }
    }
}

/// Waits until all are ended. Returns the times since `started`, and the words they were ended with.
pub(crate) async fn all_ended(
    open: Vec<Open>,
    started: Instant,
) -> anyhow::Result<(Vec<Duration>, Vec<String>)> {
    let count = open.len();
    let mut waiting: JoinSet<_> = open.into_iter().map(Open::ended).collect();
    let (mut times, mut words) = (Vec::new(), Vec::new());
    let all = async {
        while let Some(ended) = waiting.join_next().await {
            let (at, word) = ended.context("a watcher failed")?;
            times.push(at.saturating_duration_since(started));
            words.push(word);
        }
        anyhow::Ok(())
    };
    let outcome = tokio::time::timeout(PATIENCE, all).await;
    match outcome {
        Ok(done) => done?,
        Err(_) => bail!(
            "{} of {count} are still open after {PATIENCE:?}",
            count - times.len()
        ),
    }
    Ok((times, words))
}
