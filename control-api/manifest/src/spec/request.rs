//! `kind: RequestAuthentication`.

use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use super::shapes::{Seconds, Selector, Unsupported};
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::{API_VERSION, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Profile {
    #[serde(rename = "jwt")]
    Jwt,
    #[serde(rename = "at+jwt")]
    AtJwt,
    #[serde(rename = "jwt-svid")]
    JwtSvid,
    #[serde(rename = "txn-token")]
    TxnToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Forward {
    Keep,
    Strip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExpiredStreams {
    End,
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Auth {
    SecretBasic,
    SecretPost,
    PrivateKeyJwt,
    Svid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    Deny,
    Anonymous,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FromHeader {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    prefix: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClaimHeader {
    header: String,
    claim: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BindingRule {
    claim: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
    principal: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Binding {
    #[serde(default)]
    certificate: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<BindingRule>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Introspection {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    client_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    credential_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cache: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_cache: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<OnFailure>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ca_file: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key_id: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Route {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_streams: Option<ExpiredStreams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_introspection_failure: Option<OnFailure>,
}

/// One issuer's tokens. The fields after `space_delimited_claims` are ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct JwtRule {
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audiences: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    jwks_uri: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    jwks: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_headers: Vec<FromHeader>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_params: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_cookies: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    output_payload_to_header: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_original_token: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    output_claim_to_headers: Vec<ClaimHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    space_delimited_claims: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leeway: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_token_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<Binding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introspection: Option<Introspection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_streams: Option<ExpiredStreams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_grace: Option<Seconds>,
    #[serde(skip_serializing_if = "String::is_empty")]
    trust_domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

/// Which tokens are accepted, whose, and where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestAuthentication {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<Unsupported>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_refs: Option<Unsupported>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jwt_rules: Vec<JwtRule>,
}

impl JwtRule {
    /// The first of our own fields that is there.
    fn extension(&self) -> Option<&'static str> {
        let fields = [
            ("profile", self.profile.is_some()),
            ("algorithms", !self.algorithms.is_empty()),
            ("leeway", self.leeway.is_some()),
            ("maxAge", self.max_age.is_some()),
            ("maxTokenBytes", self.max_token_bytes.is_some()),
            ("binding", self.binding.is_some()),
            ("introspection", self.introspection.is_some()),
            ("forward", self.forward.is_some()),
            ("required", self.required.is_some()),
            ("expiredStreams", self.expired_streams.is_some()),
            ("expiryGrace", self.expiry_grace.is_some()),
            ("trustDomain", !self.trust_domain.is_empty()),
            ("routes", !self.routes.is_empty()),
        ];
        fields
            .into_iter()
            .find(|(_, set)| *set)
            .map(|(name, _)| name)
    }

    fn rule(&self, field: &str) -> Result<mesh::TokenRule, FieldError> {
        let at = |name: &str| format!("{field}.{name}");
        let whole =
            |name: &str, seconds: &Option<Seconds>| seconds.map(|s| s.whole(&at(name))).transpose();
        let forward = match (self.forward, self.forward_original_token) {
            (Some(Forward::Keep), Some(false)) | (Some(Forward::Strip), Some(true)) => {
                return Err(FieldError::new(
                    at("forward"),
                    "says the opposite of forwardOriginalToken: remove one",
                ));
            }
            (forward, original) => {
                forward.or(original.map(|keep| if keep { Forward::Keep } else { Forward::Strip }))
            }
        };
        if self.max_token_bytes == Some(0) {
            return Err(FieldError::new(at("maxTokenBytes"), "must not be 0"));
        }
        if self.max_age.is_some_and(|age| age.millis() == 0) {
            return Err(FieldError::new(at("maxAge"), "must not be 0"));
        }
        Ok(mesh::TokenRule {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            jwks: self.jwks.clone(),
            jwks_uri: self.jwks_uri.clone(),
            from_headers: self
                .from_headers
                .iter()
                .map(|h| mesh::TokenHeader {
                    name: h.name.to_ascii_lowercase(),
                    prefix: h.prefix.clone(),
                })
                .collect(),
            from_params: self.from_params.clone(),
            from_cookies: self.from_cookies.clone(),
            output_claim_to_headers: self
                .output_claim_to_headers
                .iter()
                .map(|o| mesh::ClaimHeader {
                    header: o.header.to_ascii_lowercase(),
                    claim: o.claim.clone(),
                })
                .collect(),
            output_payload_to_header: self.output_payload_to_header.to_ascii_lowercase(),
            forward: self::forward(forward).into(),
            timeout_ms: self.timeout.map_or(0, Seconds::millis),
            space_delimited_claims: self.space_delimited_claims.clone(),
            profile: match self.profile {
                None | Some(Profile::Jwt) => mesh::TokenProfile::Unspecified,
                Some(Profile::AtJwt) => mesh::TokenProfile::AtJwt,
                Some(Profile::JwtSvid) => mesh::TokenProfile::JwtSvid,
                Some(Profile::TxnToken) => mesh::TokenProfile::TxnToken,
            }
            .into(),
            algorithms: self.algorithms.clone(),
            leeway_seconds: whole("leeway", &self.leeway)?,
            max_age_seconds: whole("maxAge", &self.max_age)?.unwrap_or(0),
            max_token_bytes: self.max_token_bytes.unwrap_or(0),
            binding: self.binding.as_ref().map(|b| mesh::PresenterBinding {
                certificate: b.certificate,
                rules: b
                    .rules
                    .iter()
                    .map(|r| mesh::BindingRule {
                        claim: r.claim.clone(),
                        value: r.value.clone(),
                        principal: r.principal.clone(),
                    })
                    .collect(),
            }),
            introspection: self
                .introspection
                .as_ref()
                .map(|i| i.message(&at("introspection")))
                .transpose()?,
            required: self.required.unwrap_or(false),
            expired_streams: streams(self.expired_streams).into(),
            expiry_grace_seconds: whole("expiryGrace", &self.expiry_grace)?,
            trust_domain: self.trust_domain.clone(),
            routes: self.routes.iter().map(Route::message).collect(),
        })
    }
}

impl Introspection {
    fn message(&self, field: &str) -> Result<mesh::TokenIntrospection, FieldError> {
        let whole = |name: &str, seconds: &Option<Seconds>| {
            seconds
                .map(|s| s.whole(&format!("{field}.{name}")))
                .transpose()
        };
        Ok(mesh::TokenIntrospection {
            endpoint: self.endpoint.clone(),
            auth: match self.auth {
                None | Some(Auth::SecretBasic) => mesh::IntrospectionAuth::SecretBasic,
                Some(Auth::SecretPost) => mesh::IntrospectionAuth::SecretPost,
                Some(Auth::PrivateKeyJwt) => mesh::IntrospectionAuth::PrivateKeyJwt,
                Some(Auth::Svid) => mesh::IntrospectionAuth::Svid,
            }
            .into(),
            client_id: self.client_id.clone(),
            credential_file: self.credential_file.clone(),
            timeout_ms: self.timeout.map_or(0, Seconds::millis),
            max_cache_seconds: whole("maxCache", &self.max_cache)?.unwrap_or(0),
            negative_cache_seconds: whole("negativeCache", &self.negative_cache)?,
            stale_seconds: whole("stale", &self.stale)?,
            on_failure: on_failure(self.on_failure).into(),
            ca_file: self.ca_file.clone(),
            key_id: self.key_id.clone(),
        })
    }
}

impl Route {
    fn message(&self) -> mesh::TokenRoute {
        mesh::TokenRoute {
            paths: self.paths.clone(),
            ports: self.ports.clone(),
            forward: forward(self.forward).into(),
            expired_streams: streams(self.expired_streams).into(),
            required: self.required,
            on_introspection_failure: on_failure(self.on_introspection_failure).into(),
        }
    }
}

fn forward(forward: Option<Forward>) -> mesh::TokenForward {
    match forward {
        None => mesh::TokenForward::Unspecified,
        Some(Forward::Keep) => mesh::TokenForward::Keep,
        Some(Forward::Strip) => mesh::TokenForward::Strip,
    }
}

fn streams(streams: Option<ExpiredStreams>) -> mesh::ExpiredStreams {
    match streams {
        None => mesh::ExpiredStreams::Unspecified,
        Some(ExpiredStreams::End) => mesh::ExpiredStreams::End,
        Some(ExpiredStreams::Keep) => mesh::ExpiredStreams::Keep,
    }
}

fn on_failure(failure: Option<OnFailure>) -> mesh::IntrospectionFailure {
    match failure {
        None => mesh::IntrospectionFailure::Unspecified,
        Some(OnFailure::Deny) => mesh::IntrospectionFailure::Deny,
        Some(OnFailure::Anonymous) => mesh::IntrospectionFailure::Anonymous,
    }
}

impl Spec for RequestAuthentication {
    const KIND: Kind = Kind::RequestAuthentication;

    fn resource(&self, metadata: &Metadata, api_version: &str) -> Result<Resource, FieldError> {
        let selector = Selector::labels(self.selector.as_ref())?;
        let mut rules = Vec::with_capacity(self.jwt_rules.len());
        for (i, rule) in self.jwt_rules.iter().enumerate() {
            let field = format!("spec.jwtRules[{i}]");
            if api_version != API_VERSION
                && let Some(name) = rule.extension()
            {
                return Err(FieldError::new(
                    format!("{field}.{name}"),
                    format!("is known in {API_VERSION} only: write that as apiVersion"),
                ));
            }
            rules.push(rule.rule(&field)?);
        }
        let message = mesh::RequestAuthentication {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            selector,
            rules,
        };
        mesh_auth::token::validate(&message).map_err(|e| FieldError::new(e.field, e.problem))?;
        Ok(Resource::RequestAuthentication(message))
    }

    fn summary(&self) -> String {
        let issuers: Vec<_> = self
            .jwt_rules
            .iter()
            .take(3)
            .map(|rule| {
                if rule.issuer.is_empty() {
                    rule.trust_domain.as_str()
                } else {
                    rule.issuer.as_str()
                }
            })
            .collect();
        match self.jwt_rules.len() {
            0 => "no issuer".to_owned(),
            n if n > issuers.len() => format!("{}, {} more", issuers.join(", "), n - issuers.len()),
            _ => issuers.join(", "),
        }
    }
}
