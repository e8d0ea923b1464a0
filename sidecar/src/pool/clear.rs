//! HTTP/2 connections (prior knowledge, no TLS) to the application: one per address and caller, replaced when it ends.
//!
//! Responses that a caller does not read use up the windows of their connection: they stop his requests and nobody else's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use mesh_auth::SpiffeId;
use tokio::time::Instant;

use crate::http::body::BodyError;
use crate::http::gather::gather;
use crate::http::h2::{self as stream, Sender};
use crate::worker::dial::{DialError, Dialer};

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose requests a connection carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A peer of the mesh.
    Peer(SpiffeId),
    /// Somebody without a certificate.
    Plain(IpAddr),
}

struct Held {
    caller: Caller,
    send: Sender,
    ended: Rc<Cell<bool>>,
    used: Instant,
}

/// The connections of one worker.
pub struct Pool {
    held: RefCell<HashMap<SocketAddr, Vec<Held>>>,
    dialer: Dialer,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The application cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The application does not speak HTTP/2.
    #[error("HTTP/2 with the application: {0}")]
    Http2(#[from] h2::Error),
}

impl From<ClearError> for BodyError {
    fn from(error: ClearError) -> Self {
        match error {
            ClearError::Dial(error) => Self::Io(std::io::Error::other(error)),
            ClearError::Http2(error) => Self::Http2(error),
        }
    }
}

impl Pool {
    /// An empty pool that dials with `dialer`.
    pub fn new(dialer: Dialer) -> Rc<Self> {
        Rc::new(Self {
            held: RefCell::default(),
            dialer,
        })
    }

    /// A handle to the connection to `address` for requests of `caller`.
    ///
    /// # Errors
    /// See [`ClearError`].
    pub async fn sender(&self, address: SocketAddr, caller: &Caller) -> Result<Sender, ClearError> {
        let is_his = |held: &&mut Held| held.caller == *caller && !held.ended.get();
        if let Some(all) = self.held.borrow_mut().get_mut(&address)
            && let Some(held) = all.iter_mut().find(is_his)
        {
            held.used = Instant::now();
            return Ok(held.send.clone());
        }
        let tcp = self.dialer.connect(address).await?;
        let (tcp, turn) = gather(tcp);
        let (send, connection) = stream::client_builder().handshake(tcp).await?;
        let send = Sender::new(send);
        let ended = Rc::new(Cell::new(false));
        let mark = Rc::clone(&ended);
        // Ends with the connection, or when every handle is gone.
        tokio::task::spawn_local(async move {
            if let Err(error) = turn.run(connection).await {
                tracing::debug!(%address, %error, "HTTP/2 connection to the application ended");
            }
            mark.set(true);
        });
        let mut held = self.held.borrow_mut();
        let all = held.entry(address).or_default();
        all.retain(|held| held.caller != *caller);
        all.push(Held {
            caller: caller.clone(),
            send: send.clone(),
            ended,
            used: Instant::now(),
        });
        Ok(send)
    }

    /// Forgets the connection to `address` for `caller`: it refused a stream.
    pub fn forget(&self, address: SocketAddr, caller: &Caller) {
        if let Some(all) = self.held.borrow_mut().get_mut(&address) {
            all.retain(|held| held.caller != *caller);
        }
    }

    /// Lets go of connections that ended or were not used for long; streams on them finish.
    pub fn sweep(&self, now: Instant) {
        let is_used =
            |held: &Held| !held.ended.get() && now.duration_since(held.used) < IDLE_TIMEOUT;
        self.held.borrow_mut().retain(|_, all| {
            all.retain(is_used);
            !all.is_empty()
        });
    }

    /// Connections held.
    pub fn len(&self) -> usize {
        self.held.borrow().values().map(Vec::len).sum()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_caller_has_a_connection_of_his_own() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a listener");
                let address = listener.local_addr().expect("an address");
                tokio::task::spawn_local(async move {
                    let mut open = Vec::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        open.push(stream);
                    }
                });
                let pool = Pool::new(Dialer {
                    mark: None,
                    timeout: Duration::from_secs(5),
                });
                let [web, batch] = ["web", "batch"].map(|account| {
                    let id = format!("spiffe://td/ns/demo/sa/{account}");
                    SpiffeId::parse(&id).expect("an identity")
                });
                let plain = Caller::Plain(IpAddr::from([10, 0, 0, 1]));
                let callers = [Caller::Peer(web), Caller::Peer(batch), plain];
                for _ in 0..2 {
                    for caller in &callers {
                        pool.sender(address, caller).await.expect("a connection");
                    }
                }
                assert_eq!(pool.len(), 3);
                pool.forget(address, &callers[1]);
                assert_eq!(pool.len(), 2);
                pool.sweep(Instant::now() + IDLE_TIMEOUT);
                assert!(pool.is_empty());
            })
            .await;
    }
}
