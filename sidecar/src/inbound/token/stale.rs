//! Answers about opaque tokens that are no longer fresh, used for a bounded time while they are asked for again.
//!
//! Looked at only when the cache of verified tokens does not know a token any more. Whoever finds a stale answer has the
//! question asked, once, and goes on without waiting; who comes after the new answer gets that. An answer that was refused,
//! or that did not come, ends the use of the old one. Expiry, revocation and caller are checked at every use, elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::sync::Arc;

use mesh_auth::token::{Provider, Verified};

use super::digest::{Digest, Start};
use crate::inbound::introspect::{Flight, Verdict};

/// Answers kept; further ones are not used beyond their time.
const MAX_ENTRIES: usize = 1024;
/// Largest answer kept, bytes.
const MAX_WEIGHT: usize = 16 << 10;

struct Entry {
    verified: Rc<Verified>,
    /// Unix seconds.
    until: i64,
    /// Once somebody asks again: the answer, when it is there.
    again: Option<Rc<Cell<Option<Verdict>>>>,
}

/// What is known of a token whose answer is not fresh.
pub(super) enum Known {
    /// Nothing that may be used.
    Nothing,
    /// The old answer, and whether it has yet to be asked for again.
    Old(Rc<Verified>, bool),
    /// A new answer that nobody used yet.
    New(Verdict),
}

/// What one worker keeps.
#[derive(Default)]
pub(super) struct Stale {
    entries: RefCell<HashMap<Digest, Entry, BuildHasherDefault<Start>>>,
}

impl Stale {
    /// Keeps an answer that is fresh until `fresh_until` for as long afterwards as its rule says, and not beyond its expiry.
    pub(super) fn keep(&self, digest: Digest, verified: &Rc<Verified>, fresh_until: i64, now: i64) {
        let provider = verified.provider();
        let rule = provider.introspection();
        let stale = rule.and_then(|rule| rule.stale_seconds).unwrap_or(0);
        let expires = verified.token().expires_at().unwrap_or(fresh_until);
        let until = fresh_until.saturating_add(stale.into()).min(expires);
        let mut entries = self.entries.borrow_mut();
        if until <= fresh_until || verified.weight() > MAX_WEIGHT {
            entries.remove(&digest);
            return;
        }
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, entry| now < entry.until);
        }
        if entries.len() < MAX_ENTRIES || entries.contains_key(&digest) {
            let entry = Entry {
                verified: Rc::clone(verified),
                until,
                again: None,
            };
            entries.insert(digest, entry);
        }
    }

    /// What is known of a token that `provider` has to be asked about at `now`. A new answer is told once.
    pub(super) fn find(&self, digest: &Digest, provider: &Arc<Provider>, now: i64) -> Known {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get(digest) else {
            return Known::Nothing;
        };
        if now >= entry.until || !Arc::ptr_eq(entry.verified.provider(), provider) {
            entries.remove(digest);
            return Known::Nothing;
        }
        let Some(again) = &entry.again else {
            return Known::Old(Rc::clone(&entry.verified), true);
        };
        match again.take() {
            None => Known::Old(Rc::clone(&entry.verified), false),
            Some(verdict) => {
                entries.remove(digest);
                match verdict {
                    // Nobody came while it was good.
                    Verdict::Active(_, fresh_until) if now >= fresh_until => Known::Nothing,
                    verdict => Known::New(verdict),
                }
            }
        }
    }

    /// Has the answer to `flight` ready for whoever comes next. The task ends with the question, which has a deadline.
    pub(super) fn ask_again(&self, digest: &Digest, flight: Flight) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(digest) else {
            return;
        };
        let again = Rc::new(Cell::new(None));
        entry.again = Some(Rc::clone(&again));
        tokio::task::spawn_local(async move {
            again.set(Some(flight.await));
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use mesh_auth::Reason;
    use mesh_auth::claims;
    use mesh_auth::token::Fingerprint;

    use super::*;
    use crate::inbound::introspect::testing;

    const TOKEN: Digest = [7; 32];
    const NOW: i64 = 1000;
    const FRESH: i64 = 1030;

    fn provider() -> Arc<Provider> {
        testing::provider(Some(10))
    }

    fn verified(provider: &Arc<Provider>, exp: i64) -> Rc<Verified> {
        let claims = claims::parse(format!(r#"{{"active":true,"exp":{exp}}}"#).as_bytes());
        let name = Fingerprint::new([0; 8]);
        let verified = provider.accept_introspected(claims.expect("JSON"), NOW, name);
        Rc::new(verified.expect("good"))
    }

    fn found(stale: &Stale, provider: &Arc<Provider>, now: i64) -> &'static str {
        match stale.find(&TOKEN, provider, now) {
            Known::Nothing => "nothing",
            Known::Old(_, true) => "old, to be asked",
            Known::Old(_, false) => "old, being asked",
            Known::New(Verdict::Active(..)) => "active",
            Known::New(Verdict::Refused(_)) => "refused",
            Known::New(Verdict::Unknown) => "unknown",
        }
    }

    #[test]
    fn an_old_answer_is_bounded_by_its_rule_and_its_expiry() {
        let (provider, other) = (provider(), provider());
        for (exp, of, now, expected) in [
            (2000, &provider, FRESH, "old, to be asked"),
            (2000, &provider, FRESH + 9, "old, to be asked"),
            (2000, &provider, FRESH + 10, "nothing"),
            (2000, &other, FRESH, "nothing"),
            (FRESH + 5, &provider, FRESH + 4, "old, to be asked"),
            (FRESH + 5, &provider, FRESH + 5, "nothing"),
            (FRESH, &provider, FRESH, "nothing"),
        ] {
            let stale = Stale::default();
            stale.keep(TOKEN, &verified(&provider, exp), FRESH, NOW);
            assert_eq!(found(&stale, of, now), expected, "{exp} at {now}");
        }
    }

    #[tokio::test(flavor = "local")]
    async fn it_is_asked_once_and_whatever_is_answered_ends_it() {
        let provider = provider();
        let good = verified(&provider, 2000);
        for (verdict, expected) in [
            (Verdict::Active(Rc::clone(&good), 1060), "active"),
            (Verdict::Active(Rc::clone(&good), FRESH), "nothing"),
            (Verdict::Refused(Reason::TokenInactive), "refused"),
            (Verdict::Unknown, "unknown"),
        ] {
            let stale = Stale::default();
            stale.keep(TOKEN, &good, FRESH, NOW);
            assert_eq!(found(&stale, &provider, FRESH), "old, to be asked");
            let (answer, answered) = tokio::sync::oneshot::channel();
            let asked = async { answered.await.unwrap_or(Verdict::Unknown) };
            stale.ask_again(&TOKEN, asked.boxed_local().shared());
            assert_eq!(found(&stale, &provider, FRESH), "old, being asked");
            answer.send(verdict).ok();
            tokio::task::yield_now().await;
            assert_eq!(found(&stale, &provider, FRESH), expected);
            assert_eq!(found(&stale, &provider, FRESH), "nothing");
        }
    }
}
