//! Tokens that are no longer believed although they still verify.
//!
//! One look-up for the issuer and one for each of `jti`, `sub` and `sid`, however many entries there are. What a token
//! does not say cannot save it: one without `iat` counts as older than every moment.

use std::collections::HashMap;

use mesh_proto::mesh;

use super::verified::VerifiedToken;
use crate::revocation::Revoked;

/// Longest name that an entry can hold.
const MAX_TEXT: usize = 2_048;

/// Why an entry was refused: the field, and what is wrong with it.
pub(crate) type Problem = (&'static str, String);

/// One entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevokedToken {
    issuer: Box<str>,
    id: Option<Box<str>>,
    subject: Option<Box<str>>,
    session: Option<Box<str>>,
    issued_before: Option<i64>,
}

impl RevokedToken {
    /// Checks what a resource says of tokens.
    ///
    /// # Errors
    /// Names the field. An entry that would revoke every token of an issuer whenever it was issued is refused.
    pub(crate) fn parse(message: &mesh::RevokedToken) -> Result<Self, Problem> {
        let text = |field, value: &str| match value.len() {
            0 => Ok(None),
            1..=MAX_TEXT => Ok(Some(value.into())),
            _ => Err((field, format!("longer than {MAX_TEXT} bytes"))),
        };
        let entry = Self {
            issuer: text("token.issuer", &message.issuer)?
                .ok_or_else(|| ("token.issuer", "empty".to_owned()))?,
            id: text("token.id", &message.id)?,
            subject: text("token.subject", &message.subject)?,
            session: text("token.session", &message.session)?,
            issued_before: match message.issued_before {
                0 => None,
                at @ 1.. => Some(at),
                _ => return Err(("token.issued_before", "is negative".to_owned())),
            },
        };
        let says_which = entry.id.is_some()
            || entry.subject.is_some()
            || entry.session.is_some()
            || entry.issued_before.is_some();
        match says_which {
            true => Ok(entry),
            false => Err((
                "token",
                "one of id, subject, session and issued_before is needed".to_owned(),
            )),
        }
    }

    /// Everything that the entry says holds for the token.
    fn matches(&self, token: &VerifiedToken) -> bool {
        let says = |wanted: &Option<Box<str>>, said: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| said == Some(wanted))
        };
        says(&self.id, token.id())
            && says(&self.subject, token.subject())
            && says(&self.session, token.session())
            && self
                .issued_before
                .is_none_or(|moment| token.issued_at().is_none_or(|at| at < moment))
    }
}

/// An entry with its name and its end.
#[derive(Debug, Clone)]
struct Marked {
    entry: RevokedToken,
    mark: Revoked,
}

/// The entries of one issuer: each once, under the most telling thing that it says.
#[derive(Debug, Clone, Default)]
struct Issuer {
    ids: HashMap<Box<str>, Vec<Marked>>,
    sessions: HashMap<Box<str>, Vec<Marked>>,
    subjects: HashMap<Box<str>, Vec<Marked>>,
    others: Vec<Marked>,
}

/// Every entry about tokens, indexed.
#[derive(Debug, Clone, Default)]
pub struct RevokedTokens {
    issuers: HashMap<Box<str>, Issuer>,
}

impl RevokedTokens {
    /// Adds an entry.
    pub(crate) fn add(&mut self, entry: RevokedToken, mark: Revoked) {
        let issuer = self.issuers.entry(entry.issuer.clone()).or_default();
        let list = if let Some(id) = &entry.id {
            issuer.ids.entry(id.clone()).or_default()
        } else if let Some(session) = &entry.session {
            issuer.sessions.entry(session.clone()).or_default()
        } else if let Some(subject) = &entry.subject {
            issuer.subjects.entry(subject.clone()).or_default()
        } else {
            &mut issuer.others
        };
        list.push(Marked { entry, mark });
    }

