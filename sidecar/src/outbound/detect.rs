//! What a connection speaks, found out without stalling protocols in which the server speaks first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_http1::Detected;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::http::h1::Connection;

/// How long the first byte of the client is waited for before the server is given a chance to speak.
pub const FIRST_BYTE: Duration = Duration::from_millis(20);
/// How long an unclear first line is waited for before it is taken as opaque.
const UNCLEAR: Duration = Duration::from_secs(5);
/// How long a destination is remembered as one where the server speaks first.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Destinations remembered.
const MAX_REMEMBERED: usize = 4096;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Opaque,
    /// The client has said nothing yet.
    Silent,
}

/// Destinations at which the server speaks first, learned from traffic.
#[derive(Debug, Default)]
pub struct Learned(RefCell<HashMap<SocketAddr, Instant>>);

impl Learned {
    /// True if the server at `destination` spoke first lately.
    pub fn server_first(&self, destination: SocketAddr) -> bool {
        self.0.borrow().contains_key(&destination)
    }

    /// Notes that the server at `destination` spoke first.
    pub fn note(&self, destination: SocketAddr) {
        let mut learned = self.0.borrow_mut();
        if learned.len() < MAX_REMEMBERED || learned.contains_key(&destination) {
            learned.insert(destination, Instant::now());
        }
    }

    /// Forgets what was learned long ago.
    pub fn sweep(&self, now: Instant) {
        self.0
            .borrow_mut()
            .retain(|_, at| now.duration_since(*at) < REMEMBERED);
    }
}

/// Looks at the first bytes of the client, waiting at most `first_byte` for one. What was read stays in the buffer.
pub async fn client<S>(connection: &RefCell<Connection<S>>, first_byte: Duration) -> Protocol
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(first_byte, fill(connection)).await {
        Err(_) => return Protocol::Silent,
        Ok(false) => return Protocol::Opaque,
        Ok(true) => {}
    }
    let unclear = tokio::time::Instant::now() + UNCLEAR;
    loop {
        match mesh_http1::detect(&connection.borrow().read) {
            Detected::Http1 => return Protocol::Http1,
            Detected::Http2Preface => return Protocol::Http2,
            Detected::Tls | Detected::Unknown => return Protocol::Opaque,
            Detected::NeedMore => {}
        }
        match tokio::time::timeout_at(unclear, fill(connection)).await {
            Ok(true) => {}
            _ => return Protocol::Opaque,
        }
    }
}

/// Reads once; false at the end of the stream or when it failed.
async fn fill<S: AsyncRead + AsyncWrite + Unpin>(connection: &RefCell<Connection<S>>) -> bool {
    poll_fn(|cx| connection.borrow_mut().poll_fill_head(cx))
        .await
        .is_ok_and(|n| n > 0)
}
