//! A provider: one rule, ready to verify.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use mesh_proto::mesh;

use super::algorithm::Algorithms;
use super::binding::{Binding, Caller, Confirmation};
use super::checks::{self, Profile, Times};
use super::compact::{Compact, Header};
use super::keys::{Checked, Keys};
use super::places::Place;
use super::verified::{Fingerprint, VerifiedToken};
use crate::Reason;
use crate::claims::{Object, Value};

/// One issuer's rule. Whoever holds the same `Arc` holds the same rule with the same keys.
#[derive(Debug)]
pub struct Provider {
    pub(super) name: Arc<str>,
    pub(super) policy: Box<str>,
    pub(super) keys: KeySource,
    /// The key set that the keys were read from, if they are not in the rule.
    pub(super) key_text: Option<Box<str>>,
    pub(super) profile: Profile,
    pub(super) accepted: Algorithms,
    pub(super) audiences: Vec<Box<str>>,
    pub(super) leeway: i64,
    pub(super) max_age: Option<u32>,
    pub(super) max_bytes: usize,
    pub(super) binding: Binding,
    pub(super) keep: bool,
    pub(super) ends_streams: bool,
    pub(super) grace: u32,
    pub(super) routes: Vec<Route>,
    pub(super) places: Vec<Place>,
    pub(super) claim_headers: Vec<ClaimHeader>,
    pub(super) payload_header: Option<HeaderName>,
    pub(super) words: Arc<[Box<str>]>,
    pub(super) rule: mesh::TokenRule,
}

/// Where the keys are.
#[derive(Debug)]
pub(super) enum KeySource {
    /// Here.
    Held(Keys),
    /// The control API has not sent them yet.
    Awaited,
    /// Tokens are introspected.
    None,
}

/// A claim that becomes a header.
#[derive(Debug)]
pub(super) struct ClaimHeader {
    pub(super) name: HeaderName,
    /// Names on the way to the claim.
    pub(super) path: Vec<Box<str>>,
}

/// What holds on some paths or ports.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) paths: Vec<Box<str>>,
    pub(super) ports: Vec<u16>,
    pub(super) keep: Option<bool>,
    pub(super) ends_streams: Option<bool>,
    pub(super) required: Option<bool>,
    pub(super) on_introspection_failure: mesh::IntrospectionFailure,
}

impl Route {
    fn matches(&self, path: &str, port: u16) -> bool {
        let on_path = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == pattern,
        };
        (self.ports.is_empty() || self.ports.contains(&port))
            && (self.paths.is_empty() || self.paths.iter().any(|p| on_path(p)))
    }
}

/// How a stream fares when its token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// It goes on.
    Never,
    /// It is ended at this time, Unix seconds: expiry, leeway and grace.
    At(i64),
}

impl Provider {
    /// `namespace/name/issuer`: for logs and labels.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// `iss` of its tokens; empty for a JWT-SVID rule that names none.
    pub fn issuer(&self) -> &str {
        &self.rule.issuer
    }

    /// Who makes its tokens: the issuer, or the trust domain where the rule names none.
    pub fn authority(&self) -> &str {
        match self.issuer() {
            "" => &self.rule.trust_domain,
            issuer => issuer,
        }
    }

    /// The rule it was made of: what introspection is configured with.
    pub fn rule(&self) -> &mesh::TokenRule {
        &self.rule
    }

    /// Where its opaque tokens are asked about.
    pub fn introspection(&self) -> Option<&mesh::TokenIntrospection> {
        self.rule.introspection.as_ref()
    }

    /// True when it has keys, or will have: its JWTs are verified here.
    pub fn verifies_jwts(&self) -> bool {
        !matches!(self.keys, KeySource::None)
    }

    /// Its keys; `None` while they are awaited, and for introspection.
    pub fn keys(&self) -> Option<&Keys> {
        match &self.keys {
            KeySource::Held(keys) => Some(keys),
            KeySource::Awaited | KeySource::None => None,
        }
    }

    /// What to demand of the subject's authentication, seconds.
    pub fn max_age(&self) -> Option<u32> {
        self.max_age
    }

    fn route(&self, path: &str, port: u16) -> Option<&Route> {
        self.routes.iter().find(|route| route.matches(path, port))
    }

