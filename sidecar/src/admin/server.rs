//! The small HTTP/1.1 server behind the admin, metrics and readiness ports.
//!
//! Bounded: so many connections at a time, one request per connection, a deadline for all of it. It runs on the control
//! thread, so whatever is done to it costs no request of the data path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::routes::{AdminState, Surface, respond};

/// Connections at a time per listener.
const MAX_CONNECTIONS: usize = 64;
/// How long a request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after the system could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The admin surface is for this machine alone.
    #[error("the admin address {0} is not a loopback address; use 127.0.0.1:PORT or [::1]:PORT")]
    NotLoopback(SocketAddr),
    /// The system refused.
    #[error("cannot listen on {address} ({surface}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        surface: Surface,
        /// The system's error.
        source: io::Error,
    },
}

/// Binds the listener of a surface. Must be called on the runtime that will serve it.
///
/// # Errors
/// When the address is taken, or not loopback for [`Surface::Admin`].
pub fn bind(surface: Surface, address: SocketAddr) -> Result<TcpListener, BindError> {
    if surface == Surface::Admin && !address.ip().to_canonical().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().map_err(|source| BindError::Listen {
        address,
        surface,
        source,
    })
}

/// Serves one surface until `shutdown`, then lets what is being answered finish within its deadline.
pub async fn serve(
    listener: TcpListener,
    surface: Surface,
    state: Arc<AdminState>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    if surface == Surface::Admin && !peer.ip().to_canonical().is_loopback() {
                        continue;
                    }
                    connections.spawn(connection(stream, surface, Arc::clone(&state)));
                }
                Err(error) => {
                    tracing::warn!(%error, %surface, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    // What does not finish is aborted when the set is dropped.
    let _ = tokio::time::timeout(Duration::from_secs(1), finish).await;
}

async fn connection(stream: TcpStream, surface: Surface, state: Arc<AdminState>) {
    let service = service_fn(move |request| {
        let response = respond(&state, surface, &request);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %surface, "bad request"),
        Err(_) => tracing::debug!(%surface, "connection took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::routes::testing::state;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_admin_surface_binds_to_loopback_only() {
        for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"] {
            let address = address.parse().expect("address");
            assert!(matches!(
                bind(Surface::Admin, address),
                Err(BindError::NotLoopback(_))
            ));
        }
        bind(Surface::Admin, "127.0.0.1:0".parse().expect("address")).expect("loopback");
        bind(Surface::Metrics, "0.0.0.0:0".parse().expect("address")).expect("any");
    }

    #[tokio::test]
    async fn a_request_is_answered_garbage_is_refused_and_the_server_stops_when_told() {
        let listener =
            bind(Surface::Readiness, "127.0.0.1:0".parse().expect("address")).expect("bind");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Surface::Readiness, state(), stop.clone()));
        let exchange = async |request: &[u8]| {
            let mut stream = TcpStream::connect(address).await.expect("connect");
            stream.write_all(request).await.expect("write");
            let mut answer = Vec::new();
            // A server that refuses may reset; what it said before that counts.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let live = exchange(b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n").await;
        assert!(live.starts_with("HTTP/1.1 200"), "{live}");
        let garbage = exchange(b"\x16\x03\x01 garbage\r\n\r\n").await;
        assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
        let long = [
            b"GET /livez HTTP/1.1\r\nX: ".as_slice(),
            &[b'a'; 64 * 1024],
            b"\r\n\r\n",
        ]
        .concat();
        let refused = exchange(&long).await;
        assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");
        assert!(
            exchange(b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200")
        );
        stop.cancel();
        server.await.expect("stops");
    }
}
