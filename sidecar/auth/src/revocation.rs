//! Revocation: what is no longer believed although its certificate still verifies.
//!
//! A [`Revocations`] is compiled once per snapshot and asked at every handshake, resumption, and review of an open
//! connection. One lookup per segment of the SPIFFE ID's path, however many entries there are. Tokens have their own index.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_proto::mesh::{self, revocation};

use crate::svid::VerifiedPeer;
use crate::token::revoked::{RevokedToken, RevokedTokens};
use crate::token::{Verified, VerifiedToken};
use crate::{SpiffeId, TrustDomain};

/// By how much the mesh's authority sets back the start of a certificate's validity, seconds: clocks differ. The moment of
/// an entry about age is set back as much when it is published, so that it is compared with what certificates show.
pub const BACKDATE: i64 = 300;
/// Longest serial number (RFC 5280 §4.1.2.2 allows 20 bytes).
const MAX_SERIAL: usize = 20;
/// Longest reason that is kept.
const MAX_REASON: usize = 512;

/// Why an entry was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RevocationError {
    /// The field of the resource.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn refuse<T>(field: &'static str, problem: impl Into<String>) -> Result<T, RevocationError> {
    Err(RevocationError {
        field,
        problem: problem.into(),
    })
}

/// The entry that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Name of the entry.
    pub name: Arc<str>,
    /// Why, as its author said; may be empty.
    pub reason: Arc<str>,
    /// End, Unix seconds; `None`: never.
    expires_at: Option<i64>,
}

impl Revoked {
    /// An entry of that name.
    #[cfg(test)]
    pub(crate) fn until(name: &str, expires_at: Option<i64>) -> Self {
        Self {
            name: name.into(),
            reason: "".into(),
            expires_at,
        }
    }

    pub(crate) fn is_in_force(&self, now: i64) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Serial(TrustDomain, Vec<u8>),
    Id(SpiffeId),
    /// With a moment: only certificates whose validity starts earlier, and JWT-SVIDs issued then.
    Prefix(TrustDomain, String, Option<i64>),
    Token(RevokedToken),
}

/// One entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    subject: Subject,
    mark: Revoked,
}

impl Entry {
    /// Checks a resource.
    ///
    /// # Errors
    /// Names the field. An entry without a subject that is known here is refused: to hold it would be to claim that it is
    /// enforced.
    pub fn parse(message: &mesh::Revocation) -> Result<Self, RevocationError> {
        if message.name.is_empty() {
            return refuse("name", "empty");
        }
        let subject = match &message.subject {
            None => return refuse("subject", "none that is known to this version"),
            Some(revocation::Subject::Serial(serial)) => Subject::Serial(
                domain("serial.trust_domain", &serial.trust_domain)?,
                number(&serial.serial)?,
            ),
            Some(revocation::Subject::SpiffeId(id)) => match SpiffeId::parse(id) {
                Ok(id) => Subject::Id(id),
                Err(error) => return refuse("spiffe_id", error.to_string()),
            },
            Some(revocation::Subject::Prefix(prefix)) => {
                let domain = domain("prefix.trust_domain", &prefix.trust_domain)?;
                let path = path("prefix.path", &domain, &prefix.path)?;
                Subject::Prefix(domain, path, None)
            }
            Some(revocation::Subject::IssuedBefore(before)) => {
                let domain = domain("issued_before.trust_domain", &before.trust_domain)?;
                let path = path("issued_before.path", &domain, &before.path)?;
                if before.not_before <= 0 {
                    return refuse("issued_before.not_before", "must be a moment after 1970");
                }
                Subject::Prefix(domain, path, Some(before.not_before))
            }
            Some(revocation::Subject::Token(token)) => match RevokedToken::parse(token) {
                Ok(token) => Subject::Token(token),
                Err((field, problem)) => return refuse(field, problem),
            },
        };
        if message.expires_at < 0 {
            return refuse("expires_at", "is negative");
        }
        if message.reason.len() > MAX_REASON {
            return refuse("reason", format!("longer than {MAX_REASON} bytes"));
        }
        Ok(Self {
            subject,
            mark: Revoked {
                name: message.name.as_str().into(),
                // One line in every log, whatever its author typed.
                reason: message.reason.escape_debug().to_string().into(),
                expires_at: (message.expires_at != 0).then_some(message.expires_at),
            },
        })
    }
}

