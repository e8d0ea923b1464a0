//! One connection or request, made up or remembered.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, Method};
use mesh_auth::policy::{Connection, Decision, PolicySet, Request};
use mesh_auth::token::VerifiedToken;
use mesh_auth::{SpiffeId, TrustDomain, claims};

/// A connection, and the request on it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The verified peer; `None` for plaintext.
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    /// Application port.
    pub(crate) port: u16,
    pub(crate) sni: Option<String>,
    /// `None` for opaque bytes.
    pub(crate) http: Option<Http>,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) method: Method,
    pub(crate) host: String,
    /// Normalized, without query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) token: Option<VerifiedToken>,
}

impl Case {
    /// A connection without identity from and to nowhere in particular.
    pub(crate) fn plaintext(port: u16) -> Self {
        Self {
            peer: None,
            source_ip: Ipv4Addr::LOCALHOST.into(),
            destination_ip: Ipv4Addr::LOCALHOST.into(),
            port,
            sni: None,
            http: None,
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            peer: self.peer.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.port,
            sni: self.sni.as_deref(),
        }
    }

    /// The decision of the policies in force.
    pub(crate) fn decide<'a>(&self, set: &'a PolicySet) -> Decision<'a> {
        self.ask(|connection, request| match request {
            Some(request) => set.decide_request(&request),
            None => set.decide(&connection),
        })
    }

    /// What would be decided with the dry-run policies in force; `None` when there are none.
    pub(crate) fn would_decide<'a>(&self, set: &'a PolicySet) -> Option<Decision<'a>> {
        self.ask(|connection, request| match request {
            Some(request) => set.would_decide_request(&request),
            None => set.would_decide(&connection),
        })
    }

    /// True if an AUDIT policy of the set matches.
    pub(crate) fn is_audited(&self, set: &PolicySet) -> bool {
        let mut is_audited = false;
        self.ask(|connection, request| {
            set.audited(&connection, request.as_ref(), |_, _| is_audited = true);
        });
        is_audited
    }

    fn ask<T>(&self, ask: impl FnOnce(Connection<'_>, Option<Request<'_>>) -> T) -> T {
        let connection = self.connection();
        let request = self.http.as_ref().map(|http| Request {
            connection,
            method: &http.method,
            host: &http.host,
            path: &http.path,
            headers: &http.headers,
            token: http.token.as_ref(),
        });
        ask(connection, request)
    }
}

/// A peer as people write it: a SPIFFE ID, `namespace/service-account` of the own trust domain, or `none` for plaintext.
pub(crate) fn peer(text: &str, trust_domain: &str) -> Result<Option<SpiffeId>, String> {
    if text == "none" {
        return Ok(None);
    }
    let expected =
        "expected spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, NAMESPACE/ACCOUNT, or none";
    if text.starts_with("spiffe://") {
        return SpiffeId::parse(text)
            .map(Some)
            .map_err(|error| format!("`{text}`: {error}; {expected}"));
    }
    let (namespace, account) = text
        .split_once('/')
        .filter(|(namespace, account)| !namespace.is_empty() && !account.contains('/'))
        .ok_or_else(|| format!("`{text}` is no peer; {expected}"))?;
    let domain = TrustDomain::new(trust_domain).map_err(|e| format!("trust domain: {e}"))?;
    SpiffeId::workload(&domain, namespace, account)
        .map(Some)
        .map_err(|error| format!("`{text}`: {error}; {expected}"))
}

/// A token from its claims, a JSON object. Nobody verifies it: the policies are what is tried.
pub(crate) fn token(claims: &str) -> Result<VerifiedToken, String> {
    let claims = claims::parse(claims.as_bytes()).map_err(|e| format!("the claims: {e}"))?;
    Ok(VerifiedToken::unverified_for_policy_test("offline", claims))
}

/// A method as HTTP allows it.
pub(crate) fn method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no HTTP method"))
}

/// Headers; names are without regard to case.
pub(crate) fn headers<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let parsed = http::HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{name}` is no header name"))?;
        let value = http::HeaderValue::from_str(value)
            .map_err(|_| format!("header `{name}`: its value has characters that HTTP forbids"))?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// A path as the application would get it: normalized, without query.
pub(crate) fn path(text: &str) -> Result<String, String> {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    mesh_auth::path::normalize(path)
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| error.to_string())
}
