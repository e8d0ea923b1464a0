//! `kind: Revocation`.

use mesh_proto::mesh::{self, revocation};
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;
use crate::names;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Serial {
    trust_domain: String,
    serial: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Prefix {
    trust_domain: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuedBefore {
    trust_domain: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    /// RFC 3339, with seconds.
    time: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Token {
    issuer: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    session: String,
    /// RFC 3339, with seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<String>,
}

/// What is no longer believed. Exactly one of the subjects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Revocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Serial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<Prefix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<IssuedBefore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// RFC 3339; never when omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl Token {
    fn summary(&self) -> String {
        let mut text = format!("tokens of {}", self.issuer.escape_debug());
        for (name, value) in [
            ("jti", &self.id),
            ("sub", &self.subject),
            ("sid", &self.session),
        ] {
            if !value.is_empty() {
                text.push_str(&format!(", {name} {}", value.escape_debug()));
            }
        }
        if let Some(moment) = &self.issued_before {
            text.push_str(&format!(", issued before {moment}"));
        }
        text
    }
}

impl Revocation {
    fn subjects(&self) -> Result<Vec<revocation::Subject>, FieldError> {
        let mut subjects = Vec::new();
        if let Some(certificate) = &self.certificate {
            subjects.push(revocation::Subject::Serial(mesh::RevokedSerial {
                trust_domain: certificate.trust_domain.clone(),
                serial: hexadecimal("spec.certificate.serial", &certificate.serial)?,
            }));
        }
        if let Some(id) = &self.spiffe_id {
            subjects.push(revocation::Subject::SpiffeId(id.clone()));
        }
        if let Some(prefix) = &self.prefix {
            subjects.push(revocation::Subject::Prefix(mesh::RevokedPrefix {
                trust_domain: prefix.trust_domain.clone(),
                path: prefix.path.clone(),
            }));
        }
        if let Some(before) = &self.issued_before {
            subjects.push(revocation::Subject::IssuedBefore(
                mesh::RevokedIssuedBefore {
                    trust_domain: before.trust_domain.clone(),
                    path: before.path.clone(),
                    not_before: names::moment("spec.issuedBefore.time", &before.time)?,
                },
            ));
        }
        if let Some(token) = &self.token {
            subjects.push(revocation::Subject::Token(mesh::RevokedToken {
                issuer: token.issuer.clone(),
                id: token.id.clone(),
                subject: token.subject.clone(),
                session: token.session.clone(),
                issued_before: match &token.issued_before {
                    Some(text) => names::moment("spec.token.issuedBefore", text)?,
                    None => 0,
                },
            }));
        }
        Ok(subjects)
    }
}

impl Spec for Revocation {
    const KIND: Kind = Kind::Revocation;

    fn resource(&self, metadata: &Metadata, _: &str) -> Result<Resource, FieldError> {
        let mut subjects = self.subjects()?;
        let (Some(subject), true) = (subjects.pop(), subjects.is_empty()) else {
            return Err(FieldError::new(
                "spec",
                "needs exactly one of certificate, spiffeId, prefix, issuedBefore, token",
            ));
        };
        let expires_at = match &self.expires {
            Some(text) => names::moment("spec.expires", text)?,
            None => 0,
        };
        let message = mesh::Revocation {
            name: metadata.name.clone(),
            subject: Some(subject),
            reason: self.reason.clone().unwrap_or_default(),
            expires_at,
        };
        mesh_auth::revocation::Entry::parse(&message)
            .map_err(|e| FieldError::new(written(e.field), e.problem))?;
        Ok(Resource::Revocation(message))
    }

    fn summary(&self) -> String {
        let mut text = match self {
            Self {
                certificate: Some(c),
                ..
            } => format!("serial {} of {}", c.serial, c.trust_domain),
            Self {
                spiffe_id: Some(id),
                ..
            } => id.clone(),
            Self {
                prefix: Some(p), ..
            } => format!(
                "spiffe://{}{}/**",
                p.trust_domain,
                p.path.trim_end_matches('/')
            ),
            Self {
                issued_before: Some(b),
                ..
            } => format!(
                "spiffe://{}{}/** issued before {}",
                b.trust_domain,
                b.path.trim_end_matches('/'),
                b.time
            ),
            Self {
                token: Some(token), ..
            } => token.summary(),
            _ => String::new(),
        };
        if let Some(end) = &self.expires {
            text.push_str(&format!(", until {end}"));
        }
        if let Some(reason) = &self.reason {
            text.push_str(&format!(": {}", reason.escape_debug()));
        }
        text
    }
}

/// The field of the document for one of the resource.
fn written(field: &str) -> &'static str {
    match field {
        "serial.trust_domain" => "spec.certificate.trustDomain",
        "serial.serial" => "spec.certificate.serial",
        "spiffe_id" => "spec.spiffeId",
        "prefix.trust_domain" => "spec.prefix.trustDomain",
        "prefix.path" => "spec.prefix.path",
        "issued_before.trust_domain" => "spec.issuedBefore.trustDomain",
        "issued_before.path" => "spec.issuedBefore.path",
        "issued_before.not_before" => "spec.issuedBefore.time",
        "token" => "spec.token",
        "token.issuer" => "spec.token.issuer",
        "token.id" => "spec.token.id",
        "token.subject" => "spec.token.subject",
        "token.session" => "spec.token.session",
        "token.issued_before" => "spec.token.issuedBefore",
        "expires_at" => "spec.expires",
        "reason" => "spec.reason",
        _ => "spec",
    }
}

/// A serial number as `openssl x509 -serial` and browsers write it: hexadecimal, colons allowed.
fn hexadecimal(path: &str, text: &str) -> Result<Vec<u8>, FieldError> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let even = format!("{}{digits}", if digits.len() % 2 == 1 { "0" } else { "" });
    let pairs = even.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|p| u8::from_str_radix(p, 16).ok())
        })
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| {
            FieldError::new(
                path,
                format!("'{}' is not hexadecimal", text.escape_default()),
            )
        })
}
