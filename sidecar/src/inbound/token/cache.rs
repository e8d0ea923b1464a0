//! Tokens that were verified, and a few that were not, by a keyed digest of the whole token.
//!
//! Bounded in entries and bytes. Only what an issuer signed gets into the one, so nobody can push good tokens out with made
//! up ones; failures have a small table of their own. Whole digests are compared: a mutated twin is another token. What is
//! found is still to be checked: time, provider, caller.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::sync::Arc;

use mesh_auth::Reason;
use mesh_auth::token::{Provider, TokenPolicy, Verified};

use super::digest::{Digest, Start};

/// Tokens remembered.
const MAX_ENTRIES: usize = 8192;
/// Bytes that they may hold together, about.
const MAX_BYTES: usize = 16 << 20;
/// Failures remembered.
const MAX_FAILURES: usize = 1024;
/// How long a bad signature or a revoked token is remembered, seconds.
pub(super) const FAILURE_TTL: i64 = 10;

type Map<V> = HashMap<Digest, V, BuildHasherDefault<Start>>;

struct Entry {
    verified: Rc<Verified>,
    weight: usize,
    /// The epoch of the revocations that did not name it.
    cleared: u64,
    /// When its provider has to be asked again, Unix seconds.
    fresh_until: i64,
    /// Used since the hand passed.
    used: bool,
}

/// Verified tokens; the one that makes room was not used since it was looked at last (CLOCK).
#[derive(Default)]
pub(super) struct Cache {
    entries: Map<Entry>,
    clock: VecDeque<Digest>,
    bytes: usize,
}

impl Cache {
    /// What is held of a token at `now`, and the epoch of the revocations that were looked at.
    pub(super) fn get(&mut self, digest: &Digest, now: i64) -> Option<(Rc<Verified>, u64)> {
        let entry = self
            .entries
            .get_mut(digest)
            .filter(|e| now < e.fresh_until)?;
        entry.used = true;
        Some((Rc::clone(&entry.verified), entry.cleared))
    }

    /// The revocations of `epoch` do not name the token.
    pub(super) fn clear_until(&mut self, digest: &Digest, epoch: u64) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.cleared = epoch;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        // Its place on the clock goes when the hand finds nothing there.
        if let Some(entry) = self.entries.remove(digest) {
            self.bytes -= entry.weight;
        }
    }

    /// Remembers a token until `fresh_until` that the revocations of `epoch` do not name; returns how many were forgotten
    /// for it.
    pub(super) fn put(
        &mut self,
        digest: Digest,
        verified: Rc<Verified>,
        epoch: u64,
        fresh_until: i64,
    ) -> u64 {
        let weight = verified.weight();
        if weight > MAX_BYTES / 64 {
            return 0;
        }
        self.remove(&digest);
        let mut evicted = 0;
        while self.entries.len() >= MAX_ENTRIES || self.bytes + weight > MAX_BYTES {
            evicted += self.evict();
        }
        // Tokens that expired and came again leave empty places behind.
        if self.clock.len() >= 2 * MAX_ENTRIES {
            self.clock.retain(|held| self.entries.contains_key(held));
        }
        self.bytes += weight;
        self.clock.push_back(digest);
        let entry = Entry {
            verified,
            weight,
            cleared: epoch,
            fresh_until,
            used: false,
        };
        self.entries.insert(digest, entry);
        evicted
    }

    /// Moves the hand by one; returns 1 if that made room.
    fn evict(&mut self) -> u64 {
        let Some(digest) = self.clock.pop_front() else {
            self.entries.clear();
            self.bytes = 0;
            return 0;
        };
        match self.entries.get_mut(&digest) {
            Some(entry) if entry.used => {
                entry.used = false;
                self.clock.push_back(digest);
                0
            }
            Some(_) => {
                self.remove(&digest);
                1
            }
            None => 0,
        }
    }
}

struct Failure {
    reason: Reason,
    provider: Option<Arc<Provider>>,
    until: i64,
}

/// What tokens are judged under.
#[derive(Clone)]
pub(super) struct Under {
    pub(super) policy: Arc<TokenPolicy>,
    /// Of the revocations.
    pub(super) epoch: u64,
}

impl Under {
    fn is(&self, policy: &Arc<TokenPolicy>, epoch: u64) -> bool {
        self.epoch == epoch && Arc::ptr_eq(&self.policy, policy)
    }
}

/// Tokens that were refused under one token policy and its revocations.
#[derive(Default)]
pub(super) struct Failures {
    under: Option<Under>,
    entries: Map<Failure>,
}

impl Failures {
    pub(super) fn get(
        &self,
        policy: &Arc<TokenPolicy>,
        epoch: u64,
        digest: &Digest,
        now: i64,
    ) -> Option<(Reason, Option<Arc<Provider>>)> {
        self.under.as_ref().filter(|u| u.is(policy, epoch))?;
        let failure = self.entries.get(digest).filter(|f| now < f.until)?;
        Some((failure.reason, failure.provider.clone()))
    }

    pub(super) fn put(
        &mut self,
        under: Under,
        digest: Digest,
        reason: Reason,
        provider: Option<Arc<Provider>>,
        until: i64,
    ) {
        let held = self.under.as_ref();
        let same = held.is_some_and(|u| u.is(&under.policy, under.epoch));
        if !same || self.entries.len() >= MAX_FAILURES {
            self.entries.clear();
            self.under = Some(under);
        }
        let failure = Failure {
            reason,
            provider,
            until,
        };
        self.entries.insert(digest, failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_bounded_short_lived_and_of_one_policy() {
        let document = mesh_proto::mesh::RequestAuthentication {
            name: "r".into(),
            namespace: "shop".into(),
            rules: vec![mesh_proto::mesh::TokenRule {
                issuer: "https://idp".into(),
                jwks_uri: "https://idp/keys".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let compile = || {
            let policy = TokenPolicy::compile([&document], &Default::default(), None);
            Arc::new(policy.expect("compiles").expect("has a rule"))
        };
        let (policy, other) = (compile(), compile());
        let under = Under {
            policy: Arc::clone(&policy),
            epoch: 3,
        };
        let mut failures = Failures::default();
        for i in 0..10 * MAX_FAILURES {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&i.to_le_bytes());
            failures.put(under.clone(), digest, Reason::TokenBadSignature, None, 110);
            assert!(failures.entries.len() <= MAX_FAILURES);
        }
        let digest = [7; 32];
        failures.put(under, digest, Reason::TokenRevoked, None, 110);
        let held = |policy, epoch, now| failures.get(policy, epoch, &digest, now).is_some();
        assert!(held(&policy, 3, 100));
        assert!(!held(&policy, 3, 110));
        assert!(!held(&policy, 4, 100), "it may have been taken back");
        assert!(!held(&other, 3, 100));
    }
}
