//! Everything that selects one workload, together: which tokens, where, and whose.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::HeaderMap;
use http::request;
use mesh_proto::mesh;

use super::compact::{self, Compact, HeaderMemo};
use super::compile::{self, TokenPolicyError};
use super::places::{self, Found, Place, Presented};
use super::provider::{Provider, Verified};
use super::verified::Fingerprint;
use crate::Reason;
use crate::claims;

/// The rules that select one workload, compiled.
#[derive(Debug)]
pub struct TokenPolicy {
    providers: Vec<Arc<Provider>>,
    places: Vec<Place>,
    /// Headers that only we write: names, with `_` and `.` as `-`.
    owned: Vec<Box<str>>,
}

/// What became of a token.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // It is taken apart at once, and mostly this; a box would be moved out of again.
pub enum Outcome {
    /// It is good, if its caller is.
    Verified(Verified),
    /// Only the provider's introspection endpoint can tell.
    Introspect(Arc<Provider>),
}

/// Why a token is refused, and by whom.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Who judged it; `None` when nobody did.
    pub provider: Option<Arc<Provider>>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            provider: None,
        }
    }
}

impl TokenPolicy {
    /// Compiles the rules that select a workload; `None` when there are none. What did not change since `prior` is shared
    /// with it, keys and all: a provider that is another `Arc` has another rule or other keys.
    ///
    /// # Errors
    /// Names the document and the field that does not compile.
    pub fn compile<'a>(
        documents: impl IntoIterator<Item = &'a mesh::RequestAuthentication>,
        key_sets: &BTreeMap<String, Arc<mesh::KeySet>>,
        prior: Option<&Self>,
    ) -> Result<Option<Self>, TokenPolicyError> {
        let mut providers: Vec<Arc<Provider>> = Vec::new();
        for document in documents {
            let policy = format!("{}/{}", document.namespace, document.name);
            for (i, rule) in document.rules.iter().enumerate() {
                let held = compile::key_set_name(rule).and_then(|name| key_sets.get(&name));
                let keys = held.map(|set| set.jwks.as_str());
                let shared = prior.and_then(|prior| prior.same(rule, &policy, keys));
                let provider = match shared {
                    Some(provider) => Arc::clone(provider),
                    None => compile::compile(rule, &policy, &format!("spec.jwtRules[{i}]"), keys)
                        .map(Arc::new)
                        .map_err(|error| TokenPolicyError {
                            policy: policy.clone(),
                            ..error
                        })?,
                };
                providers.push(provider);
            }
        }
        if providers.is_empty() {
            return Ok(None);
        }
        let mut places: Vec<Place> = Vec::new();
        let mut owned: Vec<Box<str>> = Vec::new();
        for provider in &providers {
            for place in &provider.places {
                if !places.contains(place) {
                    places.push(place.clone());
                }
            }
            let names = provider.claim_headers.iter().map(|header| &header.name);
            for name in names.chain(&provider.payload_header) {
                owned.push(fold(name.as_str()).collect::<String>().into());
            }
        }
        owned.sort_unstable();
        owned.dedup();
        Ok(Some(Self {
            providers,
            places,
            owned,
        }))
    }

    fn same(
        &self,
        rule: &mesh::TokenRule,
        policy: &str,
        keys: Option<&str>,
    ) -> Option<&Arc<Provider>> {
        let same = |p: &&Arc<Provider>| {
            *p.policy == *policy && p.rule == *rule && p.key_text.as_deref() == keys
        };
        self.providers.iter().find(same)
    }

    /// Every provider.
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// True while `provider` is one of these: what it verified before may be used.
    pub fn has(&self, provider: &Arc<Provider>) -> bool {
        self.providers.iter().any(|p| Arc::ptr_eq(p, provider))
    }

    /// Removes every header that only we write, in every spelling. To be done before anything else, token or not.
    pub fn strip_claim_headers(&self, headers: &mut HeaderMap) {
        if self.owned.is_empty() {
            return;
        }
        let ours = |name: &str| {
            self.owned
                .iter()
                .any(|owned| owned.len() == name.len() && owned.chars().eq(fold(name)))
        };
        let found: Vec<_> = headers
            .keys()
            .filter(|n| ours(n.as_str()))
            .cloned()
            .collect();
        for name in found {
            headers.remove(name);
        }
    }

    /// The tokens of a request.
    ///
    /// # Errors
    /// More than one, or something that is half a token.
    pub fn find<'a>(&self, head: &'a request::Parts) -> Result<Found<'a>, Reason> {
        places::find(&self.places, head)
    }

    /// True if `provider` takes tokens from where this one was.
    pub fn permits(&self, provider: &Provider, presented: Presented<'_>) -> bool {
        self.places
            .get(presented.place)
            .is_some_and(|place| provider.places.contains(place))
    }

    /// The provider that demands a token on this path and port, if one does.
    pub fn requires(&self, path: &str, port: u16) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|p| p.requires(path, port))
    }

    /// Takes a token out of the request.
    pub fn remove(&self, place: usize, head: &mut request::Parts) {
        if let Some(place) = self.places.get(place) {
            place.remove(head);
        }
    }

    /// Judges what a token says of itself at `now`, Unix seconds, with its signature, key, place and binding taken as good:
    /// to explain a decision, never to make one.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge_claims(
        &self,
        claims: &claims::Object,
        now: i64,
    ) -> Result<&Arc<Provider>, Reason> {
        let provider = self.providers.iter().find(|p| p.speaks_for(claims));
        let provider = provider.ok_or(Reason::TokenUnknownIssuer)?;
        provider.accept(claims, now).map(|_| provider)
    }

    /// Judges a token that was verified before and holds a stream open: whether a rule accepts what it says at `now`, Unix
    /// seconds. Its signature was good and stays so, whatever keys came or went; when it expires is the stream's own affair.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn still_accepts(&self, verified: &Verified, now: i64) -> Result<(), Reason> {
        if self.has(verified.provider()) {
            return Ok(());
        }
        let (claims, before) = (verified.token().claims(), verified.provider());
        let at = now.min(verified.expired_from().saturating_sub(1));
        // What was asked about by introspection need not say who issued it.
        let introspected = |p: &Provider| p.introspection().is_some() && p.name() == before.name();
        let mut refusal = Reason::TokenUnknownIssuer;
        for provider in &self.providers {
            if provider.speaks_for(claims) || introspected(provider) {
                match provider.accept(claims, at) {
                    Ok(_) => return Ok(()),
                    Err(reason) => refusal = reason,
                }
            }
        }
        Err(refusal)
    }

    /// Verifies a token at `now`, Unix seconds. Binding is not checked here: it depends on the caller.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(
        &self,
        presented: Presented<'_>,
        now: i64,
        fingerprint: Fingerprint,
        memo: &mut HeaderMemo,
    ) -> Result<Outcome, Refusal> {
        let here = || self.providers.iter().filter(|p| self.permits(p, presented));
        let text = presented.text;
        if here().all(|p| text.len() > p.max_bytes) {
            return Err(Reason::TokenTooLarge.into());
        }
        let opaque = || match here().find(|p| p.introspection().is_some()) {
            Some(provider) if is_opaque(text) => Ok(Outcome::Introspect(Arc::clone(provider))),
            _ => Err(Reason::TokenMalformed.into()),
        };
        // Where JWTs are verified, a broken one is no opaque token. Elsewhere the form of a token means nothing: whoever made
        // it is asked (RFC 7662 §1).
        let broken = || match here().any(|p| p.verifies_jwts()) {
            true => Err(Reason::TokenMalformed.into()),
            false => opaque(),
        };
        let Some(compact) = Compact::split(text) else {
            return opaque();
        };
        let header = match memo.read(compact.header) {
            Ok(header) => header,
            Err(Reason::TokenMalformed) if compact::is_like_jwt(compact) => return broken(),
            Err(Reason::TokenMalformed) => return opaque(),
            Err(reason) => return Err(reason.into()),
        };
        let payload = compact::decode(compact.payload);
        let signature = compact::decode(compact.signature);
        let claims = payload.and_then(|p| claims::parse(&p).map_err(|_| Reason::TokenMalformed));
        let (Ok(signature), Ok(claims)) = (signature, claims) else {
            return broken();
        };
        let mut refusal = Refusal::from(Reason::TokenUnknownIssuer);
        for provider in here().filter(|p| p.speaks_for(&claims)) {
            if text.len() > provider.max_bytes {
                refusal = refused(Reason::TokenTooLarge, provider);
                continue;
            }
            match provider.verify(&header, compact, &signature, &claims, now) {
                Ok(accepted) => {
                    memo.keep(compact.header, &header);
                    return Verified::new(provider, accepted, claims, compact.payload, fingerprint)
                        .map(Outcome::Verified)
                        .map_err(|reason| refused(reason, provider));
                }
                Err(Reason::KeysUnavailable) if provider.introspection().is_some() => {
                    return Ok(Outcome::Introspect(Arc::clone(provider)));
                }
                // The first one that judged it is the one to tell.
                Err(reason) if refusal.provider.is_none() => refusal = refused(reason, provider),
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

fn refused(reason: Reason, provider: &Arc<Provider>) -> Refusal {
    Refusal {
        reason,
        provider: Some(Arc::clone(provider)),
    }
}

/// What an opaque token may be made of (RFC 6750 §2.1), so that nothing else is sent to a provider.
fn is_opaque(text: &[u8]) -> bool {
    let trimmed = text.trim_ascii_end();
    !text.is_empty()
        && trimmed.len() == text.len()
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b))
}

fn fold(name: &str) -> impl Iterator<Item = char> {
    name.chars()
        .map(|c| if matches!(c, '_' | '.') { '-' } else { c })
}
