//! Every rule of a JWT-SVID (SPIFFE JWT-SVID §2 to §5), with what is accepted and what is refused.

use serde_json::{Value, json};

use super::{NOW, Signer, policy, verdict};
use crate::Reason;
use crate::revocation::{BACKDATE, Entry, Revocations};
use crate::token::places::Presented;
use crate::token::{Algorithm, Fingerprint, HeaderMemo, Outcome, TokenPolicy, Verified};
use mesh_proto::mesh;

/// A claim or a member of the header that is set, or removed with null.
type Change = (&'static str, Value);

fn with(mut object: Value, changes: &[Change]) -> Value {
    for (name, value) in changes {
        let members = object.as_object_mut().unwrap();
        match value {
            Value::Null => members.remove(*name),
            value => members.insert((*name).to_owned(), value.clone()),
        };
    }
    object
}

fn claims(changes: &[Change]) -> Value {
    let claims = json!({"sub": "spiffe://td/ns/a/sa/b", "aud": ["shop"], "exp": NOW + 600});
    with(claims, changes)
}

/// Verifies with the keys of trust domain `td`.
fn verifier(jwk: &Value) -> TokenPolicy {
    policy(mesh::TokenRule {
        profile: mesh::TokenProfile::JwtSvid.into(),
        trust_domain: "td".into(),
        audiences: vec!["shop".into(), "till".into()],
        jwks: json!({ "keys": [jwk] }).to_string(),
        ..Default::default()
    })
}

fn jwk(signer: &Signer) -> Value {
    with(signer.jwk(), &[("use", json!("jwt-svid"))])
}

#[test]
fn headers_have_what_the_specification_names_and_nothing_else() {
    let signer = Signer::new(Algorithm::Es256);
    let policy = verifier(&jwk(&signer));
    let cases: [(&[Change], Result<(), Reason>); 12] = [
        (&[], Ok(())),
        (&[("typ", Value::Null)], Ok(())),
        (&[("typ", json!("JOSE"))], Ok(())),
        (&[("typ", json!("at+jwt"))], Err(Reason::TokenWrongType)),
        (&[("typ", json!("wit+jwt"))], Err(Reason::TokenWrongType)),
        (&[("cty", json!("JWT"))], Err(Reason::TokenWrongType)),
        (&[("jku", json!("https://a"))], Err(Reason::TokenMalformed)),
        (&[("x5t", json!("a"))], Err(Reason::TokenMalformed)),
        (&[("crit", json!(["exp"]))], Err(Reason::TokenMalformed)),
        (&[("kid", json!("other"))], Err(Reason::TokenUnknownKey)),
        (&[("alg", json!("none"))], Err(Reason::TokenAlgorithm)),
        (&[("alg", json!("HS256"))], Err(Reason::TokenAlgorithm)),
    ];
    for (changes, expected) in cases {
        let token = signer.sign(with(signer.header(), changes), claims(&[]));
        assert_eq!(verdict(&policy, &token), expected, "{changes:?}");
    }
    // Compact serialization only (§3.1).
    let token = signer.sign(signer.header(), claims(&[]));
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three segments");
    };
    let json = json!({"payload": payload, "protected": header, "signature": signature});
    assert_eq!(
        verdict(&policy, json.to_string()),
        Err(Reason::TokenMalformed)
    );
}

#[test]
fn the_nine_algorithms_are_accepted_and_a_tenth_is_not() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let policy = verifier(&jwk(&signer));
        let token = signer.sign(signer.header(), claims(&[]));
        let accepted = verdict(&policy, &token).is_ok();
        assert_eq!(
            accepted,
            algorithm != Algorithm::EdDsa,
            "{}",
            algorithm.name()
        );
    }
}

#[test]
fn subject_audience_and_end_are_there_and_right() {
    let signer = Signer::new(Algorithm::Es256);
    let policy = verifier(&jwk(&signer));
    let claim = Err(Reason::TokenClaim);
    // Whose trust domain it is says the subject.
    let issuer = Err(Reason::TokenUnknownIssuer);
    let audience = Err(Reason::TokenWrongAudience);
    let cases: Vec<(Change, Result<(), Reason>)> = vec![
        (("sub", json!("spiffe://td/x")), Ok(())),
        (("sub", Value::Null), issuer),
        (("sub", json!("")), issuer),
        (("sub", json!("alice")), issuer),
        (("sub", json!("https://td/x")), issuer),
        (("sub", json!("spiffe://TD/x")), issuer),
        (("sub", json!("spiffe://td/x/")), claim),
        (("sub", json!("spiffe://td/x?y")), claim),
        (("sub", json!(["spiffe://td/x"])), issuer),
        // The keys of one trust domain say nothing of another's workloads.
        (("sub", json!("spiffe://other/x")), issuer),
        (("sub", json!("spiffe://td.other/x")), issuer),
        (("aud", json!("till")), Ok(())),
        (("aud", json!(["bank", "till"])), Ok(())),
        (("aud", Value::Null), audience),
        (("aud", json!([])), audience),
        (("aud", json!("")), audience),
        (("aud", json!(["bank"])), audience),
        (("aud", json!("sho")), audience),
        (("aud", json!("SHOP")), audience),
        (("aud", json!([["shop"]])), claim),
        (("aud", json!({"shop": true})), claim),
        (("exp", json!(NOW + 1)), Ok(())),
        (("exp", Value::Null), claim),
        (("exp", json!(NOW - 3_600)), Err(Reason::TokenExpired)),
        (("exp", json!("1900000000")), claim),
        (("nbf", json!(NOW + 3_600)), Err(Reason::TokenNotYetValid)),
        (("iat", json!(NOW + 3_600)), Err(Reason::TokenNotYetValid)),
        // Who issued it is nobody's concern: the key stands for the trust domain.
        (("iss", json!("https://anybody")), Ok(())),
    ];
    for (change, expected) in cases {
        let token = signer.sign(signer.header(), claims(std::slice::from_ref(&change)));
        let found = verdict(&policy, &token);
        assert_eq!(found, expected, "{change:?}");
    }
}

