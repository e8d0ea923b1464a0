//! Questions about tokens and their answers (RFC 7662 §2), as text. Pure.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use mesh_auth::Secret;
use mesh_auth::claims::{self, Object};

/// What an assertion is called in a form (RFC 7523 §2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How the client proves who it is.
pub(super) enum Proof<'a> {
    /// A secret in the header (RFC 6749 §2.3.1).
    Basic(&'a Secret<String>),
    /// A secret in the form.
    Post(&'a Secret<String>),
    /// A signed assertion (RFC 7523).
    Assertion(&'a Secret<String>),
    /// The connection's certificate; the form names whose it should be (RFC 8705 §2).
    Certificate,
}

/// A request's parts that depend on the token and the client.
pub(super) struct Question {
    /// `Authorization`, if the client authenticates there.
    pub(super) authorization: Option<HeaderValue>,
    /// The form.
    pub(super) form: Secret<String>,
}

/// What the endpoint says of a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is active, and this is the whole answer.
    Active(Object),
    /// It is not, and no reason is given.
    Inactive,
}

impl Question {
    /// Asks about `token` as client `id`.
    pub(super) fn new(token: &[u8], id: &str, proof: &Proof<'_>) -> Self {
        let mut form = String::with_capacity(token.len() + 128);
        form.push_str("token=");
        escape(&mut form, token);
        form.push_str("&token_type_hint=access_token");
        let mut authorization = None;
        let fields: &[(&str, &str)] = match proof {
            Proof::Basic(secret) => {
                authorization = basic(id, secret);
                &[]
            }
            Proof::Post(secret) => &[("client_id", id), ("client_secret", secret.expose())],
            Proof::Assertion(assertion) => &[
                ("client_id", id),
                ("client_assertion_type", ASSERTION_TYPE),
                ("client_assertion", assertion.expose()),
            ],
            Proof::Certificate => &[("client_id", id)],
        };
        for (name, value) in fields {
            form.push('&');
            form.push_str(name);
            form.push('=');
            escape(&mut form, value.as_bytes());
        }
        Self {
            authorization,
            form: Secret::new(form),
        }
    }
}

/// Each part is escaped first (RFC 6749 §2.3.1), so that a colon in the identifier is not the separator.
fn basic(id: &str, secret: &Secret<String>) -> Option<HeaderValue> {
    let mut pair = String::new();
    escape(&mut pair, id.as_bytes());
    pair.push(':');
    escape(&mut pair, secret.expose().as_bytes());
    let pair = Secret::new(pair);
    let text = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
    let mut value = HeaderValue::from_str(text.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Percent-encodes everything but what RFC 3986 calls unreserved.
fn escape(into: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(*byte));
            }
            // Writing to a string does not fail.
            _ => drop(write!(into, "%{byte:02X}")),
        }
    }
}

/// Reads an answer.
///
/// # Errors
/// What is wrong with it: then nothing is known of the token.
pub(super) fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, &'static str> {
    if status != StatusCode::OK {
        return Err(match status.as_u16() {
            401 | 403 => "it does not accept the client's credential",
            _ => "it answered with a status other than 200",
        });
    }
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err("its answer is not application/json");
    }
    let answer = claims::parse(body).map_err(|_| "its answer is not a JSON object")?;
    match answer.get("active").and_then(claims::Value::as_bool) {
        Some(true) => Ok(Answer::Active(answer)),
        Some(false) => Ok(Answer::Inactive),
        None => Err("its answer does not say whether the token is active"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_cannot_be_taken_for_something_else() {
        let secret = Secret::new("p&ss:wörd".to_owned());
        let basic = Question::new(b"a&active=true", "i:d", &Proof::Basic(&secret));
        assert_eq!(
            basic.form.expose(),
            "token=a%26active%3Dtrue&token_type_hint=access_token"
        );
        let header = basic.authorization.expect("a header");
        assert!(header.is_sensitive());
        let pair = header
            .to_str()
            .expect("text")
            .strip_prefix("Basic ")
            .expect("Basic");
        assert_eq!(
            STANDARD.decode(pair).expect("base64"),
            b"i%3Ad:p%26ss%3Aw%C3%B6rd"
        );
        let post = Question::new(b"t", "i:d", &Proof::Post(&secret));
        let assertion = Secret::new("e30.e30.c2ln".to_owned());
        let signed = Question::new(b"t", "i:d", &Proof::Assertion(&assertion));
        let certified = Question::new(b"t", "spiffe://td/a", &Proof::Certificate);
        for (question, rest) in [
            (post, "client_id=i%3Ad&client_secret=p%26ss%3Aw%C3%B6rd"),
            (
                signed,
                "client_id=i%3Ad&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=e30.e30.c2ln",
            ),
            (certified, "client_id=spiffe%3A%2F%2Ftd%2Fa"),
        ] {
            assert!(question.authorization.is_none());
            assert_eq!(
                question.form.expose(),
                &format!("token=t&token_type_hint=access_token&{rest}")
            );
        }
    }

    #[test]
    fn only_a_whole_answer_counts() {
        let json = "application/json; charset=utf-8";
        for (status, kind, body, expected) in [
            (200, json, r#"{"active":false}"#, Some(false)),
            (200, json, r#"{"active":true,"sub":"s"}"#, Some(true)),
            (200, "Application/JSON", r#"{"active":true}"#, Some(true)),
            (200, json, r#"{"active":"true"}"#, None),
            (200, json, r#"{"active":true,"active":true}"#, None),
            (200, json, r#"{"sub":"s"}"#, None),
            (200, json, r#"{"active":true"#, None),
            (200, json, "", None),
            (200, "text/html", r#"{"active":true}"#, None),
            (201, json, r#"{"active":true}"#, None),
            (302, json, r#"{"active":true}"#, None),
            (401, json, r#"{"active":true}"#, None),
            (500, json, r#"{"active":false}"#, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            let status = StatusCode::from_u16(status).expect("a status");
            let read = read(status, &headers, body.as_bytes());
            let active = read.ok().map(|answer| answer != Answer::Inactive);
            assert_eq!(active, expected, "{status} {kind} {body}");
        }
    }
}
