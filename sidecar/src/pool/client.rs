//! The TLS client for one peer: made once per change of the own identity, of bundles or of revocations, and keeper of the
//! sessions that can be resumed with that peer until then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_auth::SpiffeId;
use mesh_auth::svid::{SvidError, Usage, VerifiedPeer};
use mesh_auth::tls::{self, ConfigError, Sessions, Trust};
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::snapshot::{Snapshot, TlsContexts};
use crate::telemetry::observe::{Ended, Observer};
use crate::wall_clock::now;
use crate::worker::hold_back::HoldBack;
use crate::worker::metrics::Direction;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections to one peer.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    sessions: Option<Arc<Sessions>>,
    expected: SpiffeId,
    /// What the peer is held against.
    pub trust: Trust,
    /// End of the own certificate, Unix seconds.
    pub own_not_after: i64,
    /// The TLS contexts it was made under.
    pub tls_epoch: u64,
    /// The bundles and revocations it was made under.
    pub(super) trust_epoch: u64,
}

/// A peer that has proven who it is.
pub struct Proven {
    /// What the handshake wrote last goes out with what is written or flushed next.
    pub stream: TlsStream<HoldBack<TcpStream>>,
    /// Who it is.
    pub peer: VerifiedPeer,
    /// A session was resumed.
    pub resumed: bool,
}

/// Has `handshake` with `address` be done in time, and tells of it, whether a request waits for it or nobody does.
///
/// # Errors
/// In words.
pub async fn tell_of_handshake(
    observer: &Observer,
    address: SocketAddr,
    own_id: impl FnOnce() -> Option<Arc<str>>,
    handshake: impl Future<Output = Result<Proven, String>>,
) -> Result<Proven, String> {
    let mut observation = observer.connection(Direction::Outbound);
    let proven = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(proven) => proven,
        Err(_) => Err(format!("no answer within {HANDSHAKE_TIMEOUT:?}")),
    };
    observer.dialled(&mut observation, proven.is_err(), |_| {
        Ended::handshake(address, own_id(), &proven)
    });
    proven
}

impl Client {
    /// A client that presents the identity in `own` to `expected` and nobody else, and offers these protocols (ALPN).
    ///
    /// # Errors
    /// The configuration cannot be made.
    pub fn new(
        expected: &SpiffeId,
        own: &TlsContexts,
        snapshot: &Snapshot,
        protocols: &[&[u8]],
    ) -> Result<Self, ConfigError> {
        let trust = snapshot.trust();
        let (config, sessions) = tls::mesh_client_config(
            &own.identity,
            trust.clone(),
            expected,
            protocols,
            snapshot.resumption,
        )?;
        Ok(Self {
            connector: TlsConnector::from(config),
            sessions,
            expected: expected.clone(),
            trust,
            own_not_after: own.identity.not_after(),
            tls_epoch: own.epoch,
            trust_epoch: snapshot.trust_epoch,
        })
    }

    /// False once the own identity, a bundle or a revocation has changed.
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        let tls_epoch = snapshot.tls.as_ref().map(|tls| tls.epoch);
        tls_epoch == Some(self.tls_epoch) && self.trust_epoch == snapshot.trust_epoch
    }

    /// True if the next connection could resume a session.
    pub(super) fn has_session(&self) -> bool {
        self.sessions.as_ref().is_some_and(|s| s.is_useful())
    }

    /// Does the handshake. Whoever answers is verified, in a resumed one too: rustls only remembers that it once was.
    ///
    /// # Errors
    /// In words; `skew` is how far this clock is ahead of the control API's.
    pub async fn handshake(&self, tcp: TcpStream, skew: Option<i64>) -> Result<Proven, String> {
        let connecting = self
            .connector
            .connect(tls::server_name(), HoldBack::new(tcp));
        let stream = match connecting.into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.release();
                stream
            }
            Err((error, held)) => {
                held.finish().await;
                let said = tls::refusal(&error).map(|refusal| refusal.with_skew(skew));
                return Err(said.unwrap_or_else(|| error.to_string()));
            }
        };
        let connection = stream.get_ref().1;
        let peer = match self.trust.peer_of(connection, Usage::Server, now()) {
            Ok(peer) if *peer.id() == self.expected => peer,
            Ok(peer) => {
                let other = SvidError::UnexpectedId {
                    found: peer.id().clone(),
                    expected: format!("'{}'", self.expected),
                };
                return Err(self.refuse(&other, skew));
            }
            Err(error) => return Err(self.refuse(&error, skew)),
        };
        let kind = connection.handshake_kind().unwrap_or(HandshakeKind::Full);
        if let Some(sessions) = &self.sessions {
            sessions.shook_hands(kind, peer.not_after());
        }
        Ok(Proven {
            resumed: kind == HandshakeKind::Resumed,
            peer,
            stream,
        })
    }

    /// The next handshake is to be a full one.
    fn refuse(&self, error: &SvidError, skew: Option<i64>) -> String {
        if let Some(sessions) = &self.sessions {
            sessions.clear();
        }
        error.with_skew(skew)
    }
}
