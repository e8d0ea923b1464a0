//! Keys that nothing may be verified with: left out, with the reason, and the others stay.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Signer, claims, policy, rule, verdict};
use crate::token::Algorithm;
use crate::token::keys::{KeyUse, Keys};

fn changed(jwk: &Value, member: &str, value: impl Into<Value>) -> Value {
    let mut jwk = jwk.clone();
    jwk[member] = value.into();
    jwk
}

fn number(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_bad_key_is_left_out_and_the_good_one_beside_it_stays() {
    let good = Signer::new(Algorithm::Es256);
    let ec = good.jwk();
    let rsa = Signer::new(Algorithm::Rs256).jwk();
    let ed = Signer::new(Algorithm::EdDsa).jwk();
    let p384 = Signer::new(Algorithm::Es384).jwk();
    let modulus = |bytes: usize, last: u8| {
        let mut n = vec![0xc5; bytes];
        n[bytes - 1] = last;
        number(&n)
    };
    let point = |first: u8| {
        let mut x = [0; 32];
        x[0] = first;
        number(&x)
    };
    let cases: Vec<(Value, &str)> = vec![
        (json!("key"), "not an object"),
        (json!(null), "not an object"),
        (json!({}), "'kty' not supported"),
        (json!({"kty": "oct", "k": "AAAA"}), "a shared secret"),
        (changed(&ec, "d", "AA"), "a private key"),
        (changed(&rsa, "d", "AA"), "a private key"),
        (changed(&ec, "kid", 1), "'kid' is not a string"),
        (
            changed(&ec, "use", "enc"),
            "'use' is not for signatures of these tokens",
        ),
        (
            changed(&ec, "use", "jwt-svid"),
            "'use' is not for signatures of these tokens",
        ),
        (changed(&ec, "use", 1), "'use' is not a string"),
        (
            changed(&ec, "key_ops", json!(["sign"])),
            "'key_ops' does not have 'verify'",
        ),
        (
            changed(&ec, "key_ops", "verify"),
            "'key_ops' is not an array",
        ),
        (changed(&ec, "alg", "HS256"), "'alg' not supported"),
        (changed(&ec, "alg", "none"), "'alg' not supported"),
        (changed(&ec, "alg", "ES384"), "'alg' does not fit the key"),
        (changed(&rsa, "alg", "ES256"), "'alg' does not fit the key"),
        (changed(&ec, "crv", "secp256k1"), "curve not supported"),
        (changed(&ec, "crv", "P-384"), "'alg' does not fit the key"),
        (changed(&p384, "crv", "P-256"), "'alg' does not fit the key"),
        (changed(&ed, "crv", "X25519"), "curve not supported"),
        (changed(&ed, "crv", "Ed448"), "curve not supported"),
        (changed(&ec, "x", point(0)), "no point of the curve"),
        (changed(&ec, "y", point(9)), "no point of the curve"),
        (
            changed(&ec, "x", number(&[1; 31])),
            "'x' has the wrong length",
        ),
        (
            changed(&ec, "y", number(&[1; 33])),
            "'y' has the wrong length",
        ),
        (
            changed(&ec, "x", "not base64url!"),
            "'x' has the wrong length",
        ),
        (changed(&ed, "x", point(0)), "a point of small order"),
        (changed(&ed, "x", point(1)), "a point of small order"),
        (
            changed(&ed, "x", number(&[1; 31])),
            "'x' has the wrong length",
        ),
        (
            changed(&rsa, "n", modulus(128, 1)),
            "the modulus has fewer than 2048 or more than 8192 bits",
        ),
        (
            changed(&rsa, "n", modulus(1_025, 1)),
            "the modulus has fewer than 2048 or more than 8192 bits",
        ),
        (changed(&rsa, "n", modulus(256, 2)), "the modulus is even"),
        (
            changed(&rsa, "n", ""),
            "the modulus has fewer than 2048 or more than 8192 bits",
        ),
        (changed(&rsa, "e", number(&[1])), "'e' is even or 1"),
        (changed(&rsa, "e", number(&[4])), "'e' is even or 1"),
        (changed(&rsa, "e", ""), "'e' is even or 1"),
        (changed(&rsa, "e", json!(65537)), "'e' is no number"),
    ];
    for (bad, why) in cases {
        let set = json!({ "keys": [bad, ec] }).to_string();
        let keys = Keys::parse(set.as_bytes(), &[], KeyUse::Signature).unwrap();
        let told: Vec<_> = keys.ignored().iter().map(|i| (i.index, i.why)).collect();
        let lengths = ["'x' has the wrong length", "'y' has the wrong length"];
        let [(0, said)] = told[..] else {
            panic!("{bad}: {told:?}");
        };
        assert!(
            said == why || lengths.contains(&said) && lengths.contains(&why),
            "{bad}: {said}"
        );
        assert_eq!(keys.len(), 1, "{bad}");
        let token = good.sign(good.header(), claims());
        assert_eq!(verdict(&policy(rule(set)), token), Ok(()), "{bad}");
    }
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    for set in [
        "",
        "{}",
        "[]",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[]}x"#,
    ] {
        assert!(
            Keys::parse(set.as_bytes(), &[], KeyUse::Signature).is_err(),
            "{set}"
        );
    }
    let many: Vec<_> = (0..200).map(|_| json!({"kty": "oct"})).collect();
    let set = json!({ "keys": many }).to_string();
    let keys = Keys::parse(set.as_bytes(), &[], KeyUse::Signature).unwrap();
    assert!(
        keys.is_empty() && keys.ignored().len() == 128,
        "reasons are bounded"
    );
    let long = format!("{{\"keys\":[\"{}\"]}}", "x".repeat(1024 * 1024));
    assert!(Keys::parse(long.as_bytes(), &[], KeyUse::Signature).is_err());
}
