//! The compact form (RFC 7515 §7.1): three segments, strict base64url, and what the header may say.
//!
//! Embedded keys and links to keys (`jwk`, `jku`, `x5c`, `x5u`) are never looked at: keys come from the rule.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use crate::Reason;
use crate::claims::{self, Object, Value};

/// Header segments remembered.
const MEMO: usize = 8;

/// A token in its three segments, still encoded.
#[derive(Clone, Copy)]
pub(super) struct Compact<'a> {
    pub(super) header: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) signature: &'a [u8],
    /// What the signature is over.
    pub(super) signed: &'a [u8],
}

impl<'a> Compact<'a> {
    /// Splits; `None` unless there are exactly three segments, of which the last may be empty (that is `alg: none`, and
    /// is refused for it).
    pub(super) fn split(text: &'a [u8]) -> Option<Self> {
        let mut dots = text.iter().enumerate().filter(|(_, b)| **b == b'.');
        let (first, second) = (dots.next()?.0, dots.next()?.0);
        if dots.next().is_some() || first == 0 || second == first + 1 {
            return None;
        }
        Some(Self {
            header: &text[..first],
            payload: &text[first + 1..second],
            signature: &text[second + 1..],
            signed: &text[..second],
        })
    }
}

/// True when each segment is made of base64url's letters only and the first begins as a JSON object does. Other tokens have
/// three segments too.
pub(super) fn is_like_jwt(compact: Compact<'_>) -> bool {
    // The first letter and two bits of the second are '{'.
    let [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..] = compact.header else {
        return false;
    };
    let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let mut segments = [compact.header, compact.payload, compact.signature].into_iter();
    segments.all(|segment| segment.iter().all(is_letter))
}

/// Decodes base64url: no padding, no other alphabet, no space, and the unused last bits zero, so that one token has one
/// spelling.
pub(super) fn decode(segment: &[u8]) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_| Reason::TokenMalformed)
}

/// What `typ` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typ {
    Absent,
    Jwt,
    Jose,
    AtJwt,
    TxnToken,
    Other,
}

impl Typ {
    /// Media types compare without case, and `application/` may be left out (RFC 7515 §4.1.9).
    fn of(text: &str) -> Self {
        let is = |name: &str| {
            let bare = text
                .get(..12)
                .filter(|p| p.eq_ignore_ascii_case("application/"))
                .map_or(text, |_| &text[12..]);
            bare.eq_ignore_ascii_case(name)
        };
        if is("JWT") {
            Self::Jwt
        } else if is("JOSE") {
            Self::Jose
        } else if is("at+jwt") {
            Self::AtJwt
        } else if is("txntoken+jwt") {
            Self::TxnToken
        } else {
            Self::Other
        }
    }
}

/// A header that may be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<Box<str>>,
    pub(super) typ: Typ,
    /// It has no other members than `alg`, `kid` and `typ`.
    pub(super) is_plain: bool,
}

impl Header {
    fn parse(segment: &[u8]) -> Result<Self, Reason> {
        let header = claims::parse(&decode(segment)?).map_err(|_| Reason::TokenMalformed)?;
        // What must be understood is not (RFC 7515 §4.1.11); an unencoded payload (RFC 7797) and encryption neither.
        if ["crit", "b64", "enc", "zip"]
            .iter()
            .any(|name| header.get(name).is_some())
        {
            return Err(Reason::TokenMalformed);
        }
        let algorithm = header
            .string("alg")
            .and_then(Algorithm::from_name)
            .ok_or(Reason::TokenAlgorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Reason::TokenMalformed),
        };
        let typ = match header.get("typ") {
            None => Typ::Absent,
            Some(Value::String(typ)) => Typ::of(typ),
            Some(_) => Typ::Other,
        };
        // A JWT inside a JWT is read by nobody here (RFC 7519 §5.2).
        if header.get("cty").is_some() {
            return Err(Reason::TokenWrongType);
        }
        Ok(Self {
            algorithm,
            kid,
            typ,
            is_plain: is_plain(&header),
        })
    }
}

fn is_plain(header: &Object) -> bool {
    header
        .iter()
        .all(|(name, _)| matches!(name, "alg" | "kid" | "typ"))
}

/// Headers that verified tokens had: most tokens of an issuer share one, byte for byte. Only verification that succeeded
/// adds to it, so that nobody else can push them out.
#[derive(Debug, Default)]
pub struct HeaderMemo(Vec<(Box<[u8]>, Arc<Header>)>);

impl HeaderMemo {
    pub(super) fn read(&self, segment: &[u8]) -> Result<Arc<Header>, Reason> {
        match self.0.iter().find(|(held, _)| **held == *segment) {
            Some((_, header)) => Ok(Arc::clone(header)),
            None => Header::parse(segment).map(Arc::new),
        }
    }

