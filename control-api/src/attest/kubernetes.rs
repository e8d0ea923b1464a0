//! Kubernetes projected service-account tokens: verified with the cluster's keys, or by asking its API server.
//!
//! Nothing that was found out about a token is kept: each is judged each time, at that time. The identity is
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, the workload is the pod that the token is bound to.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use mesh_auth::claims::{self, Object};
use mesh_auth::token::{Fingerprint, HeaderMemo, Outcome, TokenPolicy};
use mesh_auth::{Reason, Secret, SpiffeId, TrustDomain};
use mesh_proto::mesh;
use redb::WriteTransaction;
use rustls::ClientConfig;
use serde_json::json;

use super::{AttestError, Attestor, Proven, Subject};
use crate::fetch::{Fetch, Fetcher, Url};

/// How long keys from a URL are used before they are asked for again.
const KEYS_FRESH: Duration = Duration::from_secs(300);
/// Shortest time between two requests for keys, when a token names one that is not known.
const KEYS_AGAIN: Duration = Duration::from_secs(10);
/// Where a TokenReview is posted.
const REVIEW_PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Largest token.
const MAX_TOKEN: u32 = 16 << 10;
/// Prefix of a service account's user name.
const USER: &str = "system:serviceaccount:";

/// How a cluster's tokens are verified.
pub enum Keys {
    /// A JWK set in a file, read again each time.
    File(PathBuf),
    /// A JWK set at a URL.
    Url(Url),
    /// By the cluster's API server.
    Review(TokenReview),
}

/// A cluster's API server.
pub struct TokenReview {
    /// Its address.
    pub url: Url,
}

/// One cluster.
pub struct Settings {
    /// Name in the configuration and in messages.
    pub name: String,
    /// `iss` of its tokens; empty with TokenReview: not looked at.
    pub issuer: String,
    /// Audiences, one of which a token must be for.
    pub audiences: Vec<String>,
    /// How tokens are verified.
    pub keys: Keys,
    /// Roots that its servers are verified by, instead of the usual ones.
    pub tls: Option<Arc<ClientConfig>>,
    /// The control API's own token for the cluster, read at every use.
    pub token_file: Option<PathBuf>,
}

/// The attestor of one cluster.
pub struct Kubernetes {
    settings: Settings,
    label: String,
    fetcher: Arc<Fetcher>,
    domain: TrustDomain,
    fetched: Mutex<Option<(Instant, String)>>,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServiceAccount {
    attestor: String,
    /// The pod that the token is bound to.
    workload: Option<String>,
    /// End of the token, Unix seconds; `None` where only the API server knows it.
    expires_at: Option<i64>,
    id: String,
}

impl Kubernetes {
    /// Has asked nobody yet.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, domain: TrustDomain) -> Self {
        Self {
            label: format!("kubernetes '{}'", settings.name),
            settings,
            fetcher,
            domain,
            fetched: Mutex::new(None),
        }
    }

    fn refused(&self, reason: impl Into<String>) -> AttestError {
        AttestError::Refused {
            attestor: self.label.clone(),
            reason: reason.into(),
        }
    }

    fn unavailable(&self, reason: impl Into<String>) -> AttestError {
        AttestError::Unavailable {
            attestor: self.label.clone(),
            reason: reason.into(),
        }
    }

    /// Verifies a token by the cluster's keys.
    async fn verify(
        &self,
        proof: &Secret<String>,
        now: i64,
    ) -> Result<ServiceAccount, AttestError> {
        let keys = self.keys(KEYS_FRESH).await?;
        let (claims, expires_at) = match self.check(proof, &keys, now) {
            // The cluster may have new keys.
            Err(Reason::TokenUnknownKey) if matches!(self.settings.keys, Keys::Url(_)) => {
                let keys = self.keys(KEYS_AGAIN).await?;
                self.check(proof, &keys, now)
            }
            checked => checked,
        }
        .map_err(|reason| self.refused(format!("{} ({})", explain(reason), reason.code())))?;
        let bound = claims
            .get("kubernetes.io")
            .and_then(claims::Value::as_object);
        let name_of = |part: &str| bound?.get(part)?.as_object()?.string("name");
        let pod = name_of("pod").map(str::to_owned);
        let user = claims.string("sub").unwrap_or_default();
        let account = self.account(user, pod, Some(expires_at))?;
        // Said twice in the token; two answers would be two identities.
        let said = bound.and_then(|b| b.string("namespace"));
        let told = |part: Option<&str>, position: usize| {
            part.is_none_or(|part| user.split(':').nth(position) == Some(part))
        };
        if told(said, 2) && told(name_of("serviceaccount"), 3) {
            Ok(account)
        } else {
            Err(self.refused("'sub' and 'kubernetes.io' name different service accounts"))
        }
    }

