//! Rules from their wire form to providers that can verify.

use http::header::HeaderName;
use mesh_proto::mesh;

use super::algorithm::{Algorithm, Algorithms};
use super::binding::Binding;
use super::checks::Profile;
use super::keys::{KeyUse, Keys};
use super::places::{Place, TXN_TOKEN};
use super::provider::{ClaimHeader, KeySource, Provider, Route};
use crate::{TrustDomain, headers};

/// Most rules of one document.
const MAX_RULES: usize = 64;
/// Most entries of a list in a rule.
const MAX_ENTRIES: usize = 64;
pub(super) const DEFAULT_TOKEN_BYTES: u32 = 8 * 1024;
const MAX_TOKEN_BYTES: u32 = 64 * 1024;
pub(super) const DEFAULT_LEEWAY: u32 = 60;
const MAX_LEEWAY: u32 = 300;
const DEFAULT_GRACE: u32 = 30;
/// Longest text of a rule other than a key set.
const MAX_TEXT: usize = 2_048;

/// Why a document cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{field}: {problem}", if policy.is_empty() { String::new() } else { format!("{}: ", policy.escape_default()) })]
pub struct TokenPolicyError {
    /// `namespace/name`; empty where it is known from elsewhere.
    pub policy: String,
    /// Path of the field, as the document writes it.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

impl TokenPolicyError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            policy: String::new(),
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// Checks that a document compiles.
///
/// # Errors
/// The first field that does not.
pub fn validate(document: &mesh::RequestAuthentication) -> Result<(), TokenPolicyError> {
    let name = format!("{}/{}", document.namespace, document.name);
    let all = || {
        if document.namespace.is_empty() || document.name.is_empty() {
            let problem = "name and namespace must not be empty";
            return Err(TokenPolicyError::new("metadata.name", problem));
        }
        at_most("spec.jwtRules", document.rules.len(), MAX_RULES)?;
        for (i, rule) in document.rules.iter().enumerate() {
            compile(rule, &name, &format!("spec.jwtRules[{i}]"), None)?;
        }
        Ok(())
    };
    all().map_err(|error| TokenPolicyError {
        policy: name.clone(),
        ..error
    })
}

/// Checks that a key set is one.
///
/// # Errors
/// What is wrong with it.
pub fn validate_key_set(set: &mesh::KeySet) -> Result<(), TokenPolicyError> {
    if set.name.is_empty() || set.name.len() > MAX_TEXT {
        return Err(TokenPolicyError::new("name", "empty or too long"));
    }
    Keys::parse(set.jwks.as_bytes(), &[], KeyUse::Signature)
        .map(drop)
        .map_err(|error| TokenPolicyError::new("jwks", error.to_string()))
}

/// Name of the KeySet that a rule is verified with; `None` when its keys are in it, or none are needed because its tokens
/// are introspected.
pub fn key_set_name(rule: &mesh::TokenRule) -> Option<String> {
    let is_svid = rule.profile() == mesh::TokenProfile::JwtSvid;
    if !rule.jwks.is_empty() {
        None
    } else if !rule.jwks_uri.is_empty() {
        Some(format!("uri/{}", rule.jwks_uri))
    } else if rule.introspection.is_some() {
        None
    } else if is_svid {
        Some(format!("trust-domain/{}", rule.trust_domain))
    } else {
        Some(format!("issuer/{}", rule.issuer))
    }
}

/// Compiles a rule of document `policy`. `key_set`: the keys held for it, if they are not in it.
pub(super) fn compile(
    rule: &mesh::TokenRule,
    policy: &str,
    field: &str,
    key_set: Option<&str>,
) -> Result<Provider, TokenPolicyError> {
    let fail =
        |name: &str, problem: &str| TokenPolicyError::new(format!("{field}.{name}"), problem);
    let profile = mesh::TokenProfile::try_from(rule.profile)
        .map(Profile::from)
        .map_err(|_| fail("profile", "is not known"))?;
    check_issuer(rule, profile, field)?;
    for (name, list) in [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
        ("algorithms", &rule.algorithms),
        ("spaceDelimitedClaims", &rule.space_delimited_claims),
    ] {
        at_most(&format!("{field}.{name}"), list.len(), MAX_ENTRIES)?;
        for (i, entry) in list.iter().enumerate() {
            if entry.is_empty() || entry.len() > MAX_TEXT {
                return Err(fail(&format!("{name}[{i}]"), "is empty or too long"));
            }
        }
    }
    if rule.audiences.is_empty() && profile != Profile::Generic {
        return Err(fail("audiences", "this profile needs at least one"));
    }
    let algorithms = algorithms(rule, field)?;
    let accepted = match profile {
        Profile::JwtSvid => Algorithms::JWT_SVID,
        _ => Algorithms::ALL,
    };
    let accepted = if algorithms.is_empty() {
        accepted
    } else {
        accepted.and(Algorithms::of(&algorithms))
    };
    if !Algorithm::ALL.iter().any(|a| accepted.contains(*a)) {
        return Err(fail("algorithms", "the profile accepts none of them"));
    }
    let leeway = rule.leeway_seconds.unwrap_or(DEFAULT_LEEWAY);
    if leeway > MAX_LEEWAY {
        return Err(fail("leeway", "is more than 300s"));
    }
    let max_bytes = match rule.max_token_bytes {
        0 => DEFAULT_TOKEN_BYTES,
        bytes if bytes <= MAX_TOKEN_BYTES => bytes,
        _ => return Err(fail("maxTokenBytes", "is more than 65536")),
    };
    check_introspection(rule, field)?;
    let binding = match &rule.binding {
        None => Binding::default(),
        Some(binding) => Binding::compile(binding, &format!("{field}.binding"))?,
    };
    let enumeration = |name: &str, known: bool| {
        if known {
            Ok(())
        } else {
            Err(fail(name, "is not known"))
        }
    };
    enumeration(
        "forward",
        mesh::TokenForward::try_from(rule.forward).is_ok(),
    )?;
    enumeration(
        "expiredStreams",
        mesh::ExpiredStreams::try_from(rule.expired_streams).is_ok(),
    )?;
    Ok(Provider {
        name: format!(
            "{policy}/{}",
            if rule.issuer.is_empty() {
                &rule.trust_domain
            } else {
                &rule.issuer
            }
        )
        .into(),
        policy: policy.into(),
        keys: keys(rule, profile, &algorithms, field, key_set)?,
        key_text: key_set.map(Into::into),
        profile,
        accepted,
        audiences: rule.audiences.iter().map(|a| a.as_str().into()).collect(),
        leeway: leeway.into(),
        max_age: (rule.max_age_seconds > 0).then_some(rule.max_age_seconds),
        max_bytes: max_bytes as usize,
        binding,
        keep: match rule.forward() {
            mesh::TokenForward::Unspecified => profile == Profile::TxnToken,
            forward => forward == mesh::TokenForward::Keep,
        },
        ends_streams: rule.expired_streams() != mesh::ExpiredStreams::Keep,
        grace: rule.expiry_grace_seconds.unwrap_or(DEFAULT_GRACE),
        routes: routes(rule, field)?,
        places: places(rule, profile, field)?,
        claim_headers: claim_headers(rule, field)?,
        payload_header: match rule.output_payload_to_header.as_str() {
            "" => None,
            name => Some(output_header(
                name,
                &format!("{field}.outputPayloadToHeader"),
            )?),
        },
        words: rule
            .space_delimited_claims
            .iter()
            .map(|c| c.as_str().into())
            .collect(),
        rule: rule.clone(),
    })
}

fn at_most(field: &str, count: usize, most: usize) -> Result<(), TokenPolicyError> {
    if count > most {
        return Err(TokenPolicyError::new(
            field,
            format!("has {count} entries; at most {most} are taken"),
        ));
    }
    Ok(())
}

fn check_issuer(
    rule: &mesh::TokenRule,
    profile: Profile,
    field: &str,
) -> Result<(), TokenPolicyError> {
    let fail =
        |name: &str, problem: &str| Err(TokenPolicyError::new(format!("{field}.{name}"), problem));
    let is_svid = profile == Profile::JwtSvid;
    if rule.issuer.is_empty() && !is_svid {
        return fail("issuer", "is required");
    }
    if rule.issuer.len() > MAX_TEXT || rule.issuer.chars().any(char::is_control) {
        return fail("issuer", "is too long or has control characters");
    }
    if is_svid {
        if let Err(error) = TrustDomain::new(&rule.trust_domain) {
            return fail("trustDomain", &error.to_string());
        }
    } else if !rule.trust_domain.is_empty() {
        return fail("trustDomain", "belongs to profile jwt-svid");
    }
    if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
        return fail("jwksUri", "the keys are given twice: remove it or jwks");
    }
    if !rule.jwks_uri.is_empty() && !is_https(&rule.jwks_uri) {
        return fail(
            "jwksUri",
            "is not an https:// URL: keys fetched otherwise can be anybody's",
        );
    }
    Ok(())
}

