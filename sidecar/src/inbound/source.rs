//! Who is at the other end of an inbound connection, and what was decided about it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, request};
use mesh_auth::policy::{self, Connection, Decision, PolicySet, Standing, Verdict};
use mesh_auth::svid::VerifiedPeer;
use mesh_auth::token::VerifiedToken;
use mesh_auth::{Reason, SpiffeId, headers};

use super::shadow;
use crate::http::answer::Refused;
use crate::ledger::{self, Denial, RequestFacts, TokenFacts};
use crate::pool::clear::Caller;
use crate::snapshot::Snapshot;
use crate::telemetry::observe::{Ended, EndedHttp, Line, Observation, Outcome};
use crate::telemetry::watch::edges::{Edge, From};
use crate::wall_clock::{unix_millis, unix_seconds};
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
    /// Our own identity when the connection was made, where the peer has one as well.
    own_id: Option<SpiffeId>,
    /// How the application is told of both, written for the first request.
    xfcc: OnceCell<HeaderValue>,
    /// Trust epoch under which the peer was last found not to be revoked.
    trusted: Cell<u64>,
    /// A certificate that the peer presented before, and until when that counts.
    earlier: Cell<Option<([u8; 32], i64)>>,
    decided: RefCell<Vec<Decided>>,
    standings: RefCell<Vec<(u64, u16, Rc<Standing>)>>,
    /// Where it is counted, by port.
    edges: RefCell<Vec<(u16, Arc<Edge>)>>,
}

/// Ports of one connection for which decisions are remembered. Who names more pays with his own time.
const MAX_PORTS: usize = 8;

/// What was decided for a port under a policy.
struct Decided {
    epoch: u64,
    port: u16,
    reason: Reason,
    verdict: Verdict,
    /// `namespace/name`.
    policy: Option<Box<str>>,
    rule: Option<u32>,
    revision: u64,
}

