//! Which proofs are accepted, from `--attestation FILE` (JSON or YAML); without it join tokens alone.

use std::path::PathBuf;
use std::sync::Arc;

use mesh_auth::TrustDomain;
use serde::Deserialize;

use super::join_token::JoinTokens;
use super::kubernetes::{Keys, Kubernetes, Settings, TokenReview};
use super::{Attestor, Attestors};
use crate::fetch::{self, Fetcher, Url};
use crate::store::Store;

/// What goes wrong in the file.
pub type ConfigError = String;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    attestors: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Entry {
    JoinToken,
    Kubernetes(Cluster),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Cluster {
    name: String,
    audiences: Vec<String>,
    issuer: Option<String>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    token_review_url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

/// What attestors work with.
pub struct Parts {
    /// Holds join tokens.
    pub store: Arc<Store>,
    /// Asks clusters.
    pub fetcher: Arc<Fetcher>,
    /// The mesh's trust domain.
    pub domain: TrustDomain,
}

/// The attestors where nothing is configured.
pub fn default(parts: &Parts) -> Attestors {
    Attestors::new(vec![join_tokens(parts)])
}

/// The attestors of a configuration.
///
/// # Errors
/// What is wrong, with its field.
pub fn read(text: &str, parts: &Parts) -> Result<Attestors, ConfigError> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.attestors.is_empty() {
        return Err("attestors: at least one is needed, or nobody gets a certificate".into());
    }
    let mut attestors: Vec<Arc<dyn Attestor>> = Vec::new();
    for (i, entry) in file.attestors.into_iter().enumerate() {
        let attestor = match entry {
            Entry::JoinToken => join_tokens(parts),
            Entry::Kubernetes(cluster) => {
                let settings = cluster
                    .settings()
                    .map_err(|e| format!("attestors[{i}].{e}"))?;
                let (fetcher, domain) = (Arc::clone(&parts.fetcher), parts.domain.clone());
                Arc::new(Kubernetes::new(settings, fetcher, domain))
            }
        };
        if attestors.iter().any(|a| a.name() == attestor.name()) {
            return Err(format!(
                "attestors[{i}]: there is a '{}' already",
                attestor.name()
            ));
        }
        attestors.push(attestor);
    }
    Ok(Attestors::new(attestors))
}

fn join_tokens(parts: &Parts) -> Arc<dyn Attestor> {
    Arc::new(JoinTokens {
        store: Arc::clone(&parts.store),
    })
}

impl Cluster {
    fn settings(self) -> Result<Settings, String> {
        let url = |field: &str, text: &str| {
            let url = Url::parse(text).map_err(|e| format!("{field}: {e}"))?;
            match url.scheme() {
                fetch::Scheme::Https => Ok(url),
                fetch::Scheme::Http => Err(format!("{field}: must begin with https://")),
            }
        };
        if self.name.is_empty() {
            return Err("name: empty".into());
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(
                "audiences: at least one is needed: a token made for somebody else proves nothing to us"
                    .into(),
            );
        }
        let keys = match (&self.jwks_file, &self.jwks_url, &self.token_review_url) {
            (Some(file), None, None) => Keys::File(file.clone()),
            (None, Some(text), None) => Keys::Url(url("jwksUrl", text)?),
            (None, None, Some(text)) => Keys::Review(TokenReview {
                url: url("tokenReviewUrl", text)?,
            }),
            _ => {
                return Err("jwksFile, jwksUrl, tokenReviewUrl: exactly one must be given".into());
            }
        };
        let issuer = match (&keys, self.issuer) {
            (Keys::Review(_), issuer) => issuer.unwrap_or_default(),
            (_, Some(issuer)) if !issuer.is_empty() => issuer,
            _ => return Err("issuer: missing: the `iss` of the cluster's tokens".into()),
        };
        if matches!(keys, Keys::Review(_)) && self.token_file.is_none() {
            return Err("tokenFile: missing: TokenReview needs the control API's own token".into());
        }
        let tls = match &self.ca_file {
            None => None,
            Some(path) => {
                let pem =
                    std::fs::read(path).map_err(|e| format!("caFile: {}: {e}", path.display()))?;
                Some(fetch::client_config(Some(&pem)).map_err(|e| format!("caFile: {e}"))?)
            }
        };
        Ok(Settings {
            name: self.name,
            issuer,
            audiences: self.audiences,
            keys,
            tls,
            token_file: self.token_file,
        })
    }
}

#[cfg(test)]
mod tests;
