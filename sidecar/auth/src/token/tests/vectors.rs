//! Signatures that are wrong in the ways that verifiers were found to accept, for every algorithm.

use super::{Signer, claims, policy, rule, verdict};
use crate::Reason;
use crate::token::Algorithm;

/// Orders of the groups, big-endian; of Ed25519 little-endian, as it counts.
fn order(algorithm: Algorithm) -> Option<Vec<u8>> {
    let hex = match algorithm {
        Algorithm::Es256 => "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        Algorithm::Es384 => {
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973"
        }
        Algorithm::Es512 => {
            "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409"
        }
        Algorithm::EdDsa => "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010",
        _ => return None,
    };
    let digits = (0..hex.len()).step_by(2);
    Some(
        digits
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect(),
    )
}

/// `s` plus the order, which is the same number to who does not look.
fn add_order(s: &mut [u8], order: &[u8], little_endian: bool) -> bool {
    let mut carry = 0_u16;
    for i in 0..s.len() {
        let at = if little_endian { i } else { s.len() - 1 - i };
        let sum = u16::from(s[at]) + u16::from(order[at]) + carry;
        s[at] = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    carry == 0
}

#[test]
fn each_algorithm_verifies_its_own_signature_and_no_other_spelling_of_it() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let policy = policy(rule(signer.jwks()));
        let name = algorithm.name();
        let good = signer.sign(signer.header(), claims());
        assert_eq!(verdict(&policy, &good), Ok(()), "{name}");
        let bad = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let token = signer.sign_changed(|signature| change(signature));
            assert_eq!(
                verdict(&policy, token),
                Err(Reason::TokenBadSignature),
                "{name}: {what}"
            );
        };
        bad("empty", &|s| s.clear());
        bad("a byte less", &|s| s.truncate(s.len() - 1));
        bad("a byte more", &|s| s.push(0));
        bad("a zero before it", &|s| s.insert(0, 0));
        bad("half of it", &|s| s.truncate(s.len() / 2));
        bad("twice", &|s| s.extend_from_within(..));
        bad("zeros", &|s| s.fill(0));
        bad("ones", &|s| s.fill(0xff));
        bad("a one", &|s| {
            s.fill(0);
            *s.last_mut().unwrap() = 1;
        });
        let length = signer.signature(b"").len();
        for at in (0..length).step_by(7).chain([length - 1]) {
            bad("a bit", &|s| s[at] ^= 0x10);
        }
        let Some(order) = order(algorithm) else {
            continue;
        };
        let half = order.len();
        assert_eq!(length, 2 * half, "{name}");
        bad("r is 0", &|s| s[..half].fill(0));
        bad("s is 0", &|s| s[half..].fill(0));
        bad("r is the order", &|s| s[..half].copy_from_slice(&order));
        bad("s is the order", &|s| s[half..].copy_from_slice(&order));
        bad("r and s are the order", &|s| {
            s[..half].copy_from_slice(&order);
            s[half..].copy_from_slice(&order);
        });
        bad("r and s are 1", &|s| {
            s.fill(0);
            s[half - 1] = 1;
            s[2 * half - 1] = 1;
        });
        bad("r and s changed places", &|s| s.rotate_left(half));
        let little_endian = algorithm == Algorithm::EdDsa;
        bad("s plus the order", &|s| {
            if !add_order(&mut s[half..], &order, little_endian) {
                // It does not fit, and so cannot be said.
                s[half..].fill(0xff);
            }
        });
        bad("in ASN.1", &|s| {
            let mut der = vec![0x30, 0x80, 2, 0x20];
            der.append(s);
            *s = der;
        });
    }
}

#[test]
fn a_key_is_for_one_algorithm_whatever_the_token_says() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let policy = policy(rule(signer.jwks()));
        for other in Algorithm::ALL.into_iter().filter(|a| *a != algorithm) {
            let mut header = signer.header();
            header["alg"] = other.name().into();
            let token = signer.sign(&header, claims());
            let case = format!("{} as {}", algorithm.name(), other.name());
            assert_eq!(
                verdict(&policy, token),
                Err(Reason::TokenAlgorithm),
                "{case}"
            );
        }
        let mut nameless = signer.jwk();
        nameless.as_object_mut().unwrap().remove("alg");
        let set = serde_json::json!({ "keys": [nameless] }).to_string();
        let mut limited = rule(set);
        limited.algorithms = vec![algorithm.name().into()];
        let policy = super::policy(limited);
        let token = signer.sign(signer.header(), claims());
        assert_eq!(verdict(&policy, token), Ok(()), "the rule says which");
    }
}

#[test]
fn a_token_without_a_kid_tries_few_keys_and_one_with_a_kid_its_own() {
    let signers: Vec<_> = (0..6).map(|_| Signer::new(Algorithm::Es256)).collect();
    let keys: Vec<_> = signers
        .iter()
        .enumerate()
        .map(|(i, signer)| {
            let mut jwk = signer.jwk();
            jwk["kid"] = format!("k{i}").into();
            jwk
        })
        .collect();
    let policy = policy(rule(serde_json::json!({ "keys": keys }).to_string()));
    for (i, signer) in signers.iter().enumerate() {
        let named = serde_json::json!({"alg": "ES256", "kid": format!("k{i}")});
        assert_eq!(verdict(&policy, signer.sign(named, claims())), Ok(()));
        let nameless = signer.sign(r#"{"alg":"ES256"}"#, claims());
        let expected = if i < 4 {
            Ok(())
        } else {
            Err(Reason::TokenBadSignature)
        };
        assert_eq!(verdict(&policy, nameless), expected, "key {i}");
        let other = serde_json::json!({"alg": "ES256", "kid": format!("k{}", (i + 1) % 6)});
        let token = signer.sign(other, claims());
        assert_eq!(verdict(&policy, token), Err(Reason::TokenBadSignature));
    }
}