fn is_https(text: &str) -> bool {
    text.len() <= MAX_TEXT
        && text.starts_with("https://")
        && text.parse::<http::Uri>().is_ok_and(|uri| {
            uri.authority()
                .is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'))
        })
}

fn check_introspection(rule: &mesh::TokenRule, field: &str) -> Result<(), TokenPolicyError> {
    let Some(introspection) = &rule.introspection else {
        return Ok(());
    };
    let fail = |name: &str, problem: &str| {
        Err(TokenPolicyError::new(
            format!("{field}.introspection.{name}"),
            problem,
        ))
    };
    if !is_https(&introspection.endpoint) {
        return fail("endpoint", "is not an https:// URL");
    }
    let Ok(auth) = mesh::IntrospectionAuth::try_from(introspection.auth) else {
        return fail("auth", "is not known");
    };
    if mesh::IntrospectionFailure::try_from(introspection.on_failure).is_err() {
        return fail("onFailure", "is not known");
    }
    if !introspection.key_id.is_empty() && auth != mesh::IntrospectionAuth::PrivateKeyJwt {
        return fail("keyId", "belongs to auth private-key-jwt");
    }
    if introspection.client_id.is_empty() && auth != mesh::IntrospectionAuth::Svid {
        return fail("clientId", "is required");
    }
    if introspection.credential_file.is_empty() != (auth == mesh::IntrospectionAuth::Svid) {
        return fail(
            "credentialFile",
            "is required, except with auth svid, which has none",
        );
    }
    Ok(())
}

