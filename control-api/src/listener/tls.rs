//! TLS connections, and the certificate that we present on them, which is issued anew before it ends.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::tls::{self, ClientAuth};
use mesh_auth::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Accepted, Caller};
use crate::ca::Authorities;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::throttle::Lines;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection without a client certificate may live: long enough to get one.
const STRANGER: Duration = Duration::from_secs(60);
/// Connections at the same time.
const MAX_CONNECTIONS: usize = 16_384;
/// Of these, without a client certificate: strangers cannot use up what the sidecars need.
const MAX_STRANGERS: usize = 4_096;
/// Wait after an error that will be there again at once, such as too many open files.
const ACCEPT_ERROR: Duration = Duration::from_millis(50);
/// Shortest wait between two issues of our own certificate.
const MIN_RENEWAL: Duration = Duration::from_secs(1);

/// The identity that this server presents.
pub struct ServerIdentity {
    authorities: Arc<Authorities>,
    lifetime: Duration,
    clock: Clock,
    config: ArcSwap<ServerConfig>,
}

impl ServerIdentity {
    /// The identity of every control API of a trust domain.
    ///
    /// # Errors
    /// The trust domain is too long for it.
    pub fn id(domain: &TrustDomain) -> Result<SpiffeId, mesh_auth::SpiffeIdError> {
        SpiffeId::workload(domain, "postern-system", "control-api")
    }

    /// With a certificate issued now.
    ///
    /// # Errors
    /// It cannot be issued.
    pub fn new(
        authorities: Arc<Authorities>,
        lifetime: Duration,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let config = ArcSwap::from(issue(&authorities, lifetime, &clock)?);
        Ok(Self {
            authorities,
            lifetime,
            clock,
            config,
        })
    }

    /// Issues the certificate anew at half of its life and with every change of roots, for ever. Connections made before
    /// keep theirs.
    pub async fn renew(&self) {
        let mut wait = self.lifetime / 2;
        let mut changes = self.authorities.watch();
        loop {
            tokio::select! {
                () = sleep(wait.max(MIN_RENEWAL)) => {}
                // The sender lives as long as the authorities, which are held here.
                _ = changes.changed() => {}
            }
            wait = match issue(&self.authorities, self.lifetime, &self.clock) {
                Ok(config) => {
                    self.config.store(config);
                    self.lifetime / 2
                }
                Err(error) => {
                    tracing::error!(
                        error = format_args!("{error:#}"),
                        "cannot renew the server certificate; the old one stays in use"
                    );
                    self.lifetime / 20
                }
            };
        }
    }
}

fn issue(
    authorities: &Authorities,
    lifetime: Duration,
    clock: &Clock,
) -> anyhow::Result<Arc<ServerConfig>> {
    let id = ServerIdentity::id(authorities.trust_domain())?;
    let identity = authorities
        .signing()
        .identity(&id, lifetime, clock.seconds())?;
    let mut bundles = TrustBundles::default();
    bundles.insert(authorities.bundle(0)?)?;
    Ok(tls::server_config(
        &identity,
        Arc::new(bundles),
        ClientAuth::Optional,
        &[b"h2"],
    )?)
}

/// A connection that TLS was agreed on.
type Connection = Accepted<TlsStream<TcpStream>>;

struct Acceptor {
    identity: Arc<ServerIdentity>,
    metrics: Arc<Metrics>,
    lines: Lines,
    strangers: Arc<Semaphore>,
    sender: mpsc::Sender<io::Result<Connection>>,
}

/// Accepts connections until `stop`.
pub async fn accept(
    listener: TcpListener,
    identity: Arc<ServerIdentity>,
    metrics: Arc<Metrics>,
    sender: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let acceptor = Arc::new(Acceptor {
        identity,
        metrics,
        lines: Lines::default(),
        strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
        sender,
    });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut handshakes = JoinSet::new();
    loop {
        let next = async {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return pending().await;
            };
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = handshakes.join_next() => continue,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                handshakes.spawn(Arc::clone(&acceptor).handshake(stream, address, permit));
            }
            Err(error) => {
                acceptor.complain(None, &error);
                sleep(ACCEPT_ERROR).await;
            }
        }
    }
}

impl Acceptor {
    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.identity.config.load_full());
        let io = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return self.complain(Some(address), &error),
            Err(_) => {
                let error = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no TLS handshake within {HANDSHAKE:?}"),
                );
                return self.complain(Some(address), &error);
            }
        };
        let tls = io.get_ref().1;
        let peer = tls::peer_of(tls).ok();
        let chain = tls.peer_certificates().unwrap_or_default();
        let authorities = &self.identity.authorities;
        let only_by_others =
            peer.is_some() && !authorities.vouch_for(chain, self.identity.clock.seconds());
        let (mut permits, mut deadline) = (vec![permit], None);
        if peer.is_none() {
            let Ok(stranger) = Arc::clone(&self.strangers).try_acquire_owned() else {
                let error = io::Error::other("too many connections without a client certificate");
                return self.complain(Some(address), &error);
            };
            permits.push(stranger);
            deadline = Some(Box::pin(sleep(STRANGER)));
        }
        let accepted = Accepted {
            io,
            caller: Caller {
                peer,
                only_by_others,
                uid: None,
                ip: Some(address.ip().to_canonical()),
                address: address.to_string(),
            },
            _permits: permits,
            deadline,
        };
        // The server has stopped.
        let _ = self.sender.send(Ok(accepted)).await;
    }

    fn complain(&self, address: Option<SocketAddr>, error: &io::Error) {
        self.metrics.handshakes_failed.add(1);
        if !self.lines.allow(self.identity.clock.seconds()) {
            return;
        }
        let refusal = error
            .get_ref()
            .and_then(|e| tls::refusal(e))
            .map(ToString::to_string);
        let reason = refusal.unwrap_or_else(|| error.to_string());
        tracing::info!(
            address = address.map(|a| a.to_string()),
            reason,
            "connection refused"
        );
    }
}
