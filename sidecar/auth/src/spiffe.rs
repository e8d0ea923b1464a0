//! SPIFFE IDs and trust domains (SPIFFE-ID specification §2).
//!
//! A value exists only if it is valid. Stricter than the specification in one place: it lets a parser accept an
//! upper-case scheme or trust domain and normalise it; here such an ID is refused, because two spellings of one identity
//! are one too many for policy.

use std::fmt;
use std::sync::Arc;

/// Longest SPIFFE ID, bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain name, bytes (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID, a trust domain or a part of one. One line, whatever the text holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not {wanted}: {problem}", shown.escape_default())]
pub struct SpiffeIdError {
    shown: String,
    wanted: &'static str,
    problem: &'static str,
}

impl SpiffeIdError {
    fn new(text: &str, wanted: &'static str, problem: &'static str) -> Self {
        let mut shown: String = text.chars().take(256).collect();
        if shown.len() < text.len() {
            shown.push_str("...");
        }
        Self {
            shown,
            wanted,
            problem,
        }
    }

    /// What is wrong, without the text.
    pub fn problem(&self) -> &'static str {
        self.problem
    }
}

/// The name of a trust domain: lower-case letters, digits, `.`, `-`, `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain name (no scheme).
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(name)
            .map_err(|problem| SpiffeIdError::new(name, "a trust domain", problem))?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

/// A SPIFFE ID, `spiffe://<trust domain>[/<path>]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    path_start: u16,
}

impl SpiffeId {
    /// The text, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Parses an ID.
    ///
    /// # Errors
    /// Says what is wrong with it; control characters in the message are escaped.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let fail = |problem| SpiffeIdError::new(text, "a SPIFFE ID", problem);
        if text.len() > MAX_ID {
            return Err(fail("longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| fail("does not start with 'spiffe://'"))?;
        let domain_length = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at(domain_length);
        check_trust_domain(domain).map_err(fail)?;
        check_path(path).map_err(fail)?;
        Ok(Self {
            text: text.into(),
            path_start: u16::try_from(SCHEME.len() + domain_length)
                .map_err(|_| fail("too long"))?,
        })
    }

    /// The identity of a workload, `spiffe://<td>/ns/<ns>/sa/<sa>`.
    ///
    /// # Errors
    /// A part is empty or has characters that a path segment may not have.
    pub fn workload(
        domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        for (part, wanted) in [
            (namespace, "a namespace"),
            (service_account, "a service account"),
        ] {
            check_segment(part).map_err(|problem| SpiffeIdError::new(part, wanted, problem))?;
        }
        Self::parse(&format!(
            "{SCHEME}{domain}/ns/{namespace}/sa/{service_account}"
        ))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The ID without `spiffe://`, as policies write principals.
    pub fn without_scheme(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.path_start)]
    }

    /// The trust domain.
    pub fn trust_domain_owned(&self) -> TrustDomain {
        TrustDomain(self.trust_domain().into())
    }

    /// The path with its leading `/`; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_start)..]
    }

    /// The namespace of `/ns/<ns>/sa/<sa>`.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The service account of `/ns/<ns>/sa/<sa>`.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

fn check_trust_domain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the trust domain is empty");
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err("the trust domain is longer than 255 bytes");
    }
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            b'A'..=b'Z' => return Err("the trust domain must be lower-case"),
            b':' => return Err("a port is not allowed"),
            b'@' => return Err("user information is not allowed"),
            b'%' => return Err("percent-encoding is not allowed"),
            b'?' => return Err("a query is not allowed"),
            b'#' => return Err("a fragment is not allowed"),
            _ => return Err("the trust domain may have only a-z, 0-9, '.', '-' and '_'"),
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    match path.strip_prefix('/') {
        Some(segments) => segments.split('/').try_for_each(check_segment),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    match segment {
        "" => return Err("a path segment is empty, or the path ends in '/'"),
        "." | ".." => return Err("'.' and '..' are not allowed as path segments"),
        _ => {}
    }
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            b'%' => return Err("percent-encoding is not allowed"),
            b'?' => return Err("a query is not allowed"),
            b'#' => return Err("a fragment is not allowed"),
            _ => return Err("a path segment may have only letters, digits, '.', '-' and '_'"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
