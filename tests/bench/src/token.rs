//! An issuer of signed tokens: ES256 keys, key sets, JWTs; and texts signed that are no JWTs.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) key_id: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    /// A new ES256 key for the issuer `name`.
    pub(crate) fn new(name: &str, key_id: &str) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow!("no ES256 key can be made"))?;
        Ok(Self {
            name: name.to_owned(),
            key_id: key_id.to_owned(),
            key,
        })
    }

    /// The public key as a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.key_id,
            "x": BASE64URL.encode(&point[1..33]), "y": BASE64URL.encode(&point[33..65]),
        })
    }

    /// The public key as an uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// The public key as PEM (SubjectPublicKeyInfo, RFC 5480).
    pub(crate) fn public_pem(&self) -> String {
        const PREFIX: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let mut der = PREFIX.to_vec();
        der.extend_from_slice(self.key.public_key().as_ref());
        let text = BASE64.encode(der);
        let (first, second) = text.split_at(64);
        format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
    }

    /// The key set of this issuer alone.
    pub(crate) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// A token with these claims, to which `iss`, `iat` and an `exp` in an hour are added where they are missing.
    pub(crate) fn sign(&self, mut claims: Value) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let members = claims
            .as_object_mut()
            .ok_or_else(|| anyhow!("claims are an object"))?;
        for (name, value) in [
            ("iss", json!(self.name)),
            ("iat", json!(now)),
            ("exp", json!(now + 3_600)),
        ] {
            members.entry(name).or_insert(value);
        }
        let header = self.header().to_string();
        self.sign_segments(&segments(header.as_bytes(), claims.to_string().as_bytes()))
    }

    /// A header that names the key.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.key_id})
    }

    /// Signs what stands before the second dot, whatever it is.
    pub(crate) fn sign_segments(&self, signed: &str) -> anyhow::Result<String> {
        let signature = self.signature(signed)?;
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }

    /// The signature over `signed`: r and s (RFC 7518 §3.4).
    pub(crate) fn signature(&self, signed: &str) -> anyhow::Result<Vec<u8>> {
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| anyhow!("the token cannot be signed"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Header and payload, encoded.
pub(crate) fn segments(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload))
}

/// Unix seconds, `ahead` from now.
pub(crate) fn unix_seconds(ahead: i64) -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(now)? + ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    #[test]
    fn what_is_signed_verifies_with_the_key_of_the_set() {
        let issuer = Issuer::new("https://idp.test", "k1").unwrap();
        let token = issuer.sign(json!({"sub": "alice", "exp": 7})).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let jwk = issuer.jwk();
        let mut point = vec![4];
        for coordinate in ["x", "y"] {
            point.extend(BASE64URL.decode(jwk[coordinate].as_str().unwrap()).unwrap());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &BASE64URL.decode(signature).unwrap())
            .unwrap();
        let claims = signed.split_once('.').unwrap().1;
        let claims: Value = serde_json::from_slice(&BASE64URL.decode(claims).unwrap()).unwrap();
        assert_eq!(
            (&claims["iss"], &claims["exp"]),
            (&json!("https://idp.test"), &json!(7))
        );
    }
}
