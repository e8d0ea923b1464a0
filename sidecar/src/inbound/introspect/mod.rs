//! Opaque tokens: the provider's introspection endpoint is asked (RFC 7662), once for everybody who presents a token.
//!
//! A worker has its own connections; what it was told is kept by [`super::token`], no longer than the token lives and the
//! rule allows. Of the workers that want to know the same, one asks ([`questions`]); that an endpoint fails is known to all
//! ([`health`]). Only as many questions are open as are bounded here; who comes then gets no answer.

mod assertion;
mod endpoint;
mod health;
mod question;
mod questions;
#[cfg(test)]
pub(crate) mod testing;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use mesh_auth::Reason;
use mesh_auth::claims::{Number, Value};
use mesh_auth::token::{Fingerprint, Provider, Verified};
use metrics::counter;

pub use self::questions::Questions;

use self::endpoint::Endpoint;
use self::question::Answer;
use self::questions::{Place, Told};
use crate::snapshot::SharedSnapshot;
use crate::wall_clock::unix_seconds;
use crate::worker::dial::Dialer;

/// Questions open at one time.
const MAX_OPEN: usize = 256;
/// Endpoints remembered; rules are few.
const MAX_ENDPOINTS: usize = 32;
/// Seconds for which an answer is believed where the rule does not say.
const DEFAULT_CACHE: u32 = 30;

/// What is known of a token after asking.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is good until this time, Unix seconds; then it has to be asked about again.
    Active(Rc<Verified>, i64),
    /// It is not active, or not good here.
    Refused(Reason),
    /// Nobody could say.
    Unknown,
}

/// A token and the rule under which it is asked about. The rule lives as long as the question.
type Subject = ([u8; 32], *const Provider);
type Asking = LocalBoxFuture<'static, Verdict>;
/// A question that is being asked; everybody who holds it gets the answer.
pub type Flight = Shared<Asking>;

/// What one worker asks.
pub struct Introspector {
    questions: Arc<Questions>,
    dialer: Dialer,
    snapshot: SharedSnapshot,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    open: RefCell<HashMap<Subject, WeakShared<Asking>>>,
}

impl Introspector {
    /// Asks nobody yet; shares `questions` with the other workers, connects with `dialer`, and finds in `snapshot` the
    /// certificate that it may have to present.
    pub fn new(questions: Arc<Questions>, dialer: Dialer, snapshot: SharedSnapshot) -> Self {
        metrics::describe_counter!(
            "postern_introspections_total",
            "Questions about opaque tokens to their providers, by provider and result."
        );
        Self {
            questions,
            dialer,
            snapshot,
            endpoints: RefCell::default(),
            open: RefCell::default(),
        }
    }

    /// Asks `provider` about a token, or joins those who are asking.
    pub async fn ask(
        &self,
        provider: &Arc<Provider>,
        digest: [u8; 32],
        fingerprint: Fingerprint,
        token: &[u8],
    ) -> Verdict {
        let subject = (digest, Arc::as_ptr(provider));
        let Some(flight) = self.flight(subject, provider, fingerprint, token) else {
            return Verdict::Unknown;
        };
        let verdict = flight.await;
        self.open.borrow_mut().remove(&subject);
        verdict
    }

    /// The question about a token, for whoever does not wait for the answer at once; `None` when too many are open.
    pub fn begin(
        &self,
        provider: &Arc<Provider>,
        digest: [u8; 32],
        fingerprint: Fingerprint,
        token: &[u8],
    ) -> Option<Flight> {
        let subject = (digest, Arc::as_ptr(provider));
        self.flight(subject, provider, fingerprint, token)
    }

    fn flight(
        &self,
        subject: Subject,
        provider: &Arc<Provider>,
        fingerprint: Fingerprint,
        token: &[u8],
    ) -> Option<Flight> {
        let mut open = self.open.borrow_mut();
        if let Some(flight) = open.get(&subject).and_then(WeakShared::upgrade) {
            return Some(flight);
        }
        if open.len() >= MAX_OPEN {
            // Everybody may have hung up on some.
            open.retain(|_, flight| flight.upgrade().is_some());
        }
        if open.len() >= MAX_OPEN {
            return None;
        }
        let asker = Asker {
            questions: Arc::clone(&self.questions),
            endpoint: self.endpoint(provider)?,
            provider: Arc::clone(provider),
            fingerprint,
            token: mesh_auth::Secret::new(token.to_vec()),
        };
        let question = async move { asker.verdict().await };
        let flight = question.boxed_local().shared();
        open.insert(subject, flight.downgrade()?);
        Some(flight)
    }

