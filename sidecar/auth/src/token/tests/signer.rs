//! A key for each algorithm, and what is signed with it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::token::Algorithm;

/// A key that signs, for one algorithm.
pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Curve(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let rsa = |encoding| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding);
        let curve = |with| Key::Curve(EcdsaKeyPair::generate(with).unwrap());
        let key = match algorithm {
            Rs256 => rsa(&signature::RSA_PKCS1_SHA256 as &dyn RsaEncoding),
            Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Es256 => curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Es384 => curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Es512 => curve(&ECDSA_P521_SHA512_FIXED_SIGNING),
            EdDsa => Key::Ed(Ed25519KeyPair::generate().unwrap()),
        };
        Self { algorithm, key }
    }

    /// The bytes of the public key: a point, or a PKCS#1 structure.
    pub(super) fn public(&self) -> &[u8] {
        match &self.key {
            Key::Rsa(key, _) => key.public_key().as_ref(),
            Key::Curve(key) => key.public_key().as_ref(),
            Key::Ed(key) => key.public_key().as_ref(),
        }
    }

    /// The key as a JWK called `k`.
    pub(super) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let public = self.public();
        let mut jwk = match &self.key {
            // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits and the exponent 65537.
            Key::Rsa(..) => {
                json!({"kty": "RSA", "n": encode(&public[9..265]), "e": encode(&public[267..])})
            }
            Key::Curve(_) => {
                let (x, y) = public[1..].split_at(public.len() / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Key::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(public)}),
        };
        jwk["kid"] = "k".into();
        jwk["alg"] = self.algorithm.name().into();
        jwk
    }

    /// The set of this key alone.
    pub(super) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": "k"})
    }

    pub(super) fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Key::Curve(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of texts that need not be JSON.
    #[allow(clippy::needless_pass_by_value)] // Every caller would have to borrow what it makes for this.
    pub(super) fn sign(&self, header: impl ToString, payload: impl ToString) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(payload.to_string())
        );
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token whose signature was changed.
    pub(super) fn sign_changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let token = self.sign(self.header(), super::claims());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        change(&mut signature);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
