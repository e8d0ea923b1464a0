//! A JWK Set as an issuer serves it (RFC 7517 §5): read strictly as JSON, leniently as a set.
//!
//! A key that nobody could use is left out and named; the others stay. Members of private and symmetric keys never get
//! past here. Whether a key's numbers make sense is judged where it is prepared for use.

use mesh_auth::claims::{self, Limits, Number, Object, Value};
use serde_json::json;

/// Largest set, bytes.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Most keys in a set. Issuers publish a handful.
const MAX_KEYS: usize = 128;
/// Reasons that are kept.
const MAX_REASONS: usize = 8;

/// Why an answer is no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// An HTML page, for example of a login form or a proxy.
    #[error("the answer is an HTML page, not a JWK Set")]
    Html,
    /// No strict JSON.
    #[error("the answer is not JSON: {0}")]
    Json(String),
    /// No array `keys`.
    #[error("the answer has no array `keys`")]
    NoKeys,
    /// An attack, or a mistake.
    #[error("the answer has {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
    /// Nothing is left.
    #[error("none of its {total} keys can be used{}", reason.as_ref().map(|r| format!("; the first: {r}")).unwrap_or_default())]
    NoneUsable {
        /// Keys in the set.
        total: usize,
        /// What is wrong with the first.
        reason: Option<String>,
    },
}

/// A key set that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The usable keys as a JWK Set, in one spelling: equal sets are equal texts.
    pub document: String,
    /// How many there are.
    pub usable: usize,
    /// How many were left out.
    pub ignored: usize,
    /// Why, for the first of them.
    pub reasons: Vec<String>,
}

/// Reads an issuer's answer.
///
/// # Errors
/// Why it is no set, or none that can be used.
pub fn read(body: &[u8]) -> Result<Keys, JwksError> {
    let start = body.trim_ascii_start();
    if start.first() == Some(&b'<') {
        return Err(JwksError::Html);
    }
    let set = claims::parse_within(body, Limits::KEY_SET)
        .map_err(|error| JwksError::Json(error.to_string()))?;
    let listed = set
        .get("keys")
        .and_then(Value::as_array)
        .ok_or(JwksError::NoKeys)?;
    if listed.len() > MAX_KEYS {
        return Err(JwksError::TooMany(listed.len()));
    }
    let mut usable = vec![];
    let mut reasons = vec![];
    for (i, key) in listed.iter().enumerate() {
        match public_part(key) {
            Ok(key) => usable.push(key),
            Err(reason) => reasons.push(format!("keys[{i}]: {reason}")),
        }
    }
    if usable.is_empty() {
        return Err(JwksError::NoneUsable {
            total: listed.len(),
            reason: reasons.into_iter().next(),
        });
    }
    let ignored = reasons.len();
    reasons.truncate(MAX_REASONS);
    Ok(Keys {
        usable: usable.len(),
        document: json!({ "keys": usable }).to_string(),
        ignored,
        reasons,
    })
}

/// The members of a public signature key that mean something, or why there is none.
fn public_part(key: &Value) -> Result<serde_json::Value, String> {
    let key = key.as_object().ok_or("not an object")?;
    let text = |name: &'static str| match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(&**text)),
        Some(_) => Err(format!("{name}: not a string")),
    };
    let needed: &[&str] = match text("kty")? {
        None => return Err("kty: missing".into()),
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        Some("oct") => return Err("kty: a symmetric key cannot verify for others".into()),
        Some(_) => return Err("kty: not RSA, EC or OKP".into()),
    };
    if let Some(using) = text("use")?
        && using != "sig"
    {
        return Err("use: not for signatures".into());
    }
    if let Some(operations) = key.get("key_ops")
        && !operations
            .as_array()
            .is_some_and(|all| all.iter().any(|o| o.as_str() == Some("verify")))
    {
        return Err("key_ops: not for verification".into());
    }
    let mut part = serde_json::Map::new();
    for &name in needed {
        let value = text(name)?.ok_or_else(|| format!("{name}: missing"))?;
        part.insert(name.to_owned(), value.into());
    }
    for name in ["kty", "kid", "alg", "use"] {
        if let Some(value) = text(name)? {
            part.insert(name.to_owned(), value.into());
        }
    }
    if let Some(operations) = key.get("key_ops") {
        part.insert("key_ops".to_owned(), plain(operations));
    }
    Ok(part.into())
}

fn plain(value: &Value) -> serde_json::Value {
    let members = |object: &Object| {
        object
            .iter()
            .map(|(name, value)| (name.to_owned(), plain(value)))
            .collect()
    };
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(it) => (*it).into(),
        Value::Number(Number::Integer(it)) => (*it).into(),
        Value::Number(Number::Other(text)) => text.to_string().into(),
        Value::String(text) => text.to_string().into(),
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(object) => serde_json::Value::Object(members(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"a"}"#;

    fn set(keys: &[&str]) -> String {
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    #[test]
    fn a_bad_key_costs_nobody_else() {
        let bad = [
            "1",
            "{}",
            r#"{"kty":"EC","crv":"P-256","x":"AA"}"#,
            r#"{"kty":"oct","k":"c2VjcmV0"}"#,
            r#"{"kty":"AKP"}"#,
            r#"{"kty":"RSA","n":"AQ","e":3}"#,
            r#"{"kty":"RSA","n":"AQ","e":"AQAB","use":"enc"}"#,
            r#"{"kty":"RSA","n":"AQ","e":"AQAB","key_ops":["encrypt"]}"#,
            r#"{"kty":7}"#,
        ];
        for key in bad {
            let keys = read(set(&[key, EC]).as_bytes()).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert_eq!((keys.usable, keys.ignored), (1, 1), "{key}");
            assert!(keys.reasons[0].starts_with("keys[0]: "), "{key}");
            assert!(matches!(
                read(set(&[key]).as_bytes()),
                Err(JwksError::NoneUsable { total: 1, .. })
            ));
        }
    }

    #[test]
    fn private_members_do_not_get_past() {
        let private =
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"canary","x5c":["canary"]}"#;
        let secret = r#"{"kty":"oct","k":"canary"}"#;
        let keys = read(set(&[private, secret]).as_bytes()).unwrap();
        assert_eq!(keys.usable, 1);
        assert!(!format!("{keys:?}").contains("canary"));
    }

    #[test]
    fn equal_sets_are_equal_texts() {
        let other = r#" {"extra":[1.5], "keys" : [ {"kid":"a","y":"AA","x":"AA","crv":"P-256","kty":"EC"} ]}"#;
        assert_eq!(
            read(other.as_bytes()).unwrap().document,
            read(set(&[EC]).as_bytes()).unwrap().document
        );
    }

    #[test]
    fn what_is_no_set_is_refused_with_its_reason() {
        let many = set(&vec![EC; 10_000]);
        let cases: &[(&str, JwksError)] = &[
            ("\n<!DOCTYPE html><html>", JwksError::Html),
            ("{}", JwksError::NoKeys),
            (r#"{"keys":{}}"#, JwksError::NoKeys),
            (
                r#"{"keys":[]}"#,
                JwksError::NoneUsable {
                    total: 0,
                    reason: None,
                },
            ),
            (&many, JwksError::TooMany(10_000)),
        ];
        for (body, expected) in cases {
            assert_eq!(read(body.as_bytes()).as_ref(), Err(expected));
        }
        for body in [
            "",
            "[]",
            "nonsense",
            r#"{"keys":[],"keys":[]}"#,
            "{\"keys\":[]}x",
        ] {
            assert!(
                matches!(read(body.as_bytes()), Err(JwksError::Json(_))),
                "{body}"
            );
        }
    }
}
