//! Who calls: TLS connections with or without a verified certificate, and the Unix socket's user.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_auth::svid::VerifiedPeer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes going on at the same time.
const MAX_HANDSHAKES: usize = 256;

/// Who made a call.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Verified client certificate, over TLS.
    pub peer: Option<VerifiedPeer>,
    /// User id, over the Unix socket.
    pub uid: Option<u32>,
    /// Where from.
    pub address: String,
}

impl Caller {
    /// The caller of a request.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }
}

/// A connection with its caller.
pub struct Accepted<S> {
    io: S,
    caller: Caller,
}

impl<S> Connected for Accepted<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Accepts TLS connections with the configuration in force until `stop`.
pub fn tls(
    listener: TcpListener,
    config: Arc<ArcSwap<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Accepted<TlsStream<TcpStream>>>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let (sender, acceptor) = (sender.clone(), TlsAcceptor::from(config.load_full()));
            // Bounded by the handshake timeout and the number of permits.
            tokio::spawn(async move {
                let _permit = permit;
                let _ = stream.set_nodelay(true);
                let io =
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(io)) => io,
                        Ok(Err(error)) => {
                            tracing::info!(%address, %error, "TLS handshake failed");
                            return;
                        }
                        Err(_) => {
                            tracing::info!(%address, "TLS handshake timed out");
                            return;
                        }
                    };
                let peer = mesh_auth::tls::peer_of(io.get_ref().1).ok();
                let caller = Caller {
                    peer,
                    uid: None,
                    address: address.to_string(),
                };
                let _ = sender.send(Ok(Accepted { io, caller })).await;
            });
        }
    });
    receiver
}

/// Accepts connections on a Unix socket until `stop`.
pub fn unix(
    listener: UnixListener,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Accepted<UnixStream>>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((io, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let caller = Caller {
                peer: None,
                uid: io.peer_cred().ok().map(|c| c.uid()),
                address: "unix".into(),
            };
            if sender.send(Ok(Accepted { io, caller })).await.is_err() {
                return;
            }
        }
    });
    receiver
}