    pub(super) fn keep(&mut self, segment: &[u8], header: &Arc<Header>) {
        if self.0.iter().any(|(held, _)| **held == *segment) {
            return;
        }
        if self.0.len() == MEMO {
            self.0.remove(0);
        }
        self.0.push((segment.into(), Arc::clone(header)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str) -> Result<Header, Reason> {
        Header::parse(URL_SAFE_NO_PAD.encode(json).as_bytes())
    }

    #[test]
    fn headers_are_honoured_or_refused_by_rule() {
        use Reason::{TokenAlgorithm, TokenMalformed, TokenWrongType};
        let cases: &[(&str, Reason)] = &[
            (r#"{"alg":"none"}"#, TokenAlgorithm),
            (r#"{"alg":"None"}"#, TokenAlgorithm),
            (r#"{"alg":"nOnE"}"#, TokenAlgorithm),
            (r#"{"alg":""}"#, TokenAlgorithm),
            (r#"{"alg":null}"#, TokenAlgorithm),
            (r#"{"alg":["RS256"]}"#, TokenAlgorithm),
            (r#"{"alg":256}"#, TokenAlgorithm),
            (r#"{"alg":{"RS256":1}}"#, TokenAlgorithm),
            (r#"{"typ":"JWT"}"#, TokenAlgorithm),
            (r#"{"alg":"HS256"}"#, TokenAlgorithm),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, TokenMalformed),
            (r#"{"alg":"RS256","crit":[]}"#, TokenMalformed),
            (r#"{"alg":"RS256","crit":"x"}"#, TokenMalformed),
            (r#"{"alg":"RS256","crit":null}"#, TokenMalformed),
            (r#"{"alg":"RS256","b64":false}"#, TokenMalformed),
            (r#"{"alg":"RS256","b64":true}"#, TokenMalformed),
            (r#"{"alg":"RS256","enc":"A128GCM"}"#, TokenMalformed),
            (r#"{"alg":"RS256","alg":"RS256"}"#, TokenMalformed),
            (r#"{"alg":"RS256","\u0061lg":"none"}"#, TokenMalformed),
            (r#"{"alg":"RS256","kid":1}"#, TokenMalformed),
            (r#"{"alg":"RS256","kid":null}"#, TokenMalformed),
            (r#"{"alg":"RS256","kid":["a"]}"#, TokenMalformed),
            (r#"{"alg":"RS256","cty":"JWT"}"#, TokenWrongType),
            (r#"["alg"]"#, TokenMalformed),
            ("null", TokenMalformed),
            ("", TokenMalformed),
        ];
        for (json, reason) in cases {
            assert_eq!(header(json), Err(*reason), "{json}");
        }
        let links = header(
            r#"{"alg":"RS256","kid":"k","jku":"http://127.0.0.1/","jwk":{"kty":"oct"},"x5u":"a","x5c":["b"]}"#,
        )
        .unwrap();
        assert_eq!(links.kid.as_deref(), Some("k"));
        assert!(!links.is_plain);
        assert!(
            header(r#"{"alg":"ES256","typ":"JWT","kid":"k"}"#)
                .unwrap()
                .is_plain
        );
    }

    #[test]
    fn types_compare_without_case_and_prefix() {
        for (text, typ) in [
            ("JWT", Typ::Jwt),
            ("jwt", Typ::Jwt),
            ("JOSE", Typ::Jose),
            ("at+jwt", Typ::AtJwt),
            ("AT+JWT", Typ::AtJwt),
            ("application/at+jwt", Typ::AtJwt),
            ("Application/AT+JWT", Typ::AtJwt),
            ("txntoken+jwt", Typ::TxnToken),
            ("wit+jwt", Typ::Other),
            ("at+jwt ", Typ::Other),
            ("application/application/at+jwt", Typ::Other),
            ("", Typ::Other),
            ("application/", Typ::Other),
            ("ĳĳĳĳĳĳĳĳ", Typ::Other),
        ] {
            assert_eq!(Typ::of(text), typ, "{text}");
        }
    }

    #[test]
    fn only_three_segments_of_the_one_spelling_are_a_token() {
        for text in [
            "",
            ".",
            "..",
            "a",
            "a.b",
            ".b.c",
            "a..c",
            "a.b.c.d",
            "a.b.c.d.e",
            ".a.b.c",
            "a.b.c.",
        ] {
            assert!(Compact::split(text.as_bytes()).is_none(), "{text}");
        }
        let it = Compact::split(b"a.b.c").unwrap();
        assert_eq!(
            (it.header, it.payload, it.signature, it.signed),
            (&b"a"[..], &b"b"[..], &b"c"[..], &b"a.b"[..])
        );
        assert!(Compact::split(b"a.b.").unwrap().signature.is_empty());
        for (segment, fine) in [
            ("QQ", true),
            ("QR", false),
            ("QQ==", false),
            ("QQ=", false),
            ("QUE", true),
            ("QUF", false),
            ("-_-_", true),
            ("+/+/", false),
            ("QU E", false),
            ("QUE\n", false),
            ("Q", false),
            ("QUJDR", false),
        ] {
            assert_eq!(decode(segment.as_bytes()).is_ok(), fine, "{segment:?}");
        }
    }

    #[test]
    fn the_memo_is_bounded() {
        let mut memo = HeaderMemo::default();
        for i in 0..100 {
            let segment = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"RS256\",\"kid\":\"{i}\"}}"));
            let header = memo.read(segment.as_bytes()).unwrap();
            memo.keep(segment.as_bytes(), &header);
            memo.keep(segment.as_bytes(), &header);
        }
        assert_eq!(memo.0.len(), MEMO);
    }
}