    /// Signature and claims that every token has: issuer, audience, time.
    fn check(&self, proof: &Secret<String>, keys: &str, now: i64) -> Result<(Object, i64), Reason> {
        let rule = mesh::TokenRule {
            issuer: self.settings.issuer.clone(),
            audiences: self.settings.audiences.clone(),
            jwks: keys.to_owned(),
            max_token_bytes: MAX_TOKEN,
            ..mesh::TokenRule::default()
        };
        let document = mesh::RequestAuthentication {
            name: "attestation".into(),
            namespace: "postern-system".into(),
            rules: vec![rule],
            ..mesh::RequestAuthentication::default()
        };
        let policy = TokenPolicy::compile([&document], &std::collections::BTreeMap::new(), None)
            .ok()
            .flatten()
            .ok_or(Reason::KeysUnavailable)?;
        let value = Secret::new(format!("Bearer {}", proof.expose()));
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|_| Reason::TokenMalformed)?;
        value.set_sensitive(true);
        let request = Request::builder().header(AUTHORIZATION, value).body(());
        let (head, ()) = request.map_err(|_| Reason::TokenMalformed)?.into_parts();
        let presented = policy.find(&head)?.credential.ok_or(Reason::TokenMissing)?;
        // For the log of a cache that is not used here.
        let fingerprint = Fingerprint::new([0; 8]);
        let mut memo = HeaderMemo::default();
        match policy.verify(presented, now, fingerprint, &mut memo) {
            Ok(Outcome::Verified(verified)) => {
                let token = verified.token();
                let end = token.expires_at().ok_or(Reason::TokenClaim)?;
                Ok((token.claims().clone(), end))
            }
            Ok(_) => Err(Reason::TokenMalformed),
            Err(refusal) => Err(refusal.reason),
        }
    }

    /// The cluster's keys, no older than `fresh` where they come from a URL.
    async fn keys(&self, fresh: Duration) -> Result<String, AttestError> {
        match &self.settings.keys {
            Keys::File(path) => {
                let (path, name) = (path.clone(), path.display().to_string());
                tokio::task::spawn_blocking(move || std::fs::read_to_string(path))
                    .await
                    .map_err(|e| self.unavailable(e.to_string()))?
                    .map_err(|e| self.unavailable(format!("{name}: {e}")))
            }
            Keys::Url(url) => {
                let held = self
                    .fetched
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                if let Some((at, keys)) = &held
                    && at.elapsed() < fresh
                {
                    return Ok(keys.clone());
                }
                let fetched = match self.ask(Fetch::get(url.clone())).await {
                    Ok(keys) => keys,
                    // The last good keys are still the cluster's, as far as anybody knows.
                    Err(error) => return held.map(|(_, keys)| keys).ok_or(error),
                };
                *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), fetched.clone()));
                Ok(fetched)
            }
            Keys::Review(_) => Err(self.unavailable("its tokens are verified by its API server")),
        }
    }

    /// Asks the cluster, as the control API.
    async fn ask(&self, mut fetch: Fetch) -> Result<String, AttestError> {
        fetch.tls.clone_from(&self.settings.tls);
        if let Some(path) = &self.settings.token_file {
            let read = std::fs::read_to_string(path).map(Secret::new);
            let own = read.map_err(|e| self.unavailable(format!("{}: {e}", path.display())))?;
            let text = Secret::new(format!("Bearer {}", own.expose().trim()));
            let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
                self.unavailable(format!("{}: holds more than a token", path.display()))
            })?;
            value.set_sensitive(true);
            fetch.headers.insert(AUTHORIZATION, value);
        }
        let fetched = self
            .fetcher
            .fetch(&fetch)
            .await
            .map_err(|e| self.unavailable(e.to_string()))?;
        if !fetched.status.is_success() {
            return Err(self.unavailable(format!("{}: answered {}", fetched.url, fetched.status)));
        }
        String::from_utf8(fetched.body.to_vec())
            .map_err(|_| self.unavailable(format!("{}: not UTF-8", fetched.url)))
    }

    /// Has the API server judge a token.
    async fn review(
        &self,
        server: &TokenReview,
        proof: &Secret<String>,
    ) -> Result<ServiceAccount, AttestError> {
        let url = server
            .url
            .join(REVIEW_PATH)
            .map_err(|e| self.unavailable(e.to_string()))?;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": proof.expose(), "audiences": self.settings.audiences},
        });
        let body = Secret::new(body.to_string());
        let fetch = Fetch::post(url, "application/json", body.expose().clone());
        let answer = self.ask(fetch).await?;
        let answer = claims::parse(answer.as_bytes())
            .map_err(|e| self.unavailable(format!("its answer is not JSON: {e}")))?;
        let status = answer.get("status").and_then(claims::Value::as_object);
        let status = status.ok_or_else(|| self.unavailable("its answer has no 'status'"))?;
        let is_true = |v: &claims::Value| v.as_bool() == Some(true);
        if !status.get("authenticated").is_some_and(is_true) {
            let why = status.string("error").unwrap_or("not authenticated");
            return Err(self.refused(format!("its API server says: {}", why.escape_debug())));
        }
        // A server that knows no audiences authenticates any token of its own.
        let named = status.get("audiences").and_then(claims::Value::as_array);
        let ours = |v: &claims::Value| {
            v.as_str()
                .is_some_and(|a| self.settings.audiences.iter().any(|o| o == a))
        };
        if !named.is_some_and(|all| all.iter().any(ours)) {
            return Err(self.refused("its API server does not say that the token is for us"));
        }
        let user = status.get("user").and_then(claims::Value::as_object);
        let user = user.ok_or_else(|| self.unavailable("its answer has no 'status.user'"))?;
        let extra = user.get("extra").and_then(claims::Value::as_object);
        let pod = extra
            .and_then(|e| e.get("authentication.kubernetes.io/pod-name"))
            .and_then(claims::Value::as_array)
            .and_then(<[_]>::first)
            .and_then(claims::Value::as_str);
        let name = user.string("username").unwrap_or_default();
        self.account(name, pod.map(str::to_owned), None)
    }

    /// The service account that a user name names.
    fn account(
        &self,
        user: &str,
        pod: Option<String>,
        expires_at: Option<i64>,
    ) -> Result<ServiceAccount, AttestError> {
        let named = user.strip_prefix(USER).and_then(|n| n.split_once(':'));
        let Some((namespace, account)) = named.filter(|(_, a)| !a.contains(':')) else {
            return Err(self.refused(format!(
                "'{}' is not a service account",
                user.escape_debug()
            )));
        };
        let id = SpiffeId::workload(&self.domain, namespace, account)
            .map_err(|e| self.refused(format!("its service account has no SPIFFE ID: {e}")))?;
        Ok(ServiceAccount {
            attestor: self.label.clone(),
            workload: pod.map(|pod| format!("{namespace}/{pod}")),
            expires_at,
            id: id.to_string(),
        })
    }
}

