//! Where a socket is opened: this process's network, or a workload's network namespace.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A network to open sockets in.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The one this process is in.
    Here,
    /// A network namespace, which exists as long as something holds it open.
    Namespace(Arc<OwnedFd>),
}

impl Place {
    /// A path that other programs of the same user can enter the namespace by; `None` for this process's own.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Here => None,
            Self::Namespace(fd) => {
                Some(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into())
            }
        }
    }

    /// Opens a connection.
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s");
        let stream = match self {
            Self::Here => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
                .await
                .unwrap_or_else(|_| Err(timed_out()))?,
            Self::Namespace(fd) => {
                let stream = enter(fd.clone(), move || {
                    StdStream::connect_timeout(&address, CONNECT_TIMEOUT)
                })
                .await?;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Does something on a thread that is in the namespace. A socket stays in the namespace it was made in.
async fn enter<T: Send + 'static>(
    namespace: Arc<OwnedFd>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("in-namespace".to_owned())
        .spawn(move || {
            let entered =
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let _ = send.send(entered.map_err(io::Error::from).and_then(|()| work()));
        })?;
    receive
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace was lost")))
}
