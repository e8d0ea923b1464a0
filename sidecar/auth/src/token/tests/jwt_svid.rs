//! JWT-SVIDs that are verified for somebody else.

use serde_json::{Value, json};

use super::signer::Signer;
use crate::Reason;
use crate::token::{Algorithm, Fingerprint, JwtSvidVerifier};

const NOW: i64 = 1_000_000;
const WEB: &str = "spiffe://td/ns/a/sa/web";

fn set(signer: &Signer) -> String {
    let mut key = signer.jwk();
    key["use"] = "jwt-svid".into();
    json!({ "keys": [key] }).to_string()
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({"sub": WEB, "aud": ["orders", "payments"], "exp": NOW + 300});
    change(&mut claims);
    claims
}

#[test]
fn a_jwt_svid_is_verified_with_the_keys_of_its_subject_and_for_the_audience_that_is_asked_for() {
    let (own, other) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let ed = Signer::new(Algorithm::EdDsa);
    let sets = [("td", set(&own)), ("other", set(&other)), ("ed", set(&ed))];
    let broken = [("none", r#"{"keys":[]}"#), ("broken", "{")];
    let sets = sets.iter().map(|(domain, set)| (*domain, set.as_str()));
    let verifier = JwtSvidVerifier::new(sets.chain(broken));
    let ask = |token: &str, audience: &str| {
        let verified = verifier.verify(token, audience, NOW, Fingerprint::new([0; 8]));
        verified.map(|verified| verified.id.to_string())
    };
    let good = own.sign(own.header(), claims(|_| {}));
    assert_eq!(ask(&good, "orders").as_deref(), Ok(WEB));
    assert_eq!(ask(&good, "payments").as_deref(), Ok(WEB));
    assert_eq!(ask(&good, "order"), Err(Reason::TokenWrongAudience));
    let said = |change: &dyn Fn(&mut Value)| own.sign(own.header(), claims(change));
    let of = |domain: &str| said(&|c| c["sub"] = format!("spiffe://{domain}/web").into());
    let headed = |name: &str, value: &str| {
        let mut header = own.header();
        header[name] = value.into();
        own.sign(header, claims(|_| {}))
    };
    let by_ed = |c: &mut Value| c["sub"] = "spiffe://ed/web".into();
    for (case, token, expected) in [
        (
            "another domain's key",
            of("other"),
            Reason::TokenBadSignature,
        ),
        ("a domain without keys", of("none"), Reason::TokenUnknownKey),
        (
            "a domain of a broken set",
            of("broken"),
            Reason::KeysUnavailable,
        ),
        ("an unknown domain", of("stranger"), Reason::KeysUnavailable),
        (
            "no SPIFFE ID",
            said(&|c| c["sub"] = "web".into()),
            Reason::TokenClaim,
        ),
        (
            "no audience",
            said(&|c| c["aud"] = json!([])),
            Reason::TokenWrongAudience,
        ),
        (
            "no expiry",
            said(&|c| c["exp"] = Value::Null),
            Reason::TokenClaim,
        ),
        (
            "expired",
            said(&|c| c["exp"] = (NOW - 61).into()),
            Reason::TokenExpired,
        ),
        (
            "a header too many",
            headed("x", "y"),
            Reason::TokenMalformed,
        ),
        (
            "another type",
            headed("typ", "at+jwt"),
            Reason::TokenWrongType,
        ),
        (
            "an unknown key",
            headed("kid", "l"),
            Reason::TokenUnknownKey,
        ),
        (
            "an algorithm that SPIFFE does not have",
            ed.sign(ed.header(), claims(by_ed)),
            Reason::TokenAlgorithm,
        ),
        ("too long", "a".repeat(9_000), Reason::TokenTooLarge),
        ("no token", "a.b".to_owned(), Reason::TokenMalformed),
    ] {
        assert_eq!(ask(&token, "orders"), Err(expected), "{case}");
    }
}
