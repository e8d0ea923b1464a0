//! HTTP/2 connections (prior knowledge, no TLS) to the application: one per address, replaced when it ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::body::BodyError;
use crate::http::gather::gather;
use crate::http::h2::{self as stream, Sender};
use crate::worker::dial::{DialError, Dialer};

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

struct Held {
    send: Sender,
    ended: Rc<Cell<bool>>,
    used: Instant,
}

/// The connections of one worker.
pub struct Pool {
    held: RefCell<HashMap<SocketAddr, Held>>,
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

    /// A handle to a connection to `address`.
    ///
    /// # Errors
    /// See [`ClearError`].
    pub async fn sender(&self, address: SocketAddr) -> Result<Sender, ClearError> {
        if let Some(held) = self.held.borrow_mut().get_mut(&address)
            && !held.ended.get()
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
        self.held.borrow_mut().insert(
            address,
            Held {
                send: send.clone(),
                ended,
                used: Instant::now(),
            },
        );
        Ok(send)
    }

    /// Forgets the connection to `address`: it refused a stream.
    pub fn forget(&self, address: SocketAddr) {
        self.held.borrow_mut().remove(&address);
    }

    /// Lets go of connections that ended or were not used for long; streams on them finish.
    pub fn sweep(&self, now: Instant) {
        self.held
            .borrow_mut()
            .retain(|_, held| !held.ended.get() && now.duration_since(held.used) < IDLE_TIMEOUT);
    }

    /// Connections held.
    pub fn len(&self) -> usize {
        self.held.borrow().len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