#[test]
fn only_keys_of_a_trust_bundle_for_jwt_svids_verify() {
    let signer = Signer::new(Algorithm::Es256);
    let token = signer.sign(signer.header(), claims(&[]));
    let cases: [(&[Change], bool); 5] = [
        (&[], true),
        (&[("use", Value::Null)], false),
        (&[("use", json!("sig"))], false),
        (&[("use", json!("x509-svid"))], false),
        (&[("kid", Value::Null)], false),
    ];
    for (changes, accepted) in cases {
        let policy = verifier(&with(jwk(&signer), changes));
        let verdict = verdict(&policy, &token);
        assert_eq!(verdict.is_ok(), accepted, "{changes:?}: {verdict:?}");
    }
    let policy = verifier(&jwk(&Signer::new(Algorithm::Es256)));
    assert_eq!(
        verdict(&policy, &token),
        Err(Reason::TokenBadSignature),
        "another's key"
    );
}

fn verified(policy: &TokenPolicy, token: &str) -> Verified {
    let presented = Presented {
        text: token.as_bytes(),
        place: 0,
    };
    let name = Fingerprint::new([0; 8]);
    match policy.verify(presented, NOW, name, &mut HeaderMemo::default()) {
        Ok(Outcome::Verified(verified)) => verified,
        _ => panic!("not accepted"),
    }
}

#[test]
fn what_a_rule_accepted_ends_with_its_subject_and_its_age_if_it_is_a_jwt_svid() {
    use mesh::revocation::Subject;
    let signer = Signer::new(Algorithm::Es256);
    let signed = |changes: &[Change]| signer.sign(signer.header(), claims(changes));
    let svid = verifier(&jwk(&signer));
    let dated = verified(&svid, &signed(&[("iat", json!(NOW - 10))]));
    let undated = verified(&svid, &signed(&[]));
    // Whatever another issuer's token says of itself, it is none of an identity of the mesh.
    let issued = [("iss", json!(super::ISSUER)), ("iat", json!(NOW - 10))];
    let generic = verified(&policy(super::rule(signer.jwks())), &signed(&issued));
    let id = |id: &str| Subject::SpiffeId(id.into());
    let prefix = |path: &str| {
        Subject::Prefix(mesh::RevokedPrefix {
            trust_domain: "td".into(),
            path: path.into(),
        })
    };
    // As the control API publishes it.
    let before = |moment: i64| {
        Subject::IssuedBefore(mesh::RevokedIssuedBefore {
            trust_domain: "td".into(),
            path: "/ns/a".into(),
            not_before: moment - BACKDATE,
        })
    };
    let token = |issuer: &str| {
        Subject::Token(mesh::RevokedToken {
            issuer: issuer.into(),
            subject: "spiffe://td/ns/a/sa/b".into(),
            ..Default::default()
        })
    };
    for (subject, [of_dated, of_undated, of_generic]) in [
        (id("spiffe://td/ns/a/sa/b"), [true, true, false]),
        (id("spiffe://td/ns/a/sa/c"), [false; 3]),
        (id("spiffe://other/ns/a/sa/b"), [false; 3]),
        (prefix("/ns/a"), [true, true, false]),
        (prefix("/ns/b"), [false; 3]),
        (prefix(""), [true, true, false]),
        (before(NOW - 9), [true, true, false]),
        (before(NOW - 10), [false, true, false]),
        (token("td"), [true, true, false]),
        (token(super::ISSUER), [false, false, true]),
    ] {
        let message = mesh::Revocation {
            name: "r".into(),
            subject: Some(subject.clone()),
            expires_at: NOW + 100,
            ..Default::default()
        };
        let revocations = Revocations::new([Entry::parse(&message).unwrap()]);
        for (token, revoked) in [
            (&dated, of_dated),
            (&undated, of_undated),
            (&generic, of_generic),
        ] {
            let found = |now| revocations.of_verified(token, now).is_some();
            assert_eq!(found(NOW), revoked, "{subject:?}: {:?}", token.token());
            assert!(!found(NOW + 100), "it has ended");
        }
    }
}
