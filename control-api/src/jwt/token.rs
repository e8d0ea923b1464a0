//! What a JWT-SVID says (SPIFFE JWT-SVID §3): header `alg`, `kid`, `typ`; claims `sub`, `aud`, `iat`, `exp` and, where the mesh
//! has an issuer URL, `iss`. Nothing else: what is not in it cannot be misread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_auth::SpiffeId;
use serde_json::json;

use super::keys::Key;
use crate::store::StoreError;

/// Audiences of one token.
const MAX_AUDIENCES: usize = 16;
/// Longest audience, characters.
const MAX_AUDIENCE: usize = 256;

/// What is signed.
#[derive(Debug)]
pub struct Claims<'a> {
    /// The mesh's issuer URL, if it has one.
    pub issuer: Option<&'a str>,
    /// Whose token it is.
    pub subject: &'a SpiffeId,
    /// Who is to accept it.
    pub audiences: &'a [String],
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

/// Signs the claims; compact serialization.
///
/// # Errors
/// The key does not sign.
pub fn sign(key: &Key, claims: &Claims<'_>) -> Result<String, StoreError> {
    let header = json!({"alg": "ES256", "kid": key.kid(), "typ": "JWT"});
    let mut body = json!({
        "sub": claims.subject.as_str(),
        "aud": claims.audiences,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
    });
    if let Some(issuer) = claims.issuer {
        body["iss"] = issuer.into();
    }
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&body));
    let signature = key.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Checks who is to accept a token.
///
/// # Errors
/// What is wrong, with its field.
pub fn check_audiences(audiences: &[String]) -> Result<(), String> {
    if !(1..=MAX_AUDIENCES).contains(&audiences.len()) {
        return Err(format!(
            "audiences: {} of them; a JWT-SVID needs 1 to {MAX_AUDIENCES}",
            audiences.len()
        ));
    }
    for (i, audience) in audiences.iter().enumerate() {
        let length = audience.chars().count();
        if length == 0 || length > MAX_AUDIENCE || audience.chars().any(char::is_control) {
            return Err(format!(
                "audiences[{i}]: must be 1 to {MAX_AUDIENCE} characters, none of them a control character"
            ));
        }
        if audiences[..i].contains(audience) {
            return Err(format!("audiences[{i}]: given twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::jwt::JwtKeys;
    use crate::store::Store;

    fn decode(part: &str) -> serde_json::Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_token_holds_what_the_specification_asks_for_and_verifies_with_the_published_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), "td").unwrap());
        let keys = JwtKeys::open(store, Duration::from_secs(86_400), 1_000).unwrap();
        let id = SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap();
        let token = sign(
            &keys.signer(1_000).unwrap(),
            &Claims {
                issuer: None,
                subject: &id,
                audiences: &["spiffe://td/x".into(), "y".into()],
                issued_at: 1_000,
                expires_at: 1_300,
            },
        )
        .unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let set: serde_json::Value = serde_json::from_str(&keys.authorities()).unwrap();
        let jwk = &set["keys"][0];
        assert_eq!(
            decode(parts[0]),
            json!({"alg": "ES256", "kid": jwk["kid"], "typ": "JWT"})
        );
        assert_eq!(
            decode(parts[1]),
            json!({"sub": "spiffe://td/ns/a/sa/b", "aud": ["spiffe://td/x", "y"], "iat": 1_000, "exp": 1_300})
        );
        let mut point = vec![4];
        for member in ["x", "y"] {
            point.extend(
                URL_SAFE_NO_PAD
                    .decode(jwk[member].as_str().unwrap())
                    .unwrap(),
            );
        }
        let signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        let message = token.rsplit_once('.').unwrap().0;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &signature)
            .unwrap();
    }

    #[test]
    fn audiences_are_named_when_they_are_wrong() {
        let many: Vec<String> = (0..17).map(|i| i.to_string()).collect();
        for (audiences, problem) in [
            (vec!["a".to_owned()], None),
            (many[..16].to_vec(), None),
            (vec!["ü".repeat(256)], None),
            (vec![], Some("0 of them")),
            (many, Some("17 of them")),
            (vec!["a".into(), String::new()], Some("audiences[1]")),
            (vec!["a\n".into()], Some("control")),
            (vec!["a".repeat(257)], Some("256")),
            (
                vec!["a".into(), "b".into(), "a".into()],
                Some("audiences[2]: given twice"),
            ),
        ] {
            match (check_audiences(&audiences), problem) {
                (Ok(()), None) => {}
                (Err(error), Some(problem)) => assert!(error.contains(problem), "{error}"),
                (result, _) => panic!("{audiences:?}: {result:?}"),
            }
        }
    }
}
