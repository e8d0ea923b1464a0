//! Who is at the other end of an inbound connection, and what was decided about it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use mesh_auth::policy::{Connection, Decision};
use mesh_auth::svid::VerifiedPeer;
use mesh_auth::{Reason, headers};

use crate::ledger::{self, Denial};
use crate::snapshot::Snapshot;
use crate::worker::Worker;
use crate::worker::metrics::Direction;

/// The source of an inbound connection. Identity is known once per connection; decisions are remembered per port
/// until the policy changes.
pub struct Source {
    /// The verified peer; `None` for plaintext.
    pub peer: Option<VerifiedPeer>,
    /// Address the connection comes from.
    pub address: SocketAddr,
    /// Our own address at which it was accepted.
    pub own: IpAddr,
    /// The port that every request on this connection is for; `None` when requests name it.
    pub port: Option<u16>,
    xfcc: Option<HeaderValue>,
    decided: RefCell<Vec<Decided>>,
}

/// What was decided for a port under a policy.
struct Decided {
    epoch: u64,
    port: u16,
    /// The reason and the policy, `namespace/name`, of a refusal.
    refused: Option<(Reason, Option<Box<str>>)>,
}

/// A refusal, for the caller and the log.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Identifies the decision.
    pub id: u64,
}

impl Source {
    /// A source whose connection was just accepted.
    pub fn new(
        peer: Option<VerifiedPeer>,
        address: SocketAddr,
        own: IpAddr,
        port: Option<u16>,
        snapshot: &Snapshot,
    ) -> Self {
        let xfcc = match (&peer, snapshot.identity()) {
            (Some(peer), Some(own)) => Some(headers::xfcc(own, peer)),
            _ => None,
        };
        Self {
            peer,
            address,
            own,
            port,
            xfcc,
            decided: RefCell::default(),
        }
    }

    /// The peer's SPIFFE ID for logs; `-` for plaintext.
    pub fn peer_name(&self) -> &str {
        self.peer.as_ref().map_or("-", |p| p.id().as_str())
    }

    /// Decides whether this source may reach application port `port`.
    ///
    /// # Errors
    /// The refusal, already counted and logged.
    pub fn authorize(
        &self,
        worker: &Worker,
        snapshot: &Snapshot,
        port: u16,
    ) -> Result<(), Refused> {
        if worker.is_internal(port) {
            return Err(self.refuse(worker, port, Reason::InternalPort, None));
        }
        let Some(policy) = &snapshot.policy else {
            return Err(self.refuse(worker, port, Reason::NoSnapshot, None));
        };
        let mut decided = self.decided.borrow_mut();
        decided.retain(|held| held.epoch == snapshot.policy_epoch);
        if let Some(held) = decided.iter().find(|held| held.port == port) {
            return match &held.refused {
                None => Ok(()),
                Some((reason, policy)) => {
                    Err(self.refuse(worker, port, *reason, policy.as_deref()))
                }
            };
        }
        let decision = policy.decide(&self.connection(port));
        let refused = |d: &Decision<'_>| (d.reason, d.policy.map(Box::from));
        decided.push(Decided {
            epoch: snapshot.policy_epoch,
            port,
            refused: (!decision.is_allowed()).then(|| refused(&decision)),
        });
        if decision.is_allowed() {
            Ok(())
        } else {
            Err(self.refuse(worker, port, decision.reason, decision.policy))
        }
    }

    /// What policy knows of this connection when it is for application port `port`.
    pub fn connection(&self, port: u16) -> Connection<'_> {
        Connection {
            peer: self.peer.as_ref().map(VerifiedPeer::id),
            source_ip: self.address.ip().to_canonical(),
            destination_ip: self.own,
            destination_port: port,
            sni: None,
        }
    }

    /// Counts and logs a refusal.
    pub fn refuse(
        &self,
        worker: &Worker,
        port: u16,
        reason: Reason,
        policy: Option<&str>,
    ) -> Refused {
        let id = worker.decision_id();
        worker.counters.denial(Direction::Inbound, reason);
        worker.notebook.denied(Denial {
            id,
            at: ledger::unix_millis(),
            reason,
            policy: policy.map(Into::into),
            rule: None,
            revision: worker.snapshot().revision,
            peer: self.peer.as_ref().map(|p| p.id().as_str().into()),
            source: self.address,
            port,
            request: None,
            token: None,
        });
        tracing::info!(
            decision = format_args!("{id:016x}"),
            reason = reason.code(),
            peer = self.peer_name(),
            source = %self.address,
            port,
            policy,
            "refused"
        );
        Refused { reason, id }
    }

    /// Writes the peer's identity for the application, in place of whatever was there (removed before).
    pub fn stamp(&self, headers: &mut HeaderMap) {
        if let Some(xfcc) = &self.xfcc {
            headers.insert(headers::XFCC, xfcc.clone());
        }
    }
}
