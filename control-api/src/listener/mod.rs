//! Connections and who is at their other end: over TLS with or without a verified certificate, or over the Unix socket.

mod metrics;
mod stream;
mod tls;
mod unix;

pub use metrics::{Page, serve as serve_pages};
pub use stream::within_bounds;
pub use tls::{ServerIdentity, accept as accept_tls};
pub use unix::{accept as accept_unix, bind as bind_unix};

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use mesh_auth::svid::VerifiedPeer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::Status;
use tonic::transport::server::Connected;

use crate::clock::Clock;

/// Who made a call.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Verified client certificate, over TLS.
    pub peer: Option<VerifiedPeer>,
    /// Its chain ends at a root of another authority (`--workload-roots`) only: a workload at most, until its certificate ends.
    pub only_by_others: bool,
    /// User, over the Unix socket.
    pub uid: Option<u32>,
    /// Where from, over TLS.
    pub ip: Option<IpAddr>,
    /// Where from, for people.
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

    /// The verified peer. It was verified when the connection was made, which may be long ago.
    ///
    /// # Errors
    /// Its certificate has ended since.
    pub fn current_peer(&self, clock: &Clock) -> Result<Option<&VerifiedPeer>, Status> {
        match &self.peer {
            Some(peer) if peer.not_after() < clock.seconds() => {
                Err(Status::unauthenticated(format!(
                    "the certificate of '{}' has ended while the connection was open; connect with the current one",
                    peer.id()
                )))
            }
            peer => Ok(peer.as_ref()),
        }
    }
}

/// A connection with its caller.
pub struct Accepted<S> {
    io: S,
    caller: Caller,
    /// Count against limits of connections while it lives.
    _permits: Vec<OwnedSemaphorePermit>,
    /// When the connection ends, whatever happens on it: nobody holds one for ever without having said who he is.
    deadline: Option<Pin<Box<Sleep>>>,
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
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
