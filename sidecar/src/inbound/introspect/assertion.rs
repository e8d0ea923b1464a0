//! Client assertions: how a client proves with a key of its own who it is (RFC 7523 §2.2, `private_key_jwt`). Pure, but for
//! the randomness of signatures and identifiers.
//!
//! The audience is the issuer and nothing else: an assertion that named an endpoint could be passed on by whoever has the
//! client ask a wrong one.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_auth::Secret;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// Seconds for which an assertion is good: it is made for one question.
const LIFETIME: i64 = 60;
/// Smallest RSA modulus, bytes.
const MIN_MODULUS: usize = 256;

/// A client's private key.
enum Key {
    /// Signs ES256.
    P256(EcdsaKeyPair),
    /// Signs RS256.
    Rsa(RsaKeyPair),
}

/// Makes one client's assertions for one issuer.
pub(super) struct Assertor {
    key: Key,
    client_id: String,
    audience: String,
    key_id: String,
}

impl Assertor {
    /// Reads the key in `pem`, with which `client_id` proves itself to the issuer `audience`, which calls it `key_id` or,
    /// if that is empty, finds out which it is.
    ///
    /// # Errors
    /// What is wrong with the key.
    pub(super) fn new(
        pem: &[u8],
        client_id: &str,
        audience: &str,
        key_id: &str,
    ) -> Result<Self, &'static str> {
        Ok(Self {
            key: Key::read(pem)?,
            client_id: client_id.to_owned(),
            audience: audience.to_owned(),
            key_id: key_id.to_owned(),
        })
    }

    /// Whether a signature takes long enough (about a millisecond) to be made on another thread than a worker's.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.key, Key::Rsa(_))
    }

    /// A new assertion; `now` in Unix seconds.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn assert(&self, now: i64) -> Result<Secret<String>, &'static str> {
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| "there is no randomness for an assertion")?;
        let mut header = json!({"alg": self.key.algorithm(), "typ": "JWT"});
        if !self.key_id.is_empty() {
            header["kid"] = self.key_id.as_str().into();
        }
        let payload = json!({
            "iss": self.client_id, "sub": self.client_id, "aud": self.audience,
            "jti": URL_SAFE_NO_PAD.encode(id), "iat": now, "exp": now.saturating_add(LIFETIME),
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&payload));
        let signature = self.key.sign(signed.as_bytes());
        let signature = signature.map_err(|_| "the client's key cannot sign")?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(Secret::new(format!("{signed}.{signature}")))
    }
}

impl Key {
    fn read(pem: &[u8]) -> Result<Self, &'static str> {
        let Ok(PrivateKeyDer::Pkcs8(key)) = PrivateKeyDer::from_pem_slice(pem) else {
            return Err("is no private key as PKCS #8 PEM (BEGIN PRIVATE KEY)");
        };
        let der = key.secret_pkcs8_der();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self::P256(key));
        }
        match RsaKeyPair::from_pkcs8(der) {
            Ok(key) if key.public_modulus_len() >= MIN_MODULUS => Ok(Self::Rsa(key)),
            _ => Err("is neither a P-256 key nor an RSA key of at least 2048 bits"),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match self {
            Self::P256(key) => Ok(key.sign(&random, message)?.as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    };

    fn pem(der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    fn ecdsa(algorithm: &'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::generate(algorithm).expect("a key")
    }

    #[test]
    fn an_assertion_names_client_and_issuer_is_short_lived_and_never_the_same() {
        let p256 = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let ecdsa: &dyn VerificationAlgorithm = &ECDSA_P256_SHA256_FIXED;
        let cases = [
            (
                p256.to_pkcs8v1().expect("DER").as_ref().to_vec(),
                p256.public_key().as_ref(),
                ecdsa,
                "ES256",
            ),
            (
                rsa.as_der().expect("DER").as_ref().to_vec(),
                rsa.public_key().as_ref(),
                &RSA_PKCS1_2048_8192_SHA256,
                "RS256",
            ),
        ];
        for (der, public, algorithm, name) in cases {
            let text = pem(&der);
            let assertor = Assertor::new(text.as_bytes(), "orders", "https://idp", "k1");
            let assertor = assertor.expect("a key");
            let make = || assertor.assert(1000).expect("made").expose().clone();
            let (assertion, other) = (make(), make());
            assert_ne!(
                assertion, other,
                "{name}: each has an identifier of its own"
            );
            let (signed, signature) = assertion.rsplit_once('.').expect("a signature");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            UnparsedPublicKey::new(algorithm, public)
                .verify(signed.as_bytes(), &signature)
                .expect(name);
            let part = |text: &str| -> Value {
                let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
                serde_json::from_slice(&bytes).expect("JSON")
            };
            let (header, payload) = signed.split_once('.').expect("two parts");
            assert_eq!(
                part(header),
                json!({"alg": name, "typ": "JWT", "kid": "k1"})
            );
            let payload = part(payload);
            for (claim, value) in [
                ("iss", json!("orders")),
                ("sub", json!("orders")),
                ("aud", json!("https://idp")),
                ("iat", json!(1000)),
                ("exp", json!(1060)),
            ] {
                assert_eq!(payload[claim], value, "{name}: {claim}");
            }
            assert_eq!(payload["jti"].as_str().map(str::len), Some(22));
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused() {
        let p384 = ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING);
        let other = pem(p384.to_pkcs8v1().expect("DER").as_ref());
        for (text, problem) in [
            ("", "PKCS #8"),
            ("s3cret", "PKCS #8"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
                "PKCS #8",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "P-256",
            ),
            (other.as_str(), "P-256"),
        ] {
            let refused = Assertor::new(text.as_bytes(), "orders", "https://idp", "").err();
            assert!(refused.is_some_and(|e| e.contains(problem)), "{text}");
        }
    }
}
