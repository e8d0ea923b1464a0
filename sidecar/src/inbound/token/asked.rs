//! What a request waits for, and what is remembered of the answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request;
use mesh_auth::Reason;
use mesh_auth::token::{Presented, Provider, Verified};
use mesh_proto::mesh;

use super::super::introspect::Verdict;
use super::cache::Under;
use super::counts::count;
use super::digest::Digest;
use super::stale::Known;
use super::stop::{Denied, Patience, Pending, Question, Stop};
use super::{Failed, Tokens, UNSEEN, denied, fingerprint};
use crate::wall_clock::unix_seconds;

/// Questions that one request may have asked: there are two places for tokens.
const MAX_ASKED: u32 = 4;
/// Seconds for which a refusal of an introspection endpoint is believed where the rule does not say.
const DEFAULT_NEGATIVE_CACHE: u32 = 5;

impl Tokens {
    /// Waits for what a request was stopped for. Then it has to pass again, under the snapshot in force then; its token is
    /// gone if nobody answered about it and its rule lets it go on without.
    ///
    /// # Errors
    /// Why the request is refused, which was counted.
    pub async fn wait(
        &self,
        stop: Stop,
        patience: &mut Patience,
        head: &mut request::Parts,
        port: u16,
    ) -> Result<(), Denied> {
        let (otherwise, provider, pending) = match stop {
            Stop::Denied(denied) => return Err(denied),
            Stop::Awaits {
                otherwise,
                provider,
                pending,
            } => (otherwise, provider, pending),
        };
        let reason = match pending {
            Pending::Keys(pending) => {
                let until = *patience
                    .keys_until
                    .get_or_insert_with(|| Instant::now() + pending.patience);
                if self.key_misses.wait(&pending, until).await {
                    return Ok(());
                }
                otherwise.reason
            }
            Pending::Answer(question) => {
                patience.asked += 1;
                if patience.asked > MAX_ASKED {
                    Reason::IntrospectionFailed
                } else {
                    match self.introspect(&provider, question, head, port).await {
                        Ok(()) => return Ok(()),
                        Err(reason) => reason,
                    }
                }
            }
        };
        count(Some(&provider), reason.code());
        Err(Denied {
            reason,
            ..otherwise
        })
    }

    /// Asks about a token and remembers the answer.
    async fn introspect(
        &self,
        provider: &Arc<Provider>,
        question: Question,
        head: &mut request::Parts,
        port: u16,
    ) -> Result<(), Reason> {
        let Question {
            under,
            place,
            digest,
            token,
        } = question;
        let name = fingerprint(&digest);
        let asked = self
            .introspector
            .ask(provider, digest, name, token.expose());
        // Boxed, so that requests that need not ask do not carry the room for it.
        match Box::pin(asked).await {
            Verdict::Active(verified, fresh_until) => {
                self.remember_answer(digest, verified, fresh_until);
                Ok(())
            }
            Verdict::Refused(reason) => {
                self.remember_refusal(under, digest, reason, provider);
                Err(reason)
            }
            Verdict::Unknown => {
                let failure = provider.on_introspection_failure(head.uri.path(), port);
                if failure != mesh::IntrospectionFailure::Anonymous {
                    return Err(Reason::IntrospectionFailed);
                }
                count(Some(provider), "anonymous");
                under.policy.remove(place, head);
                Ok(())
            }
        }
    }

    fn remember_answer(&self, digest: Digest, verified: Rc<Verified>, fresh_until: i64) {
        self.verified.add(verified.provider());
        self.stale
            .keep(digest, &verified, fresh_until, unix_seconds());
        let mut cache = self.cache.borrow_mut();
        // Revocations are looked at when it passes.
        let evicted = cache.put(digest, verified, UNSEEN, fresh_until);
        self.evictions.increment(evicted);
    }

    fn remember_refusal(
        &self,
        under: Under,
        digest: Digest,
        reason: Reason,
        provider: &Arc<Provider>,
    ) {
        let ttl = provider
            .introspection()
            .and_then(|i| i.negative_cache_seconds)
            .unwrap_or(DEFAULT_NEGATIVE_CACHE);
        if ttl > 0 {
            let until = unix_seconds().saturating_add(ttl.into());
            let provider = Some(Arc::clone(provider));
            let mut failures = self.failures.borrow_mut();
            failures.put(under, digest, reason, provider, until);
        }
    }

    /// What is known of a token that has to be asked about, without waiting: an answer that came meanwhile, or an old one
    /// that is asked for again. `None`: nothing.
    pub(super) fn known(
        &self,
        under: &Under,
        provider: &Arc<Provider>,
        presented: Presented<'_>,
        digest: Digest,
        now: i64,
    ) -> Option<Result<Rc<Verified>, Failed>> {
        match self.stale.find(&digest, provider, now) {
            Known::Nothing | Known::New(Verdict::Unknown) => None,
            Known::Old(verified, is_to_be_asked) => {
                if is_to_be_asked {
                    let name = fingerprint(&digest);
                    let token = presented.expose();
                    // Where too many questions are open, the next request tries.
                    if let Some(flight) = self.introspector.begin(provider, digest, name, token) {
                        self.stale.ask_again(&digest, flight);
                    }
                }
                Some(Ok(verified))
            }
            Known::New(Verdict::Active(verified, fresh_until)) => {
                self.remember_answer(digest, Rc::clone(&verified), fresh_until);
                Some(Ok(verified))
            }
            Known::New(Verdict::Refused(reason)) => {
                self.remember_refusal(under.clone(), digest, reason, provider);
                Some(Err(denied(reason, Some(provider))))
            }
        }
    }
}