impl Decided {
    fn decision(&self) -> Decision<'_> {
        Decision {
            verdict: self.verdict,
            reason: self.reason,
            policy: self.policy.as_deref(),
            rule: self.rule,
            revision: self.revision,
            scope: None,
        }
    }
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
        let own_id = peer.as_ref().and_then(|_| snapshot.identity().cloned());
        Self {
            peer,
            address,
            own,
            port,
            own_id,
            xfcc: OnceCell::new(),
            trusted: Cell::new(0),
            earlier: Cell::new(None),
            decided: RefCell::default(),
            standings: RefCell::default(),
            edges: RefCell::default(),
        }
    }

    /// Who calls, as far as that is known.
    pub fn caller(&self) -> Caller {
        match &self.peer {
            Some(peer) => Caller::Peer(peer.id().clone()),
            None => Caller::Plain(self.address.ip()),
        }
    }

    /// The peer's SPIFFE ID for logs; `-` for plaintext.
    pub fn peer_name(&self) -> &str {
        self.peer.as_ref().map_or("-", |p| p.id().as_str())
    }

    /// True if at `now`, Unix seconds, it counts that the peer presented the certificate with this digest before. `look`
    /// tells until when, and is asked once: what connections share is not read for every request.
    pub fn presented_before(
        &self,
        certificate: &[u8; 32],
        now: i64,
        look: impl FnOnce() -> Option<i64>,
    ) -> bool {
        if let Some((held, until)) = self.earlier.get()
            && held == *certificate
            && now < until
        {
            return true;
        }
        let found = look().map(|until| (*certificate, until));
        if found.is_some() {
            self.earlier.set(found);
        }
        found.is_some()
    }

    /// Decides whether this source may open a connection of opaque bytes to application port `port`, or keep one open.
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
        if let Some(reason) = self.revoked(snapshot) {
            return Err(self.refuse(worker, port, reason, None));
        }
        let Some(policy) = &snapshot.policy else {
            return Err(self.refuse(worker, port, Reason::NoSnapshot, None));
        };
        let mut decided = self.decided.borrow_mut();
        decided.retain(|held| held.epoch == snapshot.policy_epoch);
        if let Some(held) = decided.iter().find(|held| held.port == port) {
            return self.act(worker, port, &held.decision());
        }
        let connection = self.connection(port);
        let decision = policy.decide(&connection);
        if let Some(would) = policy.would_decide(&connection) {
            shadow::compare(worker, &connection, None, &decision, &would);
        }
        if decided.len() == MAX_PORTS {
            decided.remove(0);
        }
        decided.push(Decided {
            epoch: snapshot.policy_epoch,
            port,
            reason: decision.reason,
            verdict: decision.verdict,
            policy: decision.policy.map(Into::into),
            rule: decision.rule,
            revision: decision.revision,
        });
        self.act(worker, port, &decision)
    }

    /// How this connection stands with the policies in force when it is for application port `port`: looked at once.
    pub fn standing(&self, policy: &PolicySet, epoch: u64, port: u16) -> Rc<Standing> {
        let mut standings = self.standings.borrow_mut();
        let held = standings.iter().find(|(e, p, _)| *e == epoch && *p == port);
        if let Some((.., standing)) = held {
            return Rc::clone(standing);
        }
        standings.retain(|(e, ..)| *e == epoch);
        if standings.len() == MAX_PORTS {
            standings.remove(0);
        }
        let standing = Rc::new(policy.standing(&self.connection(port)));
        standings.push((epoch, port, Rc::clone(&standing)));
        standing
    }

    fn act(&self, worker: &Worker, port: u16, decision: &Decision<'_>) -> Result<(), Refused> {
        worker
            .counters
            .decided(decision.policy, decision.is_allowed());
        if decision.is_allowed() {
            Ok(())
        } else {
            Err(self.refuse_by(worker, port, decision, None))
        }
    }

    /// Why the peer is not believed any more. Asked again only under another trust epoch: between a change and the review of the connection no request slips by.
    pub fn revoked(&self, snapshot: &Snapshot) -> Option<Reason> {
        let peer = self.peer.as_ref()?;
        if self.trusted.get() == snapshot.trust_epoch {
            return None;
        }
        if snapshot.revocations.of(peer, unix_seconds()).is_some() {
            return Some(Reason::PeerRevoked);
        }
        self.trusted.set(snapshot.trust_epoch);
        None
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

    /// How a request to application port `port` ended, for those who read more than numbers.
    pub fn ended<'a>(
        &self,
        worker: &Worker,
        port: u16,
        head: Option<&'a request::Parts>,
        outcome: &Outcome,
    ) -> Ended<'a> {
        Ended {
            line: head.map_or(Line::Connection, |head| {
                Line::Http(EndedHttp {
                    head,
                    status: outcome.status,
                    grpc_status: outcome.grpc_status,
                })
            }),
            peer_address: Some(self.address),
            port,
            peer_id: self.peer.as_ref().map(|peer| peer.id().to_shared()),
            own_id: worker.snapshot().identity().map(SpiffeId::to_shared),
            sent: outcome.sent,
            received: outcome.received,
            error: outcome.error,
        }
    }

    /// Tells of a request that ended.
    pub fn request_ended(
        &self,
        worker: &Worker,
        observation: &mut Observation,
        head: &request::Parts,
        port: u16,
        outcome: &Outcome,
    ) {
        worker.observer.request_ended(observation, |_| {
            self.ended(worker, port, Some(head), outcome)
        });
        let (is_denied, took) = (observation.is_decided(), observation.timeline.total());
        self.with_edge(worker, port, |edge| edge.request(outcome, is_denied, took));
    }

    /// What is counted of this source and `port`; looked for once per connection and port.
    fn with_edge(&self, worker: &Worker, port: u16, count: impl FnOnce(&Edge)) {
        let mut edges = self.edges.borrow_mut();
        if let Some((_, edge)) = edges.iter().find(|(held, _)| *held == port) {
            return count(edge);
        }
        let from = match &self.peer {
            Some(peer) => From::Peer(peer.id().to_shared()),
            None => From::Address(self.address.ip().to_canonical()),
        };
        let edge = worker
            .observer
            .watch
            .edges
            .find(Direction::Inbound, from, port);
        count(&edge);
        if edges.len() == MAX_PORTS {
            edges.remove(0);
        }
        edges.push((port, edge));
    }

    /// Tells of an opaque connection that ended.
    pub fn connection_ended(
        &self,
        worker: &Worker,
        observation: &mut Observation,
        port: u16,
        outcome: &Outcome,
    ) {
        let is_denied = observation.is_decided();
        self.with_edge(worker, port, |edge| edge.connection(outcome, is_denied));
        worker
            .observer
            .connection_ended(observation, |_| self.ended(worker, port, None, outcome));
    }

    /// Tells of an opaque connection that was refused.
    pub fn connection_refused(
        &self,
        worker: &Worker,
        observation: &mut Observation,
        port: u16,
        refused: &Refused,
    ) {
        observation.refused(refused.reason, refused.id, refused.policy.as_deref());
        let outcome = Outcome {
            error: Some(refused.reason.code()),
            ..Outcome::default()
        };
        self.connection_ended(worker, observation, port, &outcome);
    }

    /// Tells of a connection that was refused before anything came of it.
    pub fn turned_away(&self, worker: &Worker, port: u16, refused: &Refused) {
        let mut observation = worker.observer.connection(Direction::Inbound);
        self.connection_refused(worker, &mut observation, port, refused);
    }

    /// Counts and logs a refusal.
    pub fn refuse(
        &self,
        worker: &Worker,
        port: u16,
        reason: Reason,
        policy: Option<&str>,
    ) -> Refused {
        let decision = Decision {
            verdict: Verdict::Deny,
            reason,
            policy,
            rule: None,
            revision: 0,
            scope: None,
        };
        self.refuse_by(worker, port, &decision, None)
    }

    /// Counts, remembers and logs a refusal that policy decided; `request` is `None` for opaque bytes.
    pub fn refuse_by(
        &self,
        worker: &Worker,
        port: u16,
        decision: &Decision<'_>,
        request: Option<&policy::Request<'_>>,
    ) -> Refused {
        let id = worker.decision_id();
        let reason = decision.reason;
        worker.counters.denial(Direction::Inbound, reason);
        worker.notebook.denied(Denial {
            id,
            at: unix_millis(),
            reason,
            policy: decision.policy.map(Into::into),
            rule: decision.rule,
            revision: match decision.revision {
                0 => worker.snapshot().revision,
                revision => revision,
            },
            peer: self.peer.as_ref().map(|p| p.id().as_str().into()),
            source: self.address,
            port,
            request: request.map(|r| RequestFacts::new(r.method.as_str(), r.host, r.path)),
            token: request.and_then(|r| r.token).map(token_facts),
        });
        tracing::info!(
            decision = format_args!("{id:016x}"),
            reason = reason.code(),
            peer = self.peer_name(),
            source = %self.address,
            port,
            policy = decision.policy,
            rule = decision.rule,
            revision = (decision.revision > 0).then_some(decision.revision),
            "refused"
        );
        Refused {
            reason,
            id,
            policy: decision.policy.map(Into::into),
            scope: decision.scope.map(Into::into),
            max_age: None,
        }
    }

    /// Writes the peer's identity for the application, in place of whatever was there (removed before).
    pub fn stamp(&self, headers: &mut HeaderMap) {
        if let (Some(own), Some(peer)) = (&self.own_id, &self.peer) {
            let xfcc = self.xfcc.get_or_init(|| headers::xfcc(own, peer));
            headers.insert(headers::XFCC, xfcc.clone());
        }
    }
}

/// What is remembered of a token.
fn token_facts(token: &VerifiedToken) -> TokenFacts {
    TokenFacts {
        issuer: ledger::cut(token.issuer().unwrap_or_default()),
        subject: ledger::cut(token.subject().unwrap_or_default()),
        audiences: some(token.audiences()),
        scopes: some(token.scopes().iter().map(AsRef::as_ref)),
    }
}

/// The first of them, cut.
fn some<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Box<str>> {
    texts.take(16).map(ledger::cut).collect()
}
