//! Makes tokens, right ones and others: keys of three kinds under one key set, and what an attacker can do without them.

use anyhow::{Context, anyhow};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use crate::token::{Issuer, segments, unix_seconds};

/// Names of the keys.
pub(super) const EC: &str = "ec";
pub(super) const RSA: &str = "rsa";
pub(super) const ED: &str = "ed";

/// Order of the group of P-256, big-endian: what s is counted modulo.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The keys of every issuer of the measurement, and a stranger's.
pub(super) struct Forge {
    ec: Issuer,
    stranger: Issuer,
    rsa: RsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Forge {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            ec: Issuer::new("", EC)?,
            stranger: Issuer::new("", EC)?,
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key"))?,
            ed: Ed25519KeyPair::generate().map_err(|_| anyhow!("no Ed25519 key"))?,
        })
    }

    /// The key set: each key for one algorithm.
    pub(super) fn jwks(&self) -> String {
        // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits and the exponent 65537: both stand where they always do.
        let rsa = self.rsa.public_key().as_ref();
        let (n, e) = (&rsa[9..265], &rsa[267..270]);
        json!({"keys": [
            self.ec.jwk(),
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": RSA,
             "n": BASE64URL.encode(n),
             "e": BASE64URL.encode(e)},
            {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": ED,
             "x": BASE64URL.encode(self.ed.public_key())},
        ]})
        .to_string()
    }

    /// The EC key as keys of JWT-SVIDs are published (SPIFFE JWT-SVID §5).
    pub(super) fn svid_jwks(&self) -> String {
        let mut key = self.ec.jwk();
        key["use"] = "jwt-svid".into();
        json!({ "keys": [key] }).to_string()
    }

    /// `{"alg": "ES256", "typ": "JWT", "kid": "ec"}`.
    pub(super) fn header(&self) -> Value {
        self.ec.header()
    }

    /// ES256 over a header and claims.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> anyhow::Result<String> {
        self.sign_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// ES256 over whatever these are.
    pub(super) fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> anyhow::Result<String> {
        self.ec.sign_segments(&segments(header, payload))
    }

    /// ES256 over segments as they are.
    pub(super) fn sign_segments(&self, signed: &str) -> anyhow::Result<String> {
        self.ec.sign_segments(signed)
    }

    /// ES256 with a key that nobody published, under the name of one that is.
    pub(super) fn sign_as_stranger(
        &self,
        header: &Value,
        claims: &Value,
    ) -> anyhow::Result<String> {
        let signed = segments(header.to_string().as_bytes(), claims.to_string().as_bytes());
        self.stranger.sign_segments(&signed)
    }

    /// The stranger's public key.
    pub(super) fn strangers_jwk(&self) -> Value {
        self.stranger.jwk()
    }

    /// RS256, or PS256 with `pss`, over a header and claims.
    pub(super) fn sign_rsa(
        &self,
        header: &Value,
        claims: &Value,
        pss: bool,
    ) -> anyhow::Result<String> {
        let signed = segments(header.to_string().as_bytes(), claims.to_string().as_bytes());
        let padding: &'static dyn RsaEncoding = if pss {
            &RSA_PSS_SHA256
        } else {
            &RSA_PKCS1_SHA256
        };
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa
            .sign(
                padding,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|_| anyhow!("RSA does not sign"))?;
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }

    /// EdDSA over a header and claims.
    pub(super) fn sign_ed(&self, header: &Value, claims: &Value) -> String {
        let signed = segments(header.to_string().as_bytes(), claims.to_string().as_bytes());
        let signature = self.ed.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL.encode(signature))
    }

    /// HS256 with a secret that everybody has: the published RSA or EC key, in one of the spellings that verifiers were fooled by.
    pub(super) fn sign_with_public(
        &self,
        header: &Value,
        claims: &Value,
        secret: Secret,
    ) -> anyhow::Result<String> {
        let key = match secret {
            Secret::EcPem => self.ec.public_pem().into_bytes(),
            Secret::EcJwk => self.ec.jwk().to_string().into_bytes(),
            Secret::RsaDer => {
                let der: PublicKeyX509Der<'_> = self
                    .rsa
                    .public_key()
                    .as_der()
                    .map_err(|_| anyhow!("no DER"))?;
                der.as_ref().to_vec()
            }
            Secret::Empty => Vec::new(),
        };
        let signed = segments(header.to_string().as_bytes(), claims.to_string().as_bytes());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        Ok(format!("{signed}.{}", BASE64URL.encode(tag)))
    }

    /// A good token whose signature was changed by `change`.
    pub(super) fn with_signature(
        &self,
        claims: &Value,
        change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> anyhow::Result<String> {
        let signed = segments(
            self.header().to_string().as_bytes(),
            claims.to_string().as_bytes(),
        );
        let signature = change(self.ec.signature(&signed)?);
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }
}

/// What HMAC is keyed with.
#[derive(Clone, Copy)]
pub(super) enum Secret {
    EcPem,
    EcJwk,
    RsaDer,
    Empty,
}

/// r and s as ASN.1 has them, which is not how JOSE has them.
pub(super) fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes
            .iter()
            .position(|b| *b != 0)
            .unwrap_or(bytes.len() - 1);
        let mut value = bytes[start..].to_vec();
        if value[0] & 0x80 != 0 {
            value.insert(0, 0);
        }
        [&[2, value.len() as u8], &value[..]].concat()
    };
    let body = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [&[0x30, body.len() as u8], &body[..]].concat()
}

/// The other s of the same signature, n - s: as valid under ECDSA, which demands no low s in JOSE.
pub(super) fn other_s(mut signature: Vec<u8>) -> Vec<u8> {
    let mut borrow = 0_i16;
    for i in (0..32).rev() {
        let difference = i16::from(ORDER[i]) - i16::from(signature[32 + i]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + i] = difference.rem_euclid(256) as u8;
    }
    signature
}

/// s + n would be the same number to a careless verifier; what is sent is r and n itself.
pub(super) fn s_of_order(mut signature: Vec<u8>) -> Vec<u8> {
    signature[32..].copy_from_slice(&ORDER);
    signature
}

/// Claims of a good token of an issuer.
pub(super) fn claims(issuer: &str) -> anyhow::Result<Value> {
    Ok(json!({
        "iss": format!("https://{issuer}.test"), "sub": "alice", "aud": "shop",
        "exp": unix_seconds(600)?, "iat": unix_seconds(-5)?, "jti": "canary-8c1d4f",
        "note": "canary-claim-that-nobody-prints",
    }))
}

/// The last character of a segment replaced by one that differs in bits that say nothing.
pub(super) fn with_loose_bits(segment: &str) -> anyhow::Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = segment.bytes().last().context("an empty segment")?;
    let at = ALPHABET
        .iter()
        .position(|b| *b == last)
        .context("no base64url")?;
    let mut text = segment[..segment.len() - 1].to_owned();
    text.push(char::from(ALPHABET[at | 1]));
    anyhow::ensure!(
        at & 1 == 0 && !segment.len().is_multiple_of(4),
        "no loose bits there"
    );
    Ok(text)
}