fn algorithms(rule: &mesh::TokenRule, field: &str) -> Result<Vec<Algorithm>, TokenPolicyError> {
    let each = rule.algorithms.iter().enumerate().map(|(i, name)| {
        Algorithm::from_name(name).ok_or_else(|| {
            let known: Vec<_> = Algorithm::ALL.iter().map(|a| a.name()).collect();
            TokenPolicyError::new(
                format!("{field}.algorithms[{i}]"),
                format!(
                    "'{}' is not one of {}",
                    name.escape_default(),
                    known.join(", ")
                ),
            )
        })
    });
    each.collect()
}

fn keys(
    rule: &mesh::TokenRule,
    profile: Profile,
    algorithms: &[Algorithm],
    field: &str,
    key_set: Option<&str>,
) -> Result<KeySource, TokenPolicyError> {
    let key_use = match profile {
        Profile::JwtSvid => KeyUse::JwtSvid,
        _ => KeyUse::Signature,
    };
    if !rule.jwks.is_empty() {
        let keys = Keys::parse(rule.jwks.as_bytes(), algorithms, key_use)
            .map_err(|error| TokenPolicyError::new(format!("{field}.jwks"), error.to_string()))?;
        return Ok(KeySource::Held(keys));
    }
    if key_set_name(rule).is_none() {
        return Ok(KeySource::None);
    }
    Ok(key_set
        .and_then(|text| Keys::parse(text.as_bytes(), algorithms, key_use).ok())
        .map_or(KeySource::Awaited, KeySource::Held))
}

fn places(
    rule: &mesh::TokenRule,
    profile: Profile,
    field: &str,
) -> Result<Vec<Place>, TokenPolicyError> {
    at_most(
        &format!("{field}.fromHeaders"),
        rule.from_headers.len(),
        MAX_ENTRIES,
    )?;
    let mut places = Vec::new();
    for (i, header) in rule.from_headers.iter().enumerate() {
        let field = format!("{field}.fromHeaders[{i}]");
        let name = header_name(&header.name, &format!("{field}.name"))?;
        if name == http::header::COOKIE || headers::is_reserved(&name) {
            return Err(TokenPolicyError::new(
                format!("{field}.name"),
                "cannot carry a token",
            ));
        }
        if header.prefix.len() > 64 || header.prefix.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return Err(TokenPolicyError::new(
                format!("{field}.prefix"),
                "is too long or not ASCII",
            ));
        }
        places.push(Place::Header(name, header.prefix.as_str().into()));
    }
    places.extend(
        rule.from_params
            .iter()
            .map(|p| Place::Param(p.as_str().into())),
    );
    places.extend(
        rule.from_cookies
            .iter()
            .map(|c| Place::Cookie(c.as_str().into())),
    );
    if places.is_empty() {
        places.push(match profile {
            Profile::TxnToken => Place::Header(HeaderName::from_static(TXN_TOKEN), "".into()),
            _ => Place::Header(http::header::AUTHORIZATION, "Bearer ".into()),
        });
    }
    Ok(places)
}

