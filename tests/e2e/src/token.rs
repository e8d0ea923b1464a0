//! An issuer of tokens, good ones and others.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Its name.
pub const ISSUER: &str = "https://idp.test";

/// One key of an issuer.
pub struct Issuer {
    key: EcdsaKeyPair,
    kid: String,
}

impl Issuer {
    /// An issuer whose key is called `kid`.
    #[must_use]
    pub fn new(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self {
            key,
            kid: kid.to_owned(),
        }
    }

    /// Its key set.
    #[must_use]
    pub fn jwks(&self) -> String {
        let point = self.key.public_key().as_ref();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": encode(&point[1..33]), "y": encode(&point[33..65]),
        }]})
        .to_string()
    }

    /// The public key as an attacker has it: the bytes of the point.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// A header that names the key.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.kid})
    }

    /// Signs `claims` under `header`.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// Signs texts that need not be JSON.
    #[must_use]
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = segments(header, claims);
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.expect("it signs"))
        )
    }
}

/// Header and payload, encoded.
#[must_use]
pub fn segments(header: &str, claims: &str) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    )
}

/// A token "signed" with HMAC under a key that everybody has.
#[must_use]
pub fn hmac_signed(header: &Value, claims: &Value, key: &[u8]) -> String {
    let signed = segments(&header.to_string(), &claims.to_string());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The thumbprint (RFC 8705 §3.1) of a certificate whose SHA-256 digest is told in hexadecimal.
#[must_use]
pub fn thumbprint(hex: &str) -> String {
    let each = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16));
    let digest: Result<Vec<u8>, _> = each.collect();
    URL_SAFE_NO_PAD.encode(digest.expect("hexadecimal"))
}

/// A document that has `orders` judge tokens by `rule`, an entry of `jwtRules`.
#[must_use]
pub fn orders_tokens(rule: &Value) -> String {
    json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "orders-tokens", "namespace": "demo"},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "jwtRules": [rule]},
    })
    .to_string()
}

/// The line of a request that presents `token`.
#[must_use]
pub fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Unix seconds from now.
#[must_use]
pub fn in_seconds(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_secs()).expect("fits") + seconds
}

/// Claims of a good token.
#[must_use]
pub fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "orders", "exp": in_seconds(600),
        "iat": in_seconds(-5), "scope": "orders.read", "jti": "canary-jti-5f2e",
    })
}
