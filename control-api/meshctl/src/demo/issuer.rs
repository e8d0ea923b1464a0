//! The demo's own issuer of tokens: a key made at its start, the document that tells the mesh of it, and the tokens that
//! the checks present, good ones and others.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{NAMESPACE, documents};
use crate::failure::Failure;
use crate::moment;

/// `iss` of its tokens.
pub(super) const ISSUER: &str = "https://issuer.demo.postern.internal";
/// Whom its tokens speak of.
pub(super) const SUBJECT: &str = "alice";
/// The one audience that `orders` accepts.
pub(super) const AUDIENCE: &str = "orders";
/// The paths of `orders` that need a token; everything else goes without.
pub(super) const GUARDED: &str = "/account";
/// The header in which `orders` is told the subject.
pub(super) const SUBJECT_HEADER: &str = "x-subject";
const KEY_ID: &str = "demo-key";

/// An issuer with one key.
pub(super) struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    /// Makes a key.
    pub(super) fn new() -> Result<Self, Failure> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|error| Failure::problem("no key for the demo's tokens").why(error))?;
        Ok(Self { key })
    }

    /// The key set that everybody may have (RFC 7517).
    fn jwks(&self) -> Value {
        // An uncompressed point: 4, then the coordinates.
        let (x, y) = self.public()[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    fn public(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// What an operator would apply so that `orders` demands tokens of this issuer on its guarded paths, from the workload
    /// that they were issued to.
    pub(super) fn document(&self) -> String {
        let anybody = documents::spiffe_id("{value}");
        format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: orders-tokens, namespace: {NAMESPACE}}}\n\
             spec:\n  selector: {{matchLabels: {{app: orders}}}}\n  jwtRules:\n  - issuer: {ISSUER}\n    audiences: [{AUDIENCE}]\n    jwks: '{jwks}'\n    \
             binding: {{rules: [{{claim: client_id, principal: \"{anybody}\"}}]}}\n    \
             outputClaimToHeaders: [{{header: {SUBJECT_HEADER}, claim: sub}}]\n    \
             routes: [{{paths: [\"{GUARDED}*\"], required: true}}]\n",
            jwks = self.jwks(),
        )
    }

    /// Signs a token as it should be.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, String> {
        let signed = segments(
            &json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID}),
            claims,
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|error| format!("no signature: {error}"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// A forgery that anybody can make: the public key taken as the secret of an HMAC.
    pub(super) fn forge_hmac(&self, claims: &Value) -> String {
        let signed = segments(
            &json!({"alg": "HS256", "typ": "JWT", "kid": KEY_ID}),
            claims,
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.public());
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

/// A forgery that anybody can make: no signature, and the header says that there is none.
pub(super) fn forge_unsigned(claims: &Value) -> String {
    format!("{}.", segments(&json!({"alg": "none"}), claims))
}

/// What a good token says that `client` got.
pub(super) fn claims(client: &str, id: &str) -> Value {
    let now = moment::unix_now();
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": AUDIENCE, "client_id": client, "jti": id,
        "iat": now, "exp": now + 600,
    })
}

fn segments(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}
