//! The token stage of the gate: finds a request's token, verifies it or remembers that it was verified, holds it to its
//! caller, and tells the application what it says.
//!
//! A request without a token goes on to policy, which decides (Istio's rule), unless the rule or its route demands one. A
//! token that is not good never goes on. A request waits only for keys that are being fetched, where its rule says how
//! long, and for the introspection endpoint of an opaque token.

mod asked;
mod cache;
mod counts;
pub mod digest;
mod recent;
mod stale;
mod stop;

pub use recent::Recent;
pub use stop::{Denied, Patience, Pending, Question, Stop};

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request;
use mesh_auth::svid::VerifiedPeer;
use mesh_auth::token::{
    Caller, Fingerprint, HeaderMemo, Outcome, Presented, Provider, TokenPolicy, Verified,
    key_set_name,
};
use mesh_auth::{Reason, Secret};
use mesh_proto::mesh;
use metrics::{Counter, counter};

use self::cache::{Cache, FAILURE_TTL, Failures, Under};
use self::counts::{VerifiedCounts, count, describe};
use self::digest::{Digest, Digester};
use self::stale::Stale;
use super::introspect::{Introspector, Questions};
use super::key_misses::{self, KeyMisses, Miss};
use super::source::Source;
use crate::key_requests::KeyRequests;
use crate::snapshot::{SharedSnapshot, Snapshot};
use crate::wall_clock::unix_seconds;
use crate::worker::dial::Dialer;

/// The epoch of no revocations.
const UNSEEN: u64 = u64::MAX;

/// What one worker knows of tokens.
pub struct Tokens {
    digester: Digester,
    cache: RefCell<Cache>,
    failures: RefCell<Failures>,
    memo: RefCell<HeaderMemo>,
    recent: Arc<Recent>,
    key_misses: KeyMisses,
    introspector: Introspector,
    stale: Stale,
    /// Whether the token that was looked at last was known.
    remembered: Cell<Option<bool>>,
    hits: Counter,
    misses: Counter,
    evictions: Counter,
    verified: VerifiedCounts,
}

impl Tokens {
    /// Knows nothing yet. `seed` keys the digests: they must not be foreseeable. `key_requests` takes the names of key sets
    /// that have to be fetched again; `recent` and `questions` are shared by the workers; introspection endpoints are
    /// connected to with `dialer` and, where they want it, the certificate of `snapshot`.
    pub fn new(
        seed: [u8; 32],
        key_requests: Arc<KeyRequests>,
        recent: Arc<Recent>,
        questions: Arc<Questions>,
        dialer: Dialer,
        snapshot: SharedSnapshot,
    ) -> Self {
        describe();
        let lookups = |result| counter!("postern_token_cache_lookups_total", "result" => result);
        Self {
            digester: Digester::new(seed),
            cache: RefCell::default(),
            failures: RefCell::default(),
            memo: RefCell::default(),
            recent,
            key_misses: KeyMisses::new(key_requests),
            introspector: Introspector::new(questions, dialer, snapshot),
            stale: Stale::default(),
            remembered: Cell::default(),
            hits: lookups("hit"),
            misses: lookups("miss"),
            evictions: counter!("postern_token_cache_evictions_total"),
            verified: VerifiedCounts::default(),
        }
    }

    /// Passes a request of which everything that only we write was removed. Returns the token that speaks for its subject.
    ///
    /// # Errors
    /// Why the request is refused, which was counted; or what it has to wait for.
    pub fn pass(
        &self,
        snapshot: &Snapshot,
        policy: &Arc<TokenPolicy>,
        source: &Source,
        head: &mut request::Parts,
        port: u16,
    ) -> Result<Option<Rc<Verified>>, Stop> {
        self.remembered.set(None);
        let (credential, transaction) = self.judge(snapshot, policy, source, head, port).map_err(
            |(denied, provider, pending)| match (provider, pending) {
                (Some(provider), Some(pending)) => Stop::Awaits {
                    otherwise: denied,
                    provider,
                    pending,
                },
                (provider, _) => {
                    count(provider.as_ref(), denied.reason.code());
                    Stop::Denied(denied)
                }
            },
        )?;
        for (verified, place) in [&credential, &transaction].into_iter().flatten() {
            if !verified.provider().keeps(head.uri.path(), port) {
                policy.remove(*place, head);
            }
            for (name, value) in verified.headers() {
                head.headers.insert(name.clone(), value.clone());
            }
        }
        Ok(credential.or(transaction).map(|(verified, _)| verified))
    }