    /// True when a request needs a token here.
    pub fn requires(&self, path: &str, port: u16) -> bool {
        let route = self.route(path, port).and_then(|r| r.required);
        route.unwrap_or(self.rule.required)
    }

    /// True when the application gets the token itself.
    pub fn keeps(&self, path: &str, port: u16) -> bool {
        let route = self.route(path, port).and_then(|r| r.keep);
        route.unwrap_or(self.keep)
    }

    /// True when a stream ends with its token, and the grace in seconds.
    pub fn stream_grace(&self, path: &str, port: u16) -> Option<u32> {
        let route = self.route(path, port).and_then(|r| r.ends_streams);
        route.unwrap_or(self.ends_streams).then_some(self.grace)
    }

    /// What happens when nobody answers about an opaque token.
    pub fn on_introspection_failure(&self, path: &str, port: u16) -> mesh::IntrospectionFailure {
        let route = self.route(path, port).map(|r| r.on_introspection_failure);
        match route {
            None | Some(mesh::IntrospectionFailure::Unspecified) => self
                .introspection()
                .map(mesh::TokenIntrospection::on_failure)
                .unwrap_or_default(),
            Some(failure) => failure,
        }
    }

    /// True if a token that says this is its to judge.
    pub(super) fn speaks_for(&self, claims: &Object) -> bool {
        let issuer = claims.string("iss");
        match self.profile {
            // The subject's trust domain decides (SPIFFE JWT-SVID §5); an issuer that is named must be the one expected.
            Profile::JwtSvid => {
                let of_domain = claims.string("sub").is_some_and(|sub| {
                    sub.strip_prefix("spiffe://")
                        .and_then(|rest| rest.strip_prefix(&*self.rule.trust_domain))
                        .is_some_and(|path| path.starts_with('/'))
                });
                of_domain
                    && (self.rule.issuer.is_empty() || issuer.is_none_or(|i| i == self.rule.issuer))
            }
            // `iss` is optional there: there is one service per trust domain that makes them.
            Profile::TxnToken if claims.get("iss").is_none() => true,
            _ => issuer == Some(&*self.rule.issuer),
        }
    }

    /// Verifies a token whose claims were read but not believed.
    pub(super) fn verify(
        self: &Arc<Self>,
        header: &Header,
        compact: Compact<'_>,
        signature: &[u8],
        claims: &Object,
        now: i64,
    ) -> Result<Accepted, Reason> {
        if !self.accepted.contains(header.algorithm) {
            return Err(Reason::TokenAlgorithm);
        }
        self.profile.check_header(header)?;
        let keys = match &self.keys {
            KeySource::Held(keys) => keys,
            KeySource::Awaited | KeySource::None => return Err(Reason::KeysUnavailable),
        };
        check_signature(keys, header, compact, signature)?;
        self.accept(claims, now)
    }

    /// Checks the claims of a token that is known to be the issuer's.
    pub(super) fn accept(&self, claims: &Object, now: i64) -> Result<Accepted, Reason> {
        self.profile.check_claims(claims, &self.rule.trust_domain)?;
        let times = Times::of(claims, self.leeway, self.max_age.map(i64::from))?;
        times.check(now)?;
        checks::check_audience(claims, &self.audiences)?;
        Ok(Accepted {
            times,
            confirmation: Confirmation::of(claims)?,
        })
    }

    /// Accepts the answer of an introspection endpoint that said `active: true`: `claims` is the whole answer. An answer
    /// without `exp` is given one `max_cache_seconds` ahead by whoever asked.
    ///
    /// # Errors
    /// Why the token is refused all the same.
    pub fn accept_introspected(
        self: &Arc<Self>,
        claims: Object,
        now: i64,
        fingerprint: Fingerprint,
    ) -> Result<Verified, Reason> {
        if claims
            .string("iss")
            .is_some_and(|iss| iss != self.rule.issuer)
        {
            return Err(Reason::TokenUnknownIssuer);
        }
        let accepted = self.accept(&claims, now)?;
        Verified::new(self, accepted, claims, &[], fingerprint)
    }
}

