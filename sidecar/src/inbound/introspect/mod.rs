//! Opaque tokens: the provider's introspection endpoint is asked (RFC 7662), once for everybody who presents a token.
//!
//! A worker has its own connections and asks by itself; what it was told is kept by [`super::token`], no longer than the
//! token lives and the rule allows. Only as many questions are open as are bounded here; who comes then gets no answer.

mod assertion;
mod endpoint;
mod question;

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

use self::endpoint::Endpoint;
use self::question::Answer;
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
    dialer: Dialer,
    snapshot: SharedSnapshot,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    open: RefCell<HashMap<Subject, WeakShared<Asking>>>,
}

impl Introspector {
    /// Asks nobody yet; connects with `dialer`, and finds in `snapshot` the certificate that it may have to present.
    pub fn new(dialer: Dialer, snapshot: SharedSnapshot) -> Self {
        metrics::describe_counter!(
            "postern_introspections_total",
            "Questions about opaque tokens to their providers, by provider and result."
        );
        Self {
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
        let endpoint = self.endpoint(provider)?;
        let (provider, token) = (Arc::clone(provider), mesh_auth::Secret::new(token.to_vec()));
        let question = async move {
            let verdict = ask(&endpoint, &provider, fingerprint, token.expose()).await;
            let result = match &verdict {
                Verdict::Active(..) => "active",
                Verdict::Refused(reason) => reason.code(),
                Verdict::Unknown => "failed",
            };
            let name = provider.name().to_string();
            counter!("postern_introspections_total", "provider" => name, "result" => result)
                .increment(1);
            verdict
        };
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
        ));
        endpoints.push(Rc::clone(&endpoint));
        Some(endpoint)
    }
}

async fn ask(
    endpoint: &Endpoint,
    provider: &Arc<Provider>,
    fingerprint: Fingerprint,
    token: &[u8],
) -> Verdict {
    let claims = match endpoint.ask(token).await {
        Ok(Answer::Active(claims)) => claims,
        Ok(Answer::Inactive) => return Verdict::Refused(Reason::TokenInactive),
        Err(error) => {
            tracing::warn!(
                provider = &**provider.name(),
                token = %fingerprint,
                %error,
                "cannot ask about an opaque token"
            );
            return Verdict::Unknown;
        }
    };
    let now = unix_seconds();
    let longest = match endpoint.rule().max_cache_seconds {
        0 => DEFAULT_CACHE,
        seconds => seconds,
    };
    let until = now.saturating_add(longest.into());
    // `exp` is optional there (RFC 7662 §2.2); such a token lives as long as the answer is used.
    let stale = endpoint.rule().stale_seconds.unwrap_or(0);
    let last = until.saturating_add(stale.into());
    let claims = claims.with_default("exp", Value::Number(Number::Integer(last)));
    match provider.accept_introspected(claims, now, fingerprint) {
        Ok(verified) => {
            let expires = verified.token().expires_at().unwrap_or(until);
            Verdict::Active(Rc::new(verified), until.min(expires.max(now + 1)))
        }
        Err(reason) => Verdict::Refused(reason),
    }
}

#[cfg(test)]
mod tests;