fn domain(field: &'static str, name: &str) -> Result<TrustDomain, RevocationError> {
    TrustDomain::new(name).or_else(|error| refuse(field, error.to_string()))
}

fn number(bytes: &[u8]) -> Result<Vec<u8>, RevocationError> {
    let number = significant(bytes);
    if number.is_empty() || number.len() > MAX_SERIAL {
        return refuse("serial.serial", "must have 1 to 20 bytes that are not zero");
    }
    Ok(number.to_vec())
}

fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|b| **b == 0).count();
    &serial[zeros..]
}

/// A path of whole segments, without the last `/`.
fn path(field: &'static str, domain: &TrustDomain, path: &str) -> Result<String, RevocationError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(String::new());
    }
    match SpiffeId::parse(&format!("spiffe://{domain}{path}")) {
        Ok(id) if id.path() == path => Ok(path.to_owned()),
        Ok(_) => refuse(field, "must begin with '/'"),
        Err(error) => refuse(field, error.to_string()),
    }
}

/// The entries of one trust domain.
#[derive(Debug, Clone, Default)]
struct Domain {
    serials: HashMap<Box<[u8]>, Vec<Revoked>>,
    ids: HashMap<Box<str>, Vec<Revoked>>,
    prefixes: HashMap<Box<str>, Vec<(Option<i64>, Revoked)>>,
}

/// Every entry, indexed.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    domains: HashMap<Box<str>, Domain>,
    tokens: RevokedTokens,
    len: usize,
}

impl Revocations {
    /// Indexes entries.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut revocations = Self::default();
        for Entry { subject, mark } in entries {
            revocations.len += 1;
            match subject {
                Subject::Serial(domain, serial) => revocations
                    .domain(domain.as_str())
                    .serials
                    .entry(serial.into())
                    .or_default()
                    .push(mark),
                Subject::Id(id) => revocations
                    .domain(id.trust_domain())
                    .ids
                    .entry(id.path().into())
                    .or_default()
                    .push(mark),
                Subject::Prefix(domain, path, before) => revocations
                    .domain(domain.as_str())
                    .prefixes
                    .entry(path.into())
                    .or_default()
                    .push((before, mark)),
                Subject::Token(token) => revocations.tokens.add(token, mark),
            }
        }
        revocations
    }

    fn domain(&mut self, name: &str) -> &mut Domain {
        self.domains.entry(name.into()).or_default()
    }

    /// Entries held, whether in force or ended.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Those about tokens.
    pub fn tokens(&self) -> &RevokedTokens {
        &self.tokens
    }

    /// The entry that revokes `peer` at `now` (Unix seconds).
    pub fn of(&self, peer: &VerifiedPeer, now: i64) -> Option<&Revoked> {
        self.of_certificate(peer.id(), peer.serial(), peer.not_before(), now)
    }

    /// The entry that revokes a certificate by what is in it: its ID, serial number and start of validity.
    pub fn of_certificate(
        &self,
        id: &SpiffeId,
        serial: &[u8],
        not_before: i64,
        now: i64,
    ) -> Option<&Revoked> {
        let domain = self.domains.get(id.trust_domain())?;
        let mut serials = domain
            .serials
            .get(significant(serial))
            .into_iter()
            .flatten();
        serials
            .find(|mark| mark.is_in_force(now))
            .or_else(|| domain.of_id(id, Some(not_before), now))
    }

    /// The entry that revokes a JWT-SVID by whom it speaks of and when it was issued, Unix seconds; `None`: it does not say,
    /// and no moment is early enough. It shows the moment itself, certificates one that is set back by [`BACKDATE`].
    pub fn of_issued(&self, id: &SpiffeId, issued_at: Option<i64>, now: i64) -> Option<&Revoked> {
        let start = issued_at.map_or(i64::MIN, |at| at.saturating_sub(BACKDATE));
        self.domains
            .get(id.trust_domain())?
            .of_id(id, Some(start), now)
    }

    /// The entry that revokes a JWT-SVID of `id` at `now`, Unix seconds: one about the identity, or one about tokens.
    pub fn of_jwt_svid(&self, id: &SpiffeId, token: &VerifiedToken, now: i64) -> Option<&Revoked> {
        self.of_issued(id, token.issued_at(), now)
            .or_else(|| self.tokens.of_token(id.trust_domain(), token, now))
    }

    /// The entry that revokes a token that a rule accepted, at `now`, Unix seconds. A JWT-SVID ends with its subject too.
    pub fn of_verified(&self, verified: &Verified, now: i64) -> Option<&Revoked> {
        if self.is_empty() {
            return None;
        }
        let (token, provider) = (verified.token(), verified.provider());
        let about_tokens = self.tokens.of_token(provider.authority(), token, now);
        if about_tokens.is_some() || provider.rule().profile() != mesh::TokenProfile::JwtSvid {
            return about_tokens;
        }
        // Without such a subject it would not have been accepted.
        let id = SpiffeId::parse(token.subject()?).ok()?;
        self.of_issued(&id, token.issued_at(), now)
    }

    /// The entry that revokes an identity as a whole, whatever certificate it has: nothing new is issued to it.
    pub fn of_identity(&self, id: &SpiffeId, now: i64) -> Option<&Revoked> {
        self.domains.get(id.trust_domain())?.of_id(id, None, now)
    }
}