fn explain(reason: Reason) -> &'static str {
    match reason {
        Reason::TokenUnknownIssuer => "it is of another cluster",
        Reason::TokenExpired => "it has expired",
        Reason::TokenNotYetValid => "it is not valid yet: check the clocks",
        Reason::TokenWrongAudience => "it is for another audience",
        Reason::TokenBadSignature => "its signature is not the cluster's",
        Reason::TokenUnknownKey => "the cluster has no such key",
        Reason::KeysUnavailable => "the cluster's keys cannot be used",
        _ => "it is not a service-account token",
    }
}

#[tonic::async_trait]
impl Attestor for Kubernetes {
    fn name(&self) -> &str {
        &self.label
    }

    fn recognises(&self, proof: &str) -> bool {
        proof.bytes().filter(|b| *b == b'.').count() == 2
    }

    async fn attest(
        &self,
        proof: &Secret<String>,
        now: i64,
    ) -> Result<Box<dyn Proven>, AttestError> {
        let account = match &self.settings.keys {
            Keys::Review(server) => self.review(server, proof).await?,
            Keys::File(_) | Keys::Url(_) => self.verify(proof, now).await?,
        };
        Ok(Box::new(account))
    }
}

impl Proven for ServiceAccount {
    fn redeem(&self, _: &WriteTransaction, _: &str, now: i64) -> Result<Subject, AttestError> {
        if self.expires_at.is_some_and(|end| now >= end) {
            return Err(AttestError::Refused {
                attestor: self.attestor.clone(),
                reason: "it has expired".into(),
            });
        }
        Ok(Subject {
            workload: self.workload.clone(),
            id: self.id.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