    /// True when no token is revoked.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The entry that revokes `token` at `now`, Unix seconds. `authority`: who is believed to have issued it, for tokens
    /// that do not say.
    pub fn of_token(&self, authority: &str, token: &VerifiedToken, now: i64) -> Option<&Revoked> {
        let issuer = self.issuers.get(token.issuer().unwrap_or(authority))?;
        issuer
            .candidates(token)
            .find(|marked| marked.mark.is_in_force(now) && marked.entry.matches(token))
            .map(|marked| &marked.mark)
    }
}

impl Issuer {
    fn candidates<'a>(&'a self, token: &VerifiedToken) -> impl Iterator<Item = &'a Marked> {
        fn under<'a>(map: &'a HashMap<Box<str>, Vec<Marked>>, said: Option<&str>) -> &'a [Marked] {
            said.and_then(|said| map.get(said))
                .map_or(&[], Vec::as_slice)
        }
        under(&self.ids, token.id())
            .iter()
            .chain(under(&self.sessions, token.session()))
            .chain(under(&self.subjects, token.subject()))
            .chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::parse;

    fn token(claims: &str) -> VerifiedToken {
        VerifiedToken::unverified_for_policy_test("p", parse(claims.as_bytes()).unwrap())
    }

    fn entry(change: impl FnOnce(&mut mesh::RevokedToken)) -> Result<RevokedToken, Problem> {
        let mut message = mesh::RevokedToken {
            issuer: "https://a".into(),
            ..mesh::RevokedToken::default()
        };
        change(&mut message);
        RevokedToken::parse(&message)
    }

    #[test]
    fn a_token_is_revoked_by_what_it_says_and_by_what_it_does_not_say() {
        type Change = fn(&mut mesh::RevokedToken);
        let full = r#"{"iss":"https://a","jti":"j","sub":"s","sid":"k","iat":100}"#;
        let undated = r#"{"iss":"https://a","jti":"j"}"#;
        let other = r#"{"iss":"https://b","jti":"j","sub":"s","sid":"k","iat":100}"#;
        let nameless = r#"{"jti":"j"}"#;
        let cases: &[(Change, &str, bool)] = &[
            (|e| e.id = "j".into(), full, true),
            (|e| e.id = "J".into(), full, false),
            (|e| e.id = "j".into(), other, false),
            (|e| e.id = "j".into(), nameless, true),
            (|e| e.subject = "s".into(), full, true),
            (|e| e.subject = "s".into(), undated, false),
            (|e| e.session = "k".into(), full, true),
            (|e| e.issued_before = 101, full, true),
            (|e| e.issued_before = 100, full, false),
            (|e| e.issued_before = 1, undated, true),
            (
                |e| (e.subject, e.issued_before) = ("s".into(), 101),
                full,
                true,
            ),
            (
                |e| (e.subject, e.issued_before) = ("s".into(), 99),
                full,
                false,
            ),
            (
                |e| (e.id, e.subject) = ("j".into(), "t".into()),
                full,
                false,
            ),
        ];
        for (i, (change, claims, revoked)) in cases.iter().enumerate() {
            let mut all = RevokedTokens::default();
            all.add(entry(change).unwrap(), Revoked::until("e", Some(50)));
            let token = token(claims);
            let of = |now| all.of_token("https://a", &token, now).map(|m| &*m.name);
            assert_eq!(of(49), revoked.then_some("e"), "{i}");
            assert_eq!(of(50), None, "{i}: it has ended");
        }
    }

    #[test]
    fn an_entry_that_does_not_say_which_is_refused() {
        assert_eq!(entry(|_| {}).unwrap_err().0, "token");
        assert_eq!(entry(|e| e.issuer.clear()).unwrap_err().0, "token.issuer");
        assert_eq!(
            entry(|e| e.issued_before = -1).unwrap_err().0,
            "token.issued_before"
        );
        let long = entry(|e| e.id = "x".repeat(MAX_TEXT + 1));
        assert_eq!(long.unwrap_err().0, "token.id");
    }
}