impl Domain {
    /// `not_before`: start of the certificate in question; `None` looks for what revokes every certificate.
    fn of_id(&self, id: &SpiffeId, not_before: Option<i64>, now: i64) -> Option<&Revoked> {
        let path = id.path();
        let exact = self.ids.get(path).into_iter().flatten();
        if let Some(mark) = exact.into_iter().find(|mark| mark.is_in_force(now)) {
            return Some(mark);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        ends.filter_map(|end| self.prefixes.get(&path[..end]))
            .flatten()
            .find(|(before, mark)| {
                let applies = match (before, not_before) {
                    (None, _) => true,
                    (Some(before), Some(start)) => start < *before,
                    (Some(_), None) => false,
                };
                applies && mark.is_in_force(now)
            })
            .map(|(_, mark)| mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn entry(name: &str, subject: revocation::Subject, expires_at: i64) -> mesh::Revocation {
        mesh::Revocation {
            name: name.into(),
            subject: Some(subject),
            reason: "why".into(),
            expires_at,
        }
    }

    fn serial(domain: &str, serial: &[u8]) -> revocation::Subject {
        revocation::Subject::Serial(mesh::RevokedSerial {
            trust_domain: domain.into(),
            serial: serial.into(),
        })
    }

    fn prefix(domain: &str, path: &str) -> revocation::Subject {
        revocation::Subject::Prefix(mesh::RevokedPrefix {
            trust_domain: domain.into(),
            path: path.into(),
        })
    }

    fn before(domain: &str, path: &str, not_before: i64) -> revocation::Subject {
        revocation::Subject::IssuedBefore(mesh::RevokedIssuedBefore {
            trust_domain: domain.into(),
            path: path.into(),
            not_before,
        })
    }

    fn compiled(entries: &[mesh::Revocation]) -> Revocations {
        Revocations::new(entries.iter().map(|e| Entry::parse(e).unwrap()))
    }

    #[test]
    fn an_entry_revokes_what_it_names_and_nothing_beside_it() {
        let revocations = compiled(&[
            entry("serial", serial("td", &[0, 7, 1]), 0),
            entry(
                "id",
                revocation::Subject::SpiffeId("spiffe://td/ns/a/sa/web".into()),
                0,
            ),
            entry("prefix", prefix("td", "/ns/shop"), 0),
            entry("old", before("td", "/ns/aged/", 1_000), 0),
            entry("domain", prefix("evil", "/"), 0),
            entry("ended", prefix("td", "/ns/ended"), 500),
        ]);
        for (text, number, start, expected) in [
            ("spiffe://td/ns/a/sa/db", &[7, 1][..], 0, Some("serial")),
            ("spiffe://td/ns/a/sa/db", &[0, 0, 7, 1], 0, Some("serial")),
            ("spiffe://td/ns/a/sa/db", &[7], 0, None),
            ("spiffe://other/ns/a/sa/db", &[7, 1], 0, None),
            ("spiffe://td/ns/a/sa/web", &[1], 0, Some("id")),
            ("spiffe://td/ns/a/sa/web2", &[1], 0, None),
            ("spiffe://td/ns/a/sa/web/x", &[1], 0, None),
            ("spiffe://td/ns/a/sa/WEB", &[1], 0, None),
            ("spiffe://td/ns/shop", &[1], 0, Some("prefix")),
            ("spiffe://td/ns/shop/sa/x", &[1], 0, Some("prefix")),
            ("spiffe://td/ns/shopping/sa/x", &[1], 0, None),
            ("spiffe://td/ns", &[1], 0, None),
            ("spiffe://td/ns/aged/sa/x", &[1], 999, Some("old")),
            ("spiffe://td/ns/aged/sa/x", &[1], 1_000, None),
            ("spiffe://evil/anything", &[1], 0, Some("domain")),
            ("spiffe://td/ns/ended/sa/x", &[1], 0, None),
        ] {
            let found = revocations.of_certificate(&id(text), number, start, 500);
            assert_eq!(
                found.map(|m| &*m.name),
                expected,
                "{text} {number:?} {start}"
            );
        }
        let ending = revocations.of_certificate(&id("spiffe://td/ns/ended/sa/x"), &[1], 0, 499);
        assert_eq!(ending.map(|m| &*m.name), Some("ended"));
    }

    #[test]
    fn an_identity_is_revoked_as_a_whole_only_by_entries_about_it() {
        let revocations = compiled(&[
            entry("serial", serial("td", &[7]), 0),
            entry("old", before("td", "", 1_000), 0),
            entry("prefix", prefix("td", "/ns/shop"), 0),
        ]);
        let of = |text| revocations.of_identity(&id(text), 0).map(|m| &*m.name);
        assert_eq!(of("spiffe://td/ns/shop/sa/x"), Some("prefix"));
        assert_eq!(of("spiffe://td/ns/a/sa/b"), None);
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_with_its_field() {
        let nothing = mesh::Revocation {
            name: "x".into(),
            ..Default::default()
        };
        let id = |text: &str| revocation::Subject::SpiffeId(text.into());
        let mut long = entry("x", id("spiffe://td/a"), 0);
        long.reason = "r".repeat(513);
        for (message, field) in [
            (nothing, "subject"),
            (entry("", id("spiffe://td/a"), 0), "name"),
            (entry("x", id("https://td/a"), 0), "spiffe_id"),
            (entry("x", id("spiffe://TD/a"), 0), "spiffe_id"),
            (entry("x", serial("td", &[]), 0), "serial.serial"),
            (entry("x", serial("td", &[0, 0]), 0), "serial.serial"),
            (entry("x", serial("td", &[1; 21]), 0), "serial.serial"),
            (entry("x", serial("", &[1]), 0), "serial.trust_domain"),
            (entry("x", prefix("td", "ns"), 0), "prefix.path"),
            (entry("x", prefix("td", "//"), 0), "prefix.path"),
            (entry("x", prefix("td", "/a/../b"), 0), "prefix.path"),
            (entry("x", prefix("td", "/a?b"), 0), "prefix.path"),
            (entry("x", prefix("t d", "/a"), 0), "prefix.trust_domain"),
            (
                entry("x", before("td", "", 0), 0),
                "issued_before.not_before",
            ),
            (
                entry("x", revocation::Subject::Token(Default::default()), 0),
                "token.issuer",
            ),
            (entry("x", id("spiffe://td/a"), -1), "expires_at"),
            (long, "reason"),
        ] {
            let error = Entry::parse(&message).expect_err(field);
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn a_reason_is_one_line_in_the_log() {
        let mut message = entry("x", prefix("td", "/a"), 0);
        message.reason = "lost\nlaptop".into();
        let revocations = compiled(&[message]);
        let mark = revocations.of_identity(&id("spiffe://td/a"), 0).unwrap();
        assert_eq!(&*mark.reason, "lost\\nlaptop");
    }
}
