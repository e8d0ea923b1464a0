//! Where tokens may stand in a request: found once, removed whole.
//!
//! A place that no rule names is not a place. More than one token in a request is refused: whoever comes after us might
//! take the other one. The exception is a transaction token, which travels in a header of its own beside an access token.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request;
use http::uri::{PathAndQuery, Uri};

use crate::Reason;

/// Header of transaction tokens.
pub(super) const TXN_TOKEN: &str = "txn-token";

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A header whose value starts with a prefix.
    Header(HeaderName, Box<str>),
    /// A query parameter.
    Param(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// A token as it came.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The token.
    pub(super) text: &'a [u8],
    /// Index of the place.
    pub(super) place: usize,
}

impl Presented<'_> {
    /// The token's bytes: what a cache digests. Never to be printed.
    pub fn expose(&self) -> &[u8] {
        self.text
    }

    /// Where it was, for [`super::TokenPolicy::remove`].
    pub fn place(&self) -> usize {
        self.place
    }
}

/// The tokens of a request.
#[derive(Clone, Copy, Default)]
pub struct Found<'a> {
    /// What speaks for the subject.
    pub credential: Option<Presented<'a>>,
    /// The transaction token.
    pub transaction: Option<Presented<'a>>,
}

impl Place {
    pub(super) fn is_transaction(&self) -> bool {
        matches!(self, Self::Header(name, _) if name.as_str() == TXN_TOKEN)
    }

