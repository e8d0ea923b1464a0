//! How requests, connections and handshakes ended: what is known to whoever served them, and what is told of them.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{StatusCode, request};
use mesh_auth::Reason;

use crate::http::body::BodyError;
use crate::http::forward::{Exchanged, ForwardError};
use crate::pool::client::Proven;
use crate::tunnel::Carried;
use crate::worker::metrics::{Counters, Direction};

/// What ended.
#[derive(Debug)]
pub enum Line<'a> {
    /// An HTTP request.
    Http(EndedHttp<'a>),
    /// A connection of opaque bytes.
    Connection,
    /// The TLS handshake of a connection.
    Handshake {
        /// Whether an earlier session was resumed; `None`: it did not get that far.
        resumed: Option<bool>,
    },
}

/// How it ended, for those who read more than numbers.
#[derive(Debug)]
pub struct Ended<'a> {
    /// What ended.
    pub line: Line<'a>,
    /// The other end of the connection.
    pub peer_address: Option<SocketAddr>,
    /// Application or service port; 0: unknown.
    pub port: u16,
    /// The peer's SPIFFE ID.
    pub peer_id: Option<Arc<str>>,
    /// Our own SPIFFE ID.
    pub own_id: Option<Arc<str>>,
    /// Bytes of the request, or towards the other end.
    pub sent: u64,
    /// Bytes of the response, or back.
    pub received: u64,
    /// Why it failed; `None`: it did not.
    pub error: Option<&'static str>,
}

/// How an exchange ended: what is known before anybody asks for more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Status of the response; `None`: there was none.
    pub status: Option<StatusCode>,
    /// gRPC status, where it was seen.
    pub grpc_status: Option<u32>,
    /// Bytes of the request.
    pub sent: u64,
    /// Bytes of the response.
    pub received: u64,
    /// Why it failed; `None`: it did not.
    pub error: Option<&'static str>,
}

impl Outcome {
    /// Of an exchange that has a response.
    pub fn of(done: &Exchanged) -> Self {
        Self {
            status: Some(done.status),
            grpc_status: done.grpc_status,
            sent: done.sent,
            received: done.received,
            error: None,
        }
    }

    /// Of a tunnel whose first side was the client.
    pub fn tunnel(carried: &Carried, result: &Result<(), BodyError>) -> Self {
        Self {
            sent: carried.forward(),
            received: carried.backward(),
            error: result.as_ref().err().map(|error| match error {
                BodyError::Ended(reason) => reason.code(),
                _ => Reason::ProtocolError.code(),
            }),
            ..Self::default()
        }
    }

    /// Of a tunnel whose second side was the client.
    pub fn tunnel_from_app(carried: &Carried, result: &Result<(), BodyError>) -> Self {
        let from_app = Self::tunnel(carried, result);
        Self {
            sent: from_app.received,
            received: from_app.sent,
            ..from_app
        }
    }

    /// The same of an upgrade that became a tunnel.
    #[must_use]
    pub fn switched(self) -> Self {
        Self {
            status: Some(StatusCode::SWITCHING_PROTOCOLS),
            ..self
        }
    }

    /// Of an upgrade that was declined with a response of which so many body bytes were passed on, with this `result`.
    pub fn declined(status: StatusCode, received: u64, result: &Result<(), ForwardError>) -> Self {
        Self {
            status: result.is_ok().then_some(status),
            received,
            error: result.as_ref().err().map(|error| match error {
                ForwardError::Ended { reason, .. } => reason.code(),
                _ => Reason::ProtocolError.code(),
            }),
            ..Self::default()
        }
    }

    /// The same, with its bytes in the counters: of an opaque connection.
    #[must_use]
    pub fn carried(self, counters: &Counters, direction: Direction) -> Self {
        counters.carried(direction, self.sent, self.received);
        self
    }

    /// The same, with its status and bytes in the counters of requests; without a status it was cut.
    #[must_use]
    pub fn counted(self, counters: &Counters, direction: Direction) -> Self {
        match self.status {
            Some(status) => counters.request(direction, status, self.sent, self.received),
            None => counters.cut(direction, self.sent, self.received),
        }
        self
    }

    /// It ended in the middle, or did not begin.
    pub fn failed(reason: Reason) -> Self {
        Self {
            error: Some(reason.code()),
            ..Self::default()
        }
    }
}

/// The HTTP part of how it ended.
#[derive(Debug)]
pub struct EndedHttp<'a> {
    /// The request.
    pub head: &'a request::Parts,
    /// Status of the response; `None`: there was none.
    pub status: Option<StatusCode>,
    /// gRPC status, where it was seen.
    pub grpc_status: Option<u32>,
}

impl Ended<'_> {
    /// Of the TLS handshake with whoever is at `address`. Who did not prove an identity has none.
    pub fn handshake<E>(
        address: SocketAddr,
        own_id: Option<Arc<str>>,
        proven: &Result<Proven, E>,
    ) -> Self {
        let proven = proven.as_ref().ok();
        Self {
            line: Line::Handshake {
                resumed: proven.map(|p| p.resumed),
            },
            peer_address: Some(address),
            port: 0,
            peer_id: proven.map(|p| p.peer.id().to_shared()),
            own_id,
            sent: 0,
            received: 0,
            error: proven.is_none().then_some(Reason::PeerUnverified.code()),
        }
    }

    /// Of a request.
    pub fn http(&self) -> Option<&EndedHttp<'_>> {
        match &self.line {
            Line::Http(http) => Some(http),
            _ => None,
        }
    }

    /// True when it ended without an answer or with a server's error.
    pub fn is_failed(&self) -> bool {
        self.error.is_some()
            || self
                .http()
                .is_some_and(|h| h.status.is_none_or(|s| s.is_server_error()))
    }
}