    /// Verified tokens that are remembered.
    pub fn len(&self) -> usize {
        self.cache.borrow().len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the verification of the token of the request that passed, or was stopped, just now was remembered; `None`: it
    /// had none.
    pub fn was_remembered(&self) -> Option<bool> {
        self.remembered.get()
    }

    #[allow(clippy::type_complexity)] // What was found in each of the two places, or why not and by whom.
    fn judge(
        &self,
        snapshot: &Snapshot,
        policy: &Arc<TokenPolicy>,
        source: &Source,
        head: &request::Parts,
        port: u16,
    ) -> Result<(Option<(Rc<Verified>, usize)>, Option<(Rc<Verified>, usize)>), Failed> {
        let found = policy
            .find(head)
            .map_err(|reason| (reason.into(), None, None))?;
        let mut verified = [found.credential, found.transaction]
            .into_iter()
            .map(|presented| {
                let Some(presented) = presented else {
                    return Ok(None);
                };
                let verified = self.verify(snapshot, policy, presented)?;
                self.check_caller(&verified, source).map_err(|reason| {
                    (reason.into(), Some(Arc::clone(verified.provider())), None)
                })?;
                Ok(Some((verified, presented.place())))
            });
        let credential = verified.next().transpose()?.flatten();
        let transaction = verified.next().transpose()?.flatten();
        if credential.is_none()
            && let Some(provider) = policy.requires(head.uri.path(), port)
            && transaction
                .as_ref()
                .is_none_or(|(verified, _)| !Arc::ptr_eq(verified.provider(), provider))
        {
            let denied = Denied {
                reason: Reason::TokenMissing,
                max_age: provider.max_age(),
            };
            return Err((denied, Some(Arc::clone(provider)), None));
        }
        Ok((credential, transaction))
    }

    /// Verifies a token, or finds that it was.
    fn verify(
        &self,
        snapshot: &Snapshot,
        policy: &Arc<TokenPolicy>,
        presented: Presented<'_>,
    ) -> Result<Rc<Verified>, Failed> {
        let now = unix_seconds();
        let epoch = snapshot.revocation_epoch;
        let digest = self.digester.digest(presented.expose());
        let held = self.cache.borrow_mut().get(&digest, now);
        // Another rule or other keys are another provider, under which it has to be verified anew.
        if let Some((verified, cleared)) = held
            && policy.has(verified.provider())
            && policy.permits(verified.provider(), presented)
        {
            self.hits.increment(1);
            self.remembered.set(Some(true));
            if let Err(reason) = verified.check_time(now) {
                self.cache.borrow_mut().remove(&digest);
                return Err(denied(reason, Some(verified.provider())));
            }
            if cleared == epoch {
                return Ok(verified);
            }
            self.check_revocation(snapshot, policy, &verified, digest, now)?;
            self.cache.borrow_mut().clear_until(&digest, epoch);
            return Ok(verified);
        }
        let failure = self.failures.borrow().get(policy, epoch, &digest, now);
        if let Some((reason, provider)) = failure {
            self.hits.increment(1);
            self.remembered.set(Some(true));
            return Err(denied(reason, provider.as_ref()));
        }
        self.misses.increment(1);
        self.remembered.set(Some(false));
        let outcome = policy.verify(
            presented,
            now,
            fingerprint(&digest),
            &mut self.memo.borrow_mut(),
        );
        match outcome {
            Ok(Outcome::Verified(verified)) => {
                let verified = Rc::new(verified);
                self.check_revocation(snapshot, policy, &verified, digest, now)?;
                self.verified.add(verified.provider());
                let mut cache = self.cache.borrow_mut();
                let evicted = cache.put(digest, Rc::clone(&verified), epoch, i64::MAX);
                self.evictions.increment(evicted);
                Ok(verified)
            }
            Ok(Outcome::Introspect(provider)) => {
                let under = Under {
                    policy: Arc::clone(policy),
                    epoch,
                };
                if let Some(known) = self.known(&under, &provider, presented, digest, now) {
                    let verified = known?;
                    if let Err(reason) = verified.check_time(now) {
                        return Err(denied(reason, Some(verified.provider())));
                    }
                    self.check_revocation(snapshot, policy, &verified, digest, now)?;
                    return Ok(verified);
                }
                let (denied, provider, _) = denied(Reason::IntrospectionFailed, Some(&provider));
                let question = Question {
                    under,
                    place: presented.place(),
                    digest,
                    token: Secret::new(presented.expose().to_vec()),
                };
                Err((denied, provider, Some(Pending::Answer(question))))
            }
            Err(refusal) => {
                // Only what cost a signature check is worth remembering, and time cannot heal.
                if refusal.reason == Reason::TokenBadSignature {
                    let provider = refusal.provider.clone();
                    self.remember(snapshot, policy, digest, refusal.reason, provider, now);
                }
                match (refusal.reason, &refusal.provider) {
                    (Reason::TokenUnknownKey, Some(provider)) => {
                        Err(self.unknown_key(provider, presented))
                    }
                    (reason, provider) => Err(denied(reason, provider.as_ref())),
                }
            }
        }
    }

    /// Refuses a token that was revoked, and forgets that it was good.
    fn check_revocation(
        &self,
        snapshot: &Snapshot,
        policy: &Arc<TokenPolicy>,
        verified: &Verified,
        digest: Digest,
        now: i64,
    ) -> Result<(), Failed> {
        let Some(revoked) = snapshot.revocations.of_verified(verified, now) else {
            return Ok(());
        };
        tracing::info!(
            revocation = &*revoked.name,
            why = &*revoked.reason,
            token = %fingerprint(&digest),
            "revoked token presented"
        );
        self.cache.borrow_mut().remove(&digest);
        let provider = verified.provider();
        let reason = Reason::TokenRevoked;
        self.remember(
            snapshot,
            policy,
            digest,
            reason,
            Some(Arc::clone(provider)),
            now,
        );
        Err(denied(reason, Some(provider)))
    }

    /// Remembers a refusal that would cost a signature check again.
    fn remember(
        &self,
        snapshot: &Snapshot,
        policy: &Arc<TokenPolicy>,
        digest: Digest,
        reason: Reason,
        provider: Option<Arc<Provider>>,
        now: i64,
    ) {
        let under = Under {
            policy: Arc::clone(policy),
            epoch: snapshot.revocation_epoch,
        };
        let mut failures = self.failures.borrow_mut();
        failures.put(
            under,
            digest,
            reason,
            provider,
            now.saturating_add(FAILURE_TTL),
        );
    }

    /// What a token is told whose key `provider` does not have. Keys that are fetched may only be not known yet.
    fn unknown_key(&self, provider: &Arc<Provider>, presented: Presented<'_>) -> Failed {
        let fetched = provider.rule().profile() != mesh::TokenProfile::JwtSvid;
        let Some(name) = key_set_name(provider.rule()).filter(|_| fetched) else {
            return denied(Reason::TokenUnknownKey, Some(provider));
        };
        let token = presented.expose();
        let header = token.split(|b| *b == b'.').next().unwrap_or(token);
        match self.key_misses.judge(&name, header, Instant::now()) {
            Miss::Unknown => denied(Reason::TokenUnknownKey, Some(provider)),
            Miss::Unsure { news } => {
                let (denied, provider, _) = denied(Reason::KeysUnavailable, Some(provider));
                let patience = provider.as_deref().and_then(patience);
                let pending = patience.map(|patience| {
                    Pending::Keys(key_misses::Pending {
                        name: name.into(),
                        news,
                        patience,
                    })
                });
                (denied, provider, pending)
            }
        }
    }

    /// To be told of every verified peer once, before its first request.
    pub fn meet(&self, peer: &VerifiedPeer) {
        let now = unix_seconds();
        self.recent
            .note(peer.id(), peer.leaf_sha256(), peer.not_after(), now);
    }

    fn check_caller(&self, verified: &Verified, source: &Source) -> Result<(), Reason> {
        let peer = source.peer.as_ref();
        let presented_before = |digest: &[u8; 32]| {
            let now = unix_seconds();
            let look = || self.recent.until(peer?.id(), digest, now);
            source.presented_before(digest, now, look)
        };
        verified.check_caller(&Caller {
            id: peer.map(VerifiedPeer::id),
            certificate: peer.map(VerifiedPeer::leaf_sha256),
            presented_before: &presented_before,
        })
    }
}

/// Why a token was not good, who said so, and what might help.
type Failed = (Denied, Option<Arc<Provider>>, Option<Pending>);

fn denied(reason: Reason, provider: Option<&Arc<Provider>>) -> Failed {
    let denied = Denied {
        reason,
        max_age: provider.and_then(|p| p.max_age()),
    };
    (denied, provider.cloned(), None)
}

/// How long a request may wait for keys: not at all, unless the rule says how long.
fn patience(provider: &Provider) -> Option<Duration> {
    match provider.rule().timeout_ms {
        0 => None,
        milliseconds => Some(Duration::from_millis(milliseconds.into())),
    }
}

/// Names the token in logs without telling it.
fn fingerprint(digest: &Digest) -> Fingerprint {
    let mut start = [0; 8];
    start.copy_from_slice(&digest[..8]);
    Fingerprint::new(start)
}

#[cfg(test)]
mod tests;