    /// The values at this place, of which there should be one or none.
    fn values<'a>(
        &self,
        head: &'a request::Parts,
        mut each: impl FnMut(&'a [u8]) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        match self {
            Self::Header(name, prefix) => {
                let mut values = head.headers.get_all(name).iter();
                let Some(first) = values.next() else {
                    return Ok(());
                };
                if values.next().is_some() {
                    return Err(Reason::TokenDuplicate);
                }
                match after_prefix(first.as_bytes(), prefix)? {
                    Some(token) => each(token),
                    None => Ok(()),
                }
            }
            Self::Param(name) => {
                for (key, value) in pairs(head.uri.query().unwrap_or_default().as_bytes(), b'&') {
                    if spells(key, name) {
                        each(value)?;
                    }
                }
                Ok(())
            }
            Self::Cookie(name) => {
                for cookies in head.headers.get_all(header::COOKIE) {
                    for (key, value) in pairs(cookies.as_bytes(), b';') {
                        if key.trim_ascii() == name.as_bytes() {
                            each(value.trim_ascii())?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes the token out of the request.
    pub(super) fn remove(&self, head: &mut request::Parts) {
        match self {
            Self::Header(name, _) => drop(head.headers.remove(name)),
            Self::Param(name) => {
                let Some(query) = head.uri.query() else {
                    return;
                };
                let kept: Vec<_> = query
                    .split('&')
                    .filter(|part| {
                        !spells(part.split('=').next().unwrap_or_default().as_bytes(), name)
                    })
                    .collect();
                let path = head.uri.path();
                let path = if kept.is_empty() {
                    path.to_owned()
                } else {
                    format!("{path}?{}", kept.join("&"))
                };
                let mut parts = std::mem::take(&mut head.uri).into_parts();
                // What is left of a path and query is one.
                parts.path_and_query = PathAndQuery::try_from(path).ok();
                head.uri = Uri::from_parts(parts).unwrap_or_default();
            }
            Self::Cookie(name) => remove_cookie(&mut head.headers, name),
        }
    }
}

/// Looks at every place.
///
/// # Errors
/// `TokenDuplicate` for more than one token, `TokenMalformed` for something that half is one.
pub(super) fn find<'a>(places: &[Place], head: &'a request::Parts) -> Result<Found<'a>, Reason> {
    let mut found = Found::default();
    for (index, place) in places.iter().enumerate() {
        let slot = if place.is_transaction() {
            &mut found.transaction
        } else {
            &mut found.credential
        };
        place.values(head, |text| {
            if slot.is_some() {
                return Err(Reason::TokenDuplicate);
            }
            *slot = Some(Presented { text, place: index });
            Ok(())
        })?;
    }
    Ok(found)
}

/// What follows the prefix; `None` when the value is something else, e.g. another authentication scheme.
fn after_prefix<'a>(value: &'a [u8], prefix: &str) -> Result<Option<&'a [u8]>, Reason> {
    let bytes = prefix.as_bytes();
    // Schemes compare without case (RFC 9110 §11.1); other prefixes are what they are.
    let is_scheme = bytes.eq_ignore_ascii_case(b"bearer ");
    let starts = |with: &[u8]| {
        value.get(..with.len()).is_some_and(|start| {
            if is_scheme {
                start.eq_ignore_ascii_case(with)
            } else {
                start == with
            }
        })
    };
    if starts(bytes) {
        return Ok(Some(&value[bytes.len()..]));
    }
    if !is_scheme {
        return Ok(None);
    }
    // `Bearer` alone, after a tab, or hidden behind another scheme: somebody might take it for a token.
    let bare = bytes.trim_ascii_end();
    let alone = starts(bare)
        && value
            .get(bare.len())
            .is_none_or(|next| !next.is_ascii_alphanumeric());
    let hidden = value.split(|b| *b == b',').skip(1).any(|part| {
        part.trim_ascii()
            .get(..6)
            .is_some_and(|p| p.eq_ignore_ascii_case(bare))
    });
    if alone || hidden {
        return Err(Reason::TokenMalformed);
    }
    Ok(None)
}

fn pairs(text: &[u8], separator: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(move |b| *b == separator).map(|part| {
        let at = part.iter().position(|b| *b == b'=');
        at.map_or((part, &[][..]), |at| (&part[..at], &part[at + 1..]))
    })
}

/// True if `key` is `name`, percent-encoded or not.
fn spells(key: &[u8], name: &str) -> bool {
    let mut rest = key;
    let mut decoded = std::iter::from_fn(move || {
        let (first, tail) = rest.split_first()?;
        rest = tail;
        if *first == b'%'
            && let [a, b, after @ ..] = tail
            && let (Some(a), Some(b)) = (hex(*a), hex(*b))
        {
            rest = after;
            return Some(a << 4 | b);
        }
        Some(*first)
    });
    name.bytes().all(|b| decoded.next() == Some(b)) && decoded.next().is_none()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in lines {
        let mut kept = Vec::new();
        for part in line.as_bytes().split(|b| *b == b';') {
            let key = part.split(|b| *b == b'=').next().unwrap_or_default();
            if key.trim_ascii() != name.as_bytes() {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(part.trim_ascii());
            }
        }
        if !kept.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(&kept)
        {
            headers.append(header::COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, lines: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder().uri(uri);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn places() -> Vec<Place> {
        vec![
            Place::Header(header::AUTHORIZATION, "Bearer ".into()),
            Place::Header(HeaderName::from_static("x-token"), "".into()),
            Place::Param("access_token".into()),
            Place::Cookie("session".into()),
            Place::Header(HeaderName::from_static(TXN_TOKEN), "".into()),
        ]
    }

    #[test]
    fn one_token_is_found_where_it_may_be() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Result<&'static str, Reason>,
        );
        let (duplicate, malformed) = (Err(Reason::TokenDuplicate), Err(Reason::TokenMalformed));
        let cases: &[Case] = &[
            ("/", &[], Ok("")),
            ("/", &[("authorization", "Bearer t")], Ok("t")),
            ("/", &[("authorization", "bearer t")], Ok("t")),
            ("/", &[("authorization", "BEARER t")], Ok("t")),
            ("/", &[("authorization", "Bearer  t")], Ok(" t")),
            ("/", &[("authorization", "Bearer")], malformed),
            ("/", &[("authorization", "Bearer\tt")], malformed),
            ("/", &[("authorization", "Bearer,t")], malformed),
            ("/", &[("authorization", "Basic dTpw, Bearer t")], malformed),
            ("/", &[("authorization", "Basic dTpw")], Ok("")),
            ("/", &[("authorization", "Bearerx t")], Ok("")),
            ("/", &[("authorization", "DPoP t")], Ok("")),
            (
                "/",
                &[("authorization", "Bearer t"), ("authorization", "Bearer t")],
                duplicate,
            ),
            (
                "/",
                &[
                    ("authorization", "Basic dTpw"),
                    ("authorization", "Bearer t"),
                ],
                duplicate,
            ),
            ("/", &[("x-token", "t")], Ok("t")),
            (
                "/",
                &[("authorization", "Bearer t"), ("x-token", "t")],
                duplicate,
            ),
            ("/?access_token=t", &[], Ok("t")),
            ("/?a=b&access%5ftoken=t", &[], Ok("t")),
            ("/?access_token=t&access_token=t", &[], duplicate),
            ("/?access_token=t&%61ccess_token=u", &[], duplicate),
            ("/?Access_token=t", &[], Ok("")),
            (
                "/?access_token=t",
                &[("authorization", "Bearer t")],
                duplicate,
            ),
            ("/", &[("cookie", "a=b; session=t")], Ok("t")),
            ("/", &[("cookie", "a=session; sessions=t")], Ok("")),
            ("/", &[("cookie", "session=t; session=u")], duplicate),
            (
                "/",
                &[("cookie", "session=t"), ("cookie", "session=u")],
                duplicate,
            ),
        ];
        for (uri, lines, expected) in cases {
            let head = head(uri, lines);
            let text = find(&places(), &head)
                .map(|found| found.credential.map_or(&b""[..], |p| p.text).to_vec());
            assert_eq!(
                text,
                expected.map(|t| t.as_bytes().to_vec()),
                "{uri} {lines:?}"
            );
        }
    }

    #[test]
    fn a_transaction_token_travels_beside_an_access_token_but_not_twice() {
        let both = head("/", &[("authorization", "Bearer a"), (TXN_TOKEN, "t")]);
        let found = find(&places(), &both).unwrap();
        assert_eq!(
            (
                found.credential.unwrap().text,
                found.transaction.unwrap().text
            ),
            (&b"a"[..], &b"t"[..])
        );
        let twice = head("/", &[(TXN_TOKEN, "t"), (TXN_TOKEN, "t")]);
        assert_eq!(find(&places(), &twice).err(), Some(Reason::TokenDuplicate));
    }

    #[test]
    fn a_token_is_removed_and_nothing_else() {
        let cases = [
            (2, "http://h/p?access_token=t", &[][..], "http://h/p", None),
            (
                2,
                "http://h/p?a=1&access_token=t&b",
                &[],
                "http://h/p?a=1&b",
                None,
            ),
            (
                2,
                "http://h/p?%61ccess_token=t&access_tokens=u",
                &[],
                "http://h/p?access_tokens=u",
                None,
            ),
            (
                3,
                "http://h/",
                &[("cookie", "a=1;session=t; b=2")],
                "http://h/",
                Some("a=1; b=2"),
            ),
            (
                3,
                "http://h/",
                &[("cookie", "session=t")],
                "http://h/",
                None,
            ),
        ];
        for (place, uri, lines, left, cookie) in cases {
            let mut head = head(uri, lines);
            places()[place].remove(&mut head);
            assert_eq!(
                head.uri.to_string().trim_end_matches('/'),
                left.trim_end_matches('/'),
                "{uri}"
            );
            let cookies = head.headers.get("cookie").map(|v| v.to_str().unwrap());
            assert_eq!(cookies, cookie, "{uri}");
        }
        let mut head = head("/", &[("authorization", "Bearer t"), ("x", "y")]);
        places()[0].remove(&mut head);
        assert_eq!(head.headers.len(), 1);
    }
}