    fn endpoint(&self, provider: &Provider) -> Option<Rc<Endpoint>> {
        let rule = provider.introspection()?;
        let issuer = provider.rule().issuer.as_str();
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(held) = endpoints.iter().find(|held| held.is(rule, issuer)) {
            return Some(Rc::clone(held));
        }
        if endpoints.len() >= MAX_ENDPOINTS {
            endpoints.clear();
        }
        let endpoint = Rc::new(Endpoint::new(
            rule,
            issuer,
            self.dialer,
            self.snapshot.clone(),
            self.questions.endpoints.health(rule, issuer),
        ));
        endpoints.push(Rc::clone(&endpoint));
        Some(endpoint)
    }
}

/// Who wants to know of one token.
struct Asker {
    questions: Arc<Questions>,
    endpoint: Rc<Endpoint>,
    provider: Arc<Provider>,
    fingerprint: Fingerprint,
    token: mesh_auth::Secret<Vec<u8>>,
}

impl Asker {
    /// Asks, or waits for the worker that does.
    async fn verdict(&self) -> Verdict {
        loop {
            let token = self.token.expose();
            match self.questions.join(&self.provider, token, unix_seconds()) {
                Place::Answered(told) => return self.judge(told),
                Place::Follow(follower) => {
                    if let Some(told) = follower.answer().await {
                        return self.judge(told);
                    }
                }
                Place::Lead(leader) => {
                    let told = self.ask().await;
                    let verdict = self.judge(told.clone());
                    let (result, until) = match &verdict {
                        Verdict::Active(_, until) => ("active", Some(*until)),
                        Verdict::Refused(reason) => (reason.code(), None),
                        Verdict::Unknown => ("failed", None),
                    };
                    let name = self.provider.name().to_string();
                    counter!("postern_introspections_total", "provider" => name, "result" => result)
                        .increment(1);
                    leader.tell(told, until, unix_seconds());
                    return verdict;
                }
            }
        }
    }

    async fn ask(&self) -> Told {
        match self.endpoint.ask(self.token.expose()).await {
            Ok(Answer::Active(claims)) => Told::Active(Arc::new(claims), unix_seconds()),
            Ok(Answer::Inactive) => Told::Inactive,
            Err(error) => {
                tracing::warn!(
                    provider = &**self.provider.name(),
                    token = %self.fingerprint,
                    %error,
                    "cannot ask about an opaque token"
                );
                Told::Failed
            }
        }
    }

    fn judge(&self, told: Told) -> Verdict {
        let (claims, at) = match told {
            Told::Active(claims, at) => (claims, at),
            Told::Inactive => return Verdict::Refused(Reason::TokenInactive),
            Told::Failed => return Verdict::Unknown,
        };
        let now = unix_seconds();
        let longest = match self.endpoint.rule().max_cache_seconds {
            0 => DEFAULT_CACHE,
            seconds => seconds,
        };
        let until = at.saturating_add(longest.into());
        // `exp` is optional there (RFC 7662 §2.2); such a token lives as long as the answer is used.
        let stale = self.endpoint.rule().stale_seconds.unwrap_or(0);
        let last = until.saturating_add(stale.into());
        let claims = Arc::unwrap_or_clone(claims);
        let claims = claims.with_default("exp", Value::Number(Number::Integer(last)));
        let accepted = self
            .provider
            .accept_introspected(claims, now, self.fingerprint);
        match accepted {
            Ok(verified) => {
                let expires = verified.token().expires_at().unwrap_or(until);
                Verdict::Active(Rc::new(verified), until.min(expires.max(now + 1)))
            }
            Err(reason) => Verdict::Refused(reason),
        }
    }
}

#[cfg(test)]
mod tests;
