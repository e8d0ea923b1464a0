//! HTTP/1.1 connections to the application.
//!
//! A [`Lease`] is one connection in use; when its last clone goes away and both messages on it ended cleanly, the
//! connection returns to the pool, else it is closed.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http::h1::{Connection, Handle};
use crate::worker::dial::{self, DialError};

/// Idle connections kept per address.
const MAX_IDLE: usize = 256;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

struct Idle {
    connection: Connection<TcpStream>,
    since: Instant,
}

/// The idle connections of one worker.
pub struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    dialer: dial::Dialer,
}

impl Pool {
    /// An empty pool that dials with `dialer`.
    pub fn new(dialer: dial::Dialer) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            dialer,
        })
    }

    /// An idle connection to `address`, or a new one.
    ///
    /// # Errors
    /// The application cannot be reached.
    pub async fn lease(self: &Rc<Self>, address: SocketAddr) -> Result<Lease, DialError> {
        if let Some(connection) = self.take_idle(address) {
            return Ok(self.wrap(address, connection, true));
        }
        self.fresh(address).await
    }

    /// A new connection to `address`.
    ///
    /// # Errors
    /// The application cannot be reached.
    pub async fn fresh(self: &Rc<Self>, address: SocketAddr) -> Result<Lease, DialError> {
        let stream = self.dialer.connect(address).await?;
        Ok(self.wrap(address, Connection::new(stream, BytesMut::new()), false))
    }

    fn wrap(
        self: &Rc<Self>,
        address: SocketAddr,
        connection: Connection<TcpStream>,
        reused: bool,
    ) -> Lease {
        Lease(Rc::new(Leased {
            connection: RefCell::new(Some(connection)),
            address,
            reused,
            keep_alive: Cell::new(false),
            read_ended: Cell::new(false),
            write_ended: Cell::new(false),
            pool: Rc::downgrade(self),
        }))
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Connection<TcpStream>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        while let Some(mut candidate) = connections.pop() {
            // Costs a system call only if the kernel has reported something, which for an idle connection means its end.
            let mut cx = Context::from_waker(Waker::noop());
            if candidate.connection.poll_fill_head(&mut cx).is_pending() {
                return Some(candidate.connection);
            }
        }
        None
    }

    fn put(&self, address: SocketAddr, connection: Connection<TcpStream>) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(address).or_default();
        if connections.len() < MAX_IDLE {
            connections.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        for connections in idle.values_mut() {
            connections.retain(|c| now.duration_since(c.since) < IDLE_TIMEOUT);
        }
        idle.retain(|_, connections| !connections.is_empty());
    }

    /// Idle connections held.
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Leased {
    connection: RefCell<Option<Connection<TcpStream>>>,
    address: SocketAddr,
    reused: bool,
    keep_alive: Cell<bool>,
    read_ended: Cell<bool>,
    write_ended: Cell<bool>,
    pool: Weak<Pool>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        if !(self.keep_alive.get() && self.read_ended.get() && self.write_ended.get()) {
            return;
        }
        let (Some(pool), Some(connection)) =
            (self.pool.upgrade(), self.connection.get_mut().take())
        else {
            return;
        };
        // Bytes after the response belong to no request: not a connection to trust.
        if connection.read.is_empty() && connection.is_written() {
            pool.put(self.address, connection);
        }
    }
}

/// One connection in use.
#[derive(Clone)]
pub struct Lease(Rc<Leased>);

impl Lease {
    /// True when the connection had carried an exchange before.
    pub fn reused(&self) -> bool {
        self.0.reused
    }

    /// Notes whether the application keeps the connection open after this exchange.
    pub fn keep_alive(&self, keep: bool) {
        self.0.keep_alive.set(keep);
    }

    /// Takes the connection out for good (after an upgrade).
    pub fn take(&self) -> Option<Connection<TcpStream>> {
        self.0.connection.borrow_mut().take()
    }
}

impl Handle for Lease {
    type Io = TcpStream;

    #[allow(clippy::expect_used)]
    fn connection(&self) -> RefMut<'_, Connection<TcpStream>> {
        RefMut::map(self.0.connection.borrow_mut(), |c| {
            c.as_mut()
                .expect("taken only by an upgrade, after which no half is polled")
        })
    }

    fn read_ended(&self) {
        self.0.read_ended.set(true);
    }

    fn write_ended(&self) {
        self.0.write_ended.set(true);
    }

    fn write_aborted(&self) {
        self.0.keep_alive.set(false);
        self.0.write_ended.set(false);
    }
}
