//! What ends a request's stream or a tunnel before it is done: its token expires or is revoked, policy allows it no
//! longer.
//!
//! Nothing is registered for an exchange that is over before it had to wait. What a decision needs is borrowed from the
//! task that holds the stream, and looked at only when policy changes.

use http::request;
use mesh_auth::Reason;
use mesh_auth::token::{StreamEnd, Verified};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::decide;
use super::gate::Passed;
use super::source::Source;
use crate::http::answer::Refused;
use crate::http::ending::Ending;
use crate::snapshot::Snapshot;
use crate::wall_clock::unix_seconds;
use crate::worker::Worker;
use crate::worker::metrics::Direction;
use crate::worker::rechecks::Recheck;
use crate::worker::review::{Review, Subject, Topic, note_end};

/// How long the stream of one request may stay open.
pub struct Lifetime<'a> {
    worker: &'a Worker,
    source: &'a Source,
    head: &'a request::Parts,
    port: u16,
    token: Option<&'a Rc<Verified>>,
    recheck: Recheck<'a>,
    /// Of the token, once the stream had to wait.
    review: Option<Review>,
    refused: Option<Refused>,
}

impl<'a> Lifetime<'a> {
    /// The lifetime of the stream of the request `head`, as it `passed`.
    pub fn new(
        worker: &'a Worker,
        source: &'a Source,
        head: &'a request::Parts,
        passed: &'a Passed,
    ) -> Self {
        Self {
            worker,
            source,
            head,
            port: passed.port,
            token: passed.token.as_ref(),
            recheck: Recheck::new(worker.reviews.rechecks(), passed.policy_epoch),
            review: None,
            refused: None,
        }
    }

    /// The refusal that ended it, already counted and logged; `None` when it was not a decision that did.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    fn poll_token(&mut self, cx: &Context<'_>) -> Poll<Reason> {
        let Some(token) = self.token else {
            return Poll::Pending;
        };
        let (worker, source) = (self.worker, self.source);
        let review = self.review.get_or_insert_with(|| {
            let subject = TokenStream {
                peer: source.peer_name().into(),
                token: Rc::clone(token),
                end: token.stream_end(self.head.uri.path(), self.port),
            };
            let snapshot = worker.snapshot();
            worker.reviews.register(Box::new(subject), &snapshot)
        });
        review.poll(cx)
    }
}

impl Ending for Lifetime<'_> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.recheck.poll_due(cx).is_ready() {
            let snapshot = self.worker.snapshot();
            let token = self.token.map(|verified| verified.token());
            let (worker, source) = (self.worker, self.source);
            let decided = decide::again(worker, source, &snapshot, self.port, self.head, token);
            match decided {
                Ok(()) => self.recheck.allowed(snapshot.policy_epoch),
                Err(refused) => {
                    let reason = ended(source, &refused, &snapshot);
                    self.refused = Some(refused);
                    return Poll::Ready(reason);
                }
            }
        }
        self.poll_token(cx)
    }

    fn decision(&self) -> Option<u64> {
        self.refused.as_ref().map(|refused| refused.id)
    }
}

/// How long a tunnel of opaque bytes may stay open.
pub struct TunnelLifetime<'a> {
    worker: &'a Worker,
    source: &'a Source,
    port: u16,
    recheck: Recheck<'a>,
}

impl<'a> TunnelLifetime<'a> {
    /// The lifetime of a tunnel to `port` that the policies of epoch `policy_epoch` allowed.
    pub fn new(worker: &'a Worker, source: &'a Source, port: u16, policy_epoch: u64) -> Self {
        Self {
            worker,
            source,
            port,
            recheck: Recheck::new(worker.reviews.rechecks(), policy_epoch),
        }
    }
}

impl Ending for TunnelLifetime<'_> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.recheck.poll_due(cx).is_ready() {
            let snapshot = self.worker.snapshot();
            if let Err(refused) = self.source.authorize(self.worker, &snapshot, self.port) {
                return Poll::Ready(ended(self.source, &refused, &snapshot));
            }
            self.recheck.allowed(snapshot.policy_epoch);
        }
        Poll::Pending
    }
}

fn ended(source: &Source, refused: &Refused, snapshot: &Snapshot) -> Reason {
    let reason = refused.reason;
    note_end(
        Direction::Inbound,
        reason,
        source.peer_name(),
        snapshot.epoch,
    );
    reason
}

/// A stream that was opened with a token.
struct TokenStream {
    peer: Box<str>,
    token: Rc<Verified>,
    end: StreamEnd,
}

impl Subject for TokenStream {
    fn topics(&self) -> &[Topic] {
        &[Topic::Token, Topic::TokenRules]
    }

    fn review(&self, snapshot: &Snapshot) -> Option<Reason> {
        let now = unix_seconds();
        if snapshot.revocations.of_verified(&self.token, now).is_some() {
            return Some(Reason::TokenRevoked);
        }
        // Without any rule nobody vouches for what the stream was opened with.
        let rules = snapshot.tokens.as_ref();
        let still = rules.map_or(Err(Reason::TokenUnknownIssuer), |rules| {
            rules.still_accepts(&self.token, now)
        });
        still.err()
    }

    fn expiry(&self) -> Option<(i64, Reason)> {
        match self.end {
            StreamEnd::At(at) => Some((at, Reason::TokenExpired)),
            StreamEnd::Never => None,
        }
    }

    fn direction(&self) -> Direction {
        Direction::Inbound
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}
