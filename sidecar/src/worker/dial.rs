//! Sockets: listeners shared by the workers, and outgoing connections that capture leaves alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Backlog of every listener.
const BACKLOG: i32 = 4096;

/// A destination that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The connection was refused or failed.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Destination.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// Nobody answered in time.
    #[error("cannot connect to {address}: no answer within {timeout:?}")]
    Timeout {
        /// Destination.
        address: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Opens outgoing connections with the sidecar's mark, which the capture rules let pass.
#[derive(Debug, Clone, Copy)]
pub struct Dialer {
    /// Mark on sockets; `None` when capture tells the sidecar by its user, or there is no capture.
    pub mark: Option<u32>,
    /// How long a connection attempt may take.
    pub timeout: Duration,
}

impl Dialer {
    /// Connects to `address`.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(&self, address: SocketAddr) -> Result<TcpStream, DialError> {
        let attempt = async {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            if let Some(mark) = self.mark {
                SockRef::from(&socket).set_mark(mark)?;
            }
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(DialError::Connect { address, error }),
            Err(_) => Err(DialError::Timeout {
                address,
                timeout: self.timeout,
            }),
        }
    }
}

/// Opens one listening socket per worker on `address`; with port 0 they share the port that the first one gets.
///
/// # Errors
/// The address cannot be bound.
pub fn listen(
    address: SocketAddr,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let mut bound = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = bind(bound)?;
        bound = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((bound, listeners))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a captured connection was going, before it was redirected. `None` when it was not redirected.
pub fn original_destination(stream: &impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = socket.local_addr().ok()?.as_socket()?;
    // A dual-stack listener sees IPv4 connections with mapped addresses; their original destination is an IPv4 one.
    let v4 = match local.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    let address = if v4 {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    address.ok()?.as_socket().map(canonical)
}

/// IPv4-mapped addresses as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The unspecified address as the loopback address of its family: what to dial to reach one's own listener.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

/// True if a socket may be given a mark (CAP_NET_ADMIN).
pub fn may_mark(mark: u32) -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
        .and_then(|s| s.set_mark(mark))
        .is_ok()
}