fn claim_headers(
    rule: &mesh::TokenRule,
    field: &str,
) -> Result<Vec<ClaimHeader>, TokenPolicyError> {
    let field = format!("{field}.outputClaimToHeaders");
    at_most(&field, rule.output_claim_to_headers.len(), MAX_ENTRIES)?;
    let each = rule
        .output_claim_to_headers
        .iter()
        .enumerate()
        .map(|(i, output)| {
            let name = output_header(&output.header, &format!("{field}[{i}].header"))?;
            let path: Vec<Box<str>> = output.claim.split('.').map(Into::into).collect();
            if output.claim.len() > MAX_TEXT || path.iter().any(|part| part.is_empty()) {
                return Err(TokenPolicyError::new(
                    format!("{field}[{i}].claim"),
                    "is empty or too long",
                ));
            }
            Ok(ClaimHeader { name, path })
        });
    each.collect()
}

fn header_name(name: &str, field: &str) -> Result<HeaderName, TokenPolicyError> {
    HeaderName::from_lowercase(name.to_ascii_lowercase().as_bytes()).map_err(|_| {
        TokenPolicyError::new(
            field,
            format!("'{}' is not a header name", name.escape_default()),
        )
    })
}

/// A header that we write: not one that frames or routes the request, or that the mesh writes itself.
fn output_header(name: &str, field: &str) -> Result<HeaderName, TokenPolicyError> {
    const TAKEN: [&str; 14] = [
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = header_name(name, field)?;
    if TAKEN.contains(&name.as_str()) || headers::is_reserved(&name) {
        return Err(TokenPolicyError::new(
            field,
            format!("'{name}' has a meaning of its own: choose another name"),
        ));
    }
    Ok(name)
}

fn routes(rule: &mesh::TokenRule, field: &str) -> Result<Vec<Route>, TokenPolicyError> {
    at_most(&format!("{field}.routes"), rule.routes.len(), MAX_ENTRIES)?;
    let mut routes = Vec::new();
    for (i, route) in rule.routes.iter().enumerate() {
        let fail = |name: &str, problem: &str| {
            Err(TokenPolicyError::new(
                format!("{field}.routes[{i}].{name}"),
                problem,
            ))
        };
        if route
            .paths
            .iter()
            .any(|p| !(p.starts_with('/') || p == "*") || p.len() > MAX_TEXT)
        {
            return fail(
                "paths",
                "a path starts with '/'; one that ends with '*' is a prefix",
            );
        }
        let mut ports = Vec::new();
        for port in &route.ports {
            match u16::try_from(*port) {
                Ok(port @ 1..) => ports.push(port),
                _ => return fail("ports", "is not a port (1..65535)"),
            }
        }
        if mesh::TokenForward::try_from(route.forward).is_err() {
            return fail("forward", "is not known");
        }
        if mesh::ExpiredStreams::try_from(route.expired_streams).is_err() {
            return fail("expiredStreams", "is not known");
        }
        if mesh::IntrospectionFailure::try_from(route.on_introspection_failure).is_err() {
            return fail("onIntrospectionFailure", "is not known");
        }
        routes.push(Route {
            paths: route.paths.iter().map(|p| p.as_str().into()).collect(),
            ports,
            keep: match route.forward() {
                mesh::TokenForward::Unspecified => None,
                forward => Some(forward == mesh::TokenForward::Keep),
            },
            ends_streams: match route.expired_streams() {
                mesh::ExpiredStreams::Unspecified => None,
                streams => Some(streams == mesh::ExpiredStreams::End),
            },
            required: route.required,
            on_introspection_failure: route.on_introspection_failure(),
        });
    }
    Ok(routes)
}
