//! What is known of a verified token: what policy asks for, extracted once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::claims::{Object, Value};

/// Names a token in logs without telling it: the start of a digest keyed with a secret of this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a token whose keyed digest starts with `bytes`.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

static NEXT_VERIFICATION: AtomicU64 = AtomicU64::new(1);

/// A token that was verified, or introspected and found active. The token's text is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    provider: Arc<str>,
    fingerprint: Fingerprint,
    principal: Option<Box<str>>,
    scopes: Box<[Box<str>]>,
    expires_at: Option<i64>,
    not_before: Option<i64>,
    issued_at: Option<i64>,
    claims: Object,
    words: Arc<[Box<str>]>,
    verification: u64,
}

impl VerifiedToken {
    /// The token that `claims` describe. Whoever calls this has verified them: a signature, or the answer of an
    /// introspection endpoint. `provider` names the rule that accepted it.
    pub(crate) fn of_verified_claims(
        provider: Arc<str>,
        fingerprint: Fingerprint,
        claims: Object,
    ) -> Self {
        let principal = match (claims.string("iss"), claims.string("sub")) {
            (Some(issuer), Some(subject)) => Some([issuer, "/", subject].concat().into()),
            _ => None,
        };
        let date = |name| claims.get(name).and_then(Value::as_date);
        Self {
            provider,
            fingerprint,
            principal,
            // `scp` is what some providers call it; both may be a list (RFC 9068 §2.2.3, and what is seen).
            scopes: words(claims.get("scope").or_else(|| claims.get("scp"))),
            expires_at: date("exp").map(|d| d.floor),
            not_before: date("nbf").map(|d| d.ceiling),
            issued_at: date("iat").map(|d| d.ceiling),
            claims,
            words: Arc::default(),
            verification: NEXT_VERIFICATION.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Number of the verification it came from, not 0: no two that might differ in a claim have the same.
    pub(crate) fn verification(&self) -> u64 {
        self.verification
    }

    /// With the claims whose string is a list of words, beside `scope`.
    pub(super) fn with_words(mut self, words: &Arc<[Box<str>]>) -> Self {
        self.words = Arc::clone(words);
        self
    }

    /// A token that nobody verified, for policies that are tried out offline. Never call this where a request is served.
    pub fn unverified_for_policy_test(provider: &str, claims: Object) -> Self {
        Self::of_verified_claims(provider.into(), Fingerprint::new([0; 8]), claims)
    }

    /// The rule that accepted it, `namespace/name/issuer`.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// What logs call it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// `iss`.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.string("iss")
    }

    /// `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.claims.string("sub")
    }

    /// `iss/sub`, Istio's request principal; `None` unless both are there.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// `aud`, a string or an array of them.
    pub fn audiences(&self) -> impl Iterator<Item = &str> + Clone {
        let aud = self.claims.get("aud");
        let list = aud.and_then(Value::as_array).unwrap_or_default();
        let one = aud.and_then(Value::as_str);
        one.into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    /// Who presents it: `azp`, else `client_id`.
    pub fn presenter(&self) -> Option<&str> {
        self.claims
            .string("azp")
            .or_else(|| self.claims.string("client_id"))
    }

    /// The scopes: `scope`, else `scp`; a string of words or an array.
    pub fn scopes(&self) -> &[Box<str>] {
        &self.scopes
    }

    /// `exp`, Unix seconds, rounded down. The leeway of the provider is not in it.
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// `nbf`, Unix seconds, rounded up.
    pub fn not_before(&self) -> Option<i64> {
        self.not_before
    }

    /// `iat`, Unix seconds, rounded up.
    pub fn issued_at(&self) -> Option<i64> {
        self.issued_at
    }

    /// `jti`.
    pub fn id(&self) -> Option<&str> {
        self.claims.string("jti")
    }

    /// `sid`.
    pub fn session(&self) -> Option<&str> {
        self.claims.string("sid")
    }

    /// True when the string that this top-level claim is stands for a list of words.
    pub fn is_word_list(&self, claim: &str) -> bool {
        claim == "scope" || self.words.iter().any(|word| **word == *claim)
    }

    /// Every claim.
    pub fn claims(&self) -> &Object {
        &self.claims
    }
}

/// What belongs into a log: nothing that the token says of its subject.
impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("provider", &self.provider)
            .field("fingerprint", &self.fingerprint)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The strings of a claim that is a string of words or an array of strings.
fn words(value: Option<&Value>) -> Box<[Box<str>]> {
    match value {
        Some(Value::String(text)) => text
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(Into::into)
            .collect(),
        Some(Value::Array(values)) => values
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect(),
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::parse;

    fn token(claims: &str) -> VerifiedToken {
        VerifiedToken::unverified_for_policy_test("p", parse(claims.as_bytes()).unwrap())
    }

    #[test]
    fn what_policy_asks_for_is_extracted() {
        let it = token(
            r#"{"iss":"https://a","sub":"s","aud":["x","y"],"azp":"c","client_id":"d","scope":"a  b","exp":9.5,"nbf":9.5,"iat":1,"jti":"j","sid":"k"}"#,
        );
        assert_eq!(it.principal(), Some("https://a/s"));
        assert!(it.audiences().eq(["x", "y"]));
        assert_eq!(it.presenter(), Some("c"));
        assert_eq!(it.scopes(), ["a".into(), "b".into()]);
        assert_eq!((it.expires_at(), it.not_before()), (Some(9), Some(10)));
        assert_eq!((it.id(), it.session()), (Some("j"), Some("k")));
        let other = token(r#"{"aud":"x","client_id":"d","scp":["a b","c"]}"#);
        assert_eq!(other.principal(), None);
        assert!(other.audiences().eq(["x"]));
        assert_eq!(other.presenter(), Some("d"));
        assert_eq!(other.scopes(), ["a b".into(), "c".into()]);
    }

    #[test]
    fn debug_tells_nothing_of_the_subject() {
        let text = format!(
            "{:?}",
            token(r#"{"iss":"canary","sub":"canary","x":"canary"}"#)
        );
        assert!(!text.contains("canary"), "{text}");
    }
}
