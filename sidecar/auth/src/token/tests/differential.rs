//! Beside jsonwebtoken, a well-kept library: what we accept it accepts, and where we are stricter is listed.
//!
//! It has its own reading of the compact form, the header, the claims and the times; for signatures it is given
//! aws-lc-rs, which the vectors are about.

use std::collections::BTreeSet;
use std::sync::Once;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};

use super::{ISSUER, Signer, policy, rule, verdict_with};
use crate::Reason;
use crate::token::{Algorithm, HeaderMemo, TokenPolicy};

struct Es256(Vec<u8>);

impl Verifier<Vec<u8>> for Es256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0)
            .verify(message, signature)
            .map_err(|_| Error::new())
    }
}

impl JwtVerifier for Es256 {
    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        jsonwebtoken::Algorithm::ES256
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| match algorithm {
        jsonwebtoken::Algorithm::ES256 => Ok(Box::new(Es256(key.try_get_as_bytes()?.to_vec()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct Both {
    signer: Signer,
    policy: TokenPolicy,
    key: DecodingKey,
    validation: Validation,
    memo: HeaderMemo,
    now: i64,
}

impl Both {
    fn new() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| PROVIDER.install_default().unwrap());
        let signer = Signer::new(Algorithm::Es256);
        let jwk = signer.jwk();
        let coordinate = |name: &str| jwk[name].as_str().unwrap().to_owned();
        let key = DecodingKey::from_ec_components(&coordinate("x"), &coordinate("y")).unwrap();
        let mut validation = Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.set_audience(&["shop"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        Self {
            policy: policy(rule(signer.jwks())),
            signer,
            key,
            validation,
            memo: HeaderMemo::default(),
            now: i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap(),
        }
    }

    /// Ours and theirs.
    fn ask(&mut self, token: &str) -> (Result<(), Reason>, bool) {
        let ours = verdict_with(&self.policy, token.as_bytes(), self.now, &mut self.memo);
        let theirs = jsonwebtoken::decode::<Value>(token, &self.key, &self.validation);
        (ours, theirs.is_ok())
    }

    fn claims(&self) -> Value {
        json!({"iss": ISSUER, "sub": "a", "aud": "shop", "exp": self.now + 600, "iat": self.now - 5})
    }
}

/// A small generator, so that a failing case can be made again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// Reasons for which we refuse what the other library accepts. Each is a rule of its own: strict JSON, `crit` and `b64`
/// (`token_malformed`), types of claims (`token_claim`), `typ` by profile, `iat` in the future. And it is handed the key,
/// whatever `kid` says.
const STRICTER: [Reason; 5] = [
    Reason::TokenUnknownKey,
    Reason::TokenMalformed,
    Reason::TokenClaim,
    Reason::TokenWrongType,
    Reason::TokenNotYetValid,
];

#[test]
fn what_we_accept_the_other_library_accepts_and_where_we_are_stricter_is_listed() {
    let mut both = Both::new();
    let mut random = Random(7);
    let now = both.now;
    let texts = |values: &[&str]| values.iter().map(|v| json!(v)).collect::<Vec<_>>();
    let mut values = texts(&["", "shop", "shops", ISSUER, "https://idp.test/", "0", "a b"]);
    values.extend([
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(0.5),
    ]);
    values.extend([
        json!([]),
        json!(["shop"]),
        json!(["x", "shop"]),
        json!(["shop", 1]),
        json!({}),
    ]);
    // Not at the border: the other library reads the clock itself.
    for offset in [-100_000, -1_000, -30, 30, 1_000, 100_000] {
        values.extend([json!(now + offset), json!((now + offset) as f64 + 0.25)]);
    }
    let names = [
        "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "cnf", "x",
    ];
    let headers = ["typ", "kid", "crit", "b64", "cty", "jku", "x"];
    let (mut accepted, mut stricter) = (0_u32, BTreeSet::new());
    for round in 0..4_000 {
        let mut claims = both.claims();
        for _ in 0..random.below(4) {
            let name = random.pick(&names);
            if random.below(4) == 0 {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = random.pick(&values);
            }
        }
        let mut header = both.signer.header();
        if random.below(4) == 0 {
            let more = texts(&["JWT", "at+jwt", "k", "evil"]);
            header[random.pick(&headers)] = random.pick(&more);
        }
        let mut text = claims.to_string();
        match random.below(12) {
            0 => text.insert(random.below(text.len()), ' '),
            1 => text = text.replacen(':', ":\t", 1),
            2 => text.truncate(random.below(text.len())),
            3 => text = format!("{},\"sub\":\"b\"}}", text.trim_end_matches('}')),
            4 => text = text.replace("\"sub\"", "\"s\\u0075b\""),
            5 => text.push(' '),
            _ => {}
        }
        let mut token = both.signer.sign(&header, text);
        match random.below(12) {
            0 => token.push('='),
            1 => drop(token.remove(random.below(token.len()))),
            2 => token.insert(
                random.below(token.len()),
                random.pick(&['A', '.', '-', ' ']),
            ),
            _ => {}
        }
        let (ours, theirs) = both.ask(&token);
        match ours {
            Ok(()) => {
                accepted += 1;
                assert!(theirs, "round {round}: only we accept {header} {claims}");
            }
            Err(reason) if theirs => {
                assert!(
                    STRICTER.contains(&reason),
                    "round {round}: {reason} for {header} {claims}"
                );
                stricter.insert(reason);
            }
            Err(_) => {}
        }
    }
    assert!(accepted > 300, "{accepted} of the cases were good");
    assert_eq!(
        stricter,
        STRICTER.into_iter().collect(),
        "each of the list occurs"
    );
}

#[test]
fn what_the_other_library_overlooks_is_refused_here() {
    let mut both = Both::new();
    let claims = both.claims();
    let header = both.signer.header();
    let with = |of: &Value, name: &str, value: Value| {
        let mut changed = of.clone();
        changed[name] = value;
        changed.to_string()
    };
    let twice = format!(
        "{},\"role\":1,\"role\":2}}",
        claims.to_string().trim_end_matches('}')
    );
    let good = claims.to_string();
    let cases = [
        (
            with(&header, "crit", json!(["x"])),
            good.clone(),
            Reason::TokenMalformed,
        ),
        (
            with(&header, "b64", json!(false)),
            good.clone(),
            Reason::TokenMalformed,
        ),
        (
            with(&header, "typ", json!("logout+jwt")),
            good.clone(),
            Reason::TokenWrongType,
        ),
        (header.to_string(), twice, Reason::TokenMalformed),
        (
            header.to_string(),
            with(&claims, "iat", json!(both.now + 3_600)),
            Reason::TokenNotYetValid,
        ),
        (
            header.to_string(),
            with(&claims, "jti", json!(1)),
            Reason::TokenClaim,
        ),
    ];
    for (header, payload, reason) in cases {
        let token = both.signer.sign(&header, &payload);
        assert_eq!(both.ask(&token), (Err(reason), true), "{header} {payload}");
    }
}
