//! The capture self-check: proves that the workload's traffic really reaches the sidecar.
//!
//! A connection without the sidecar's mark is opened to an address that exists nowhere (RFC 5737, RFC 3849). If capture
//! works it lands on our own outbound listener, which answers with a number that only this process knows.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Both ends of the self-check.
#[derive(Debug)]
pub struct Probe {
    destinations: [SocketAddr; 2],
    nonce: [u8; 16],
}

impl Probe {
    /// A probe that answers with `nonce`.
    pub fn new(destinations: [SocketAddr; 2], nonce: [u8; 16]) -> Self {
        Self {
            destinations,
            nonce,
        }
    }

    /// True when a captured connection is the self-check.
    pub fn is_for(&self, destination: SocketAddr) -> bool {
        self.destinations.contains(&destination)
    }

    /// Answers the self-check.
    pub async fn answer(&self, mut stream: impl AsyncWrite + Unpin) {
        // The other end is this process: a failure shows there.
        let _ = stream.write_all(&self.nonce).await;
        let _ = stream.shutdown().await;
    }

    /// Proves capture for IPv4, and for IPv6 where there is a route for it.
    ///
    /// # Errors
    /// A sentence that says what is not captured and what to do.
    pub async fn prove(&self) -> Result<(), String> {
        for destination in self.destinations {
            match tokio::time::timeout(TIMEOUT, self.attempt(destination)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    return Err(format!(
                        "{destination} answered, but it was not this sidecar: {HINT}"
                    ));
                }
                Ok(Err(error)) if destination.is_ipv6() && no_route(&error) => {}
                Ok(Err(error)) => {
                    return Err(format!(
                        "traffic is not captured (probe of {destination}: {error}): {HINT}"
                    ));
                }
                Err(_) => {
                    return Err(format!(
                        "traffic is not captured (probe of {destination} timed out): {HINT}"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn attempt(&self, destination: SocketAddr) -> io::Result<bool> {
        let mut stream = TcpStream::connect(destination).await?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).await?;
        Ok(answer == self.nonce)
    }
}

const HINT: &str =
    "run `sidecar capture apply` in this network namespace before the sidecar starts";

fn no_route(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
