//! What the claims of a token must be, by profile.

use mesh_proto::mesh;

use super::compact::{Header, Typ};
use crate::claims::{NumericDate, Object, Value};
use crate::{Reason, SpiffeId};

/// What kind of token a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A JWT that says little of itself.
    Generic,
    /// OAuth 2.0 access token (RFC 9068).
    AtJwt,
    /// SPIFFE JWT-SVID.
    JwtSvid,
    /// Transaction token (draft-ietf-oauth-transaction-tokens).
    TxnToken,
}

impl From<mesh::TokenProfile> for Profile {
    fn from(profile: mesh::TokenProfile) -> Self {
        match profile {
            mesh::TokenProfile::Unspecified => Self::Generic,
            mesh::TokenProfile::AtJwt => Self::AtJwt,
            mesh::TokenProfile::JwtSvid => Self::JwtSvid,
            mesh::TokenProfile::TxnToken => Self::TxnToken,
        }
    }
}

/// What must be there beside `exp`, as what.
const REQUIRED: [(Profile, &[&str]); 4] = [
    (Profile::Generic, &[]),
    (
        Profile::AtJwt,
        &["iss", "aud", "sub", "client_id", "iat", "jti"],
    ),
    (Profile::JwtSvid, &["aud", "sub"]),
    (
        Profile::TxnToken,
        &["iat", "aud", "txn", "sub", "scope", "req_wl"],
    ),
];
/// Strings wherever they occur: revocation and binding look at them, and another type would slip past.
const STRINGS: [&str; 8] = [
    "iss",
    "sub",
    "jti",
    "sid",
    "azp",
    "client_id",
    "txn",
    "req_wl",
];

impl Profile {
    /// The header, before anything else is looked at.
    pub(super) fn check_header(self, header: &Header) -> Result<(), Reason> {
        let fits = match self {
            Self::Generic => matches!(header.typ, Typ::Absent | Typ::Jwt | Typ::Jose | Typ::AtJwt),
            Self::AtJwt => header.typ == Typ::AtJwt,
            Self::JwtSvid => matches!(header.typ, Typ::Absent | Typ::Jwt | Typ::Jose),
            Self::TxnToken => header.typ == Typ::TxnToken,
        };
        if !fits {
            return Err(Reason::TokenWrongType);
        }
        if self == Self::JwtSvid && !header.is_plain {
            return Err(Reason::TokenMalformed);
        }
        Ok(())
    }

    /// The types of the claims, and that those of the profile are there.
    pub(super) fn check_claims(self, claims: &Object, trust_domain: &str) -> Result<(), Reason> {
        for name in STRINGS {
            match claims.get(name) {
                None | Some(Value::String(_)) => {}
                Some(_) => return Err(Reason::TokenClaim),
            }
        }
        check_list(claims.get("aud"))?;
        check_list(claims.get("scope"))?;
        check_list(claims.get("scp"))?;
        let required = REQUIRED.iter().find(|(profile, _)| *profile == self);
        for name in required.map_or(&[][..], |(_, names)| names) {
            let there = match claims.get(name) {
                None => false,
                Some(Value::String(text)) => !text.is_empty() || *name == "scope",
                Some(_) => true,
            };
            if !there {
                let missing_audience = *name == "aud";
                return Err(if missing_audience {
                    Reason::TokenWrongAudience
                } else {
                    Reason::TokenClaim
                });
            }
        }
        if self == Self::JwtSvid {
            let id = claims.string("sub").and_then(|s| SpiffeId::parse(s).ok());
            if id.is_none_or(|id| id.trust_domain() != trust_domain) {
                return Err(Reason::TokenClaim);
            }
        }
        Ok(())
    }
}

/// A string or an array of strings.
fn check_list(value: Option<&Value>) -> Result<(), Reason> {
    match value {
        None | Some(Value::String(_)) => Ok(()),
        Some(Value::Array(values)) if values.iter().all(|v| v.as_str().is_some()) => Ok(()),
        Some(_) => Err(Reason::TokenClaim),
    }
}

/// That the token is meant for one of `audiences`; empty: nobody asks.
pub(super) fn check_audience(claims: &Object, audiences: &[Box<str>]) -> Result<(), Reason> {
    if audiences.is_empty() {
        return Ok(());
    }
    let is_ours = |text: &str| audiences.iter().any(|audience| **audience == *text);
    let named = match claims.get("aud") {
        Some(Value::String(text)) => is_ours(text),
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).any(is_ours),
        _ => false,
    };
    if named {
        Ok(())
    } else {
        Err(Reason::TokenWrongAudience)
    }
}

/// When a token is good, Unix seconds, with the rule's leeway in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Not before.
    from: i64,
    /// Not from then on.
    until: i64,
    /// Not from then on either: the subject authenticated too long ago.
    fresh_until: i64,
}

impl Times {
    pub(super) fn of(claims: &Object, leeway: i64, max_age: Option<i64>) -> Result<Self, Reason> {
        let date = |name| -> Result<Option<NumericDate>, Reason> {
            match claims.get(name) {
                None => Ok(None),
                Some(value) => value.as_date().map(Some).ok_or(Reason::TokenClaim),
            }
        };
        let (issued, authenticated) = (date("iat")?, date("auth_time")?);
        let end = date("exp")?.ok_or(Reason::TokenClaim)?.floor;
        let begins = [date("nbf")?, issued].into_iter().flatten();
        let fresh_until = match max_age {
            None => i64::MAX,
            Some(age) => authenticated.or(issued).ok_or(Reason::TokenClaim)?.floor + age + leeway,
        };
        Ok(Self {
            from: begins.map(|d| d.ceiling).max().unwrap_or(i64::MIN + leeway) - leeway,
            until: end + leeway,
            fresh_until,
        })
    }

    /// The check that is repeated at every use.
    pub(super) fn check(&self, now: i64) -> Result<(), Reason> {
        if now >= self.until {
            return Err(Reason::TokenExpired);
        }
        if now < self.from {
            return Err(Reason::TokenNotYetValid);
        }
        if now >= self.fresh_until {
            return Err(Reason::TokenTooOld);
        }
        Ok(())
    }

    /// From when on the token is expired.
    pub(super) fn until(&self) -> i64 {
        self.until
    }
}