/// Verifies the signature of a token with `keys`.
pub(super) fn check_signature(
    keys: &Keys,
    header: &Header,
    compact: Compact<'_>,
    signature: &[u8],
) -> Result<(), Reason> {
    let (kid, algorithm) = (header.kid.as_deref(), header.algorithm);
    match keys.check(kid, algorithm, compact.signed, signature) {
        Checked::Good => Ok(()),
        Checked::BadSignature => Err(Reason::TokenBadSignature),
        Checked::UnknownKey => Err(Reason::TokenUnknownKey),
        Checked::WrongAlgorithm => Err(Reason::TokenAlgorithm),
    }
}

/// What of a token must be checked again at each use.
#[derive(Clone, Copy)]
pub(super) struct Accepted {
    times: Times,
    confirmation: Confirmation,
}

/// A verified token with what it takes to use it again: a cache's value. Times and caller are checked at every use.
#[derive(Debug)]
pub struct Verified {
    token: VerifiedToken,
    provider: Arc<Provider>,
    times: Times,
    confirmation: Confirmation,
    headers: Box<[(HeaderName, HeaderValue)]>,
}

impl Verified {
    pub(super) fn new(
        provider: &Arc<Provider>,
        accepted: Accepted,
        claims: Object,
        payload: &[u8],
        fingerprint: Fingerprint,
    ) -> Result<Self, Reason> {
        let headers = output(provider, &claims, payload)?;
        Ok(Self {
            token: VerifiedToken::of_verified_claims(
                Arc::clone(&provider.name),
                fingerprint,
                claims,
            )
            .with_words(&provider.words),
            provider: Arc::clone(provider),
            times: accepted.times,
            confirmation: accepted.confirmation,
            headers,
        })
    }

    /// What policy sees.
    pub fn token(&self) -> &VerifiedToken {
        &self.token
    }

    /// Who accepted it.
    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// Headers that tell the application what the token says.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// Checks the time again.
    ///
    /// # Errors
    /// Expired, not yet valid, or authenticated too long ago.
    pub fn check_time(&self, now: i64) -> Result<(), Reason> {
        self.times.check(now)
    }

    /// From when on the token is expired, Unix seconds, the leeway in it.
    pub fn expired_from(&self) -> i64 {
        self.times.until()
    }

    /// Checks that `caller` may present it.
    ///
    /// # Errors
    /// `TokenBindingMismatch`.
    pub fn check_caller(&self, caller: &Caller<'_>) -> Result<(), Reason> {
        self.provider
            .binding
            .check(&self.confirmation, self.token.claims(), caller)
    }

    /// When a stream on `path` and `port` that this token opened has to end.
    pub fn stream_end(&self, path: &str, port: u16) -> StreamEnd {
        match self.provider.stream_grace(path, port) {
            Some(grace) => StreamEnd::At(self.times.until().saturating_add(grace.into())),
            None => StreamEnd::Never,
        }
    }

    /// Bytes that it holds, about.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + 2 * self.token.claims().weight()
            + self
                .headers
                .iter()
                .map(|(_, v)| 96 + v.len())
                .sum::<usize>()
    }
}

/// The headers that a token becomes.
fn output(
    provider: &Provider,
    claims: &Object,
    payload: &[u8],
) -> Result<Box<[(HeaderName, HeaderValue)]>, Reason> {
    let mut headers = Vec::new();
    for ClaimHeader { name, path } in &provider.claim_headers {
        let Some(value) = at_path(claims, path) else {
            continue;
        };
        let text = match value {
            Value::String(text) => text.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        // Control characters cannot be in a header; leaving the header out would make somebody nobody.
        let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Reason::TokenClaim)?;
        headers.push((name.clone(), value));
    }
    if let Some(name) = &provider.payload_header
        && !payload.is_empty()
    {
        let value = HeaderValue::from_bytes(payload).map_err(|_| Reason::TokenMalformed)?;
        headers.push((name.clone(), value));
    }
    Ok(headers.into_boxed_slice())
}

fn at_path<'a>(claims: &'a Object, path: &[Box<str>]) -> Option<&'a Value> {
    // A name with dots in it, as namespaced claims have, comes before the way into objects.
    if path.len() > 1
        && let Some(value) = claims.get(&path.join("."))
    {
        return Some(value);
    }
    let (last, way) = path.split_last()?;
    let mut object = claims;
    for name in way {
        object = object.get(name)?.as_object()?;
    }
    object.get(last)
}
