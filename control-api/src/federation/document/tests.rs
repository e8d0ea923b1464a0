use mesh_auth::bundle;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

/// A root certificate of `td`, DER.
fn root() -> Vec<u8> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn what_is_written_is_read_back_with_the_members_that_the_specification_asks_for() {
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "use": "jwt-svid", "x": "AA", "y": "AA"});
    let mut bundle = mesh::TrustBundle {
        trust_domain: "td".into(),
        x509_authorities: vec![root(), root()],
        workload_authorities: vec![root()],
        workload_any_namespace: true,
        sequence: 7,
        jwt_authorities: json!({"keys": [jwk]}).to_string(),
        ..mesh::TrustBundle::default()
    };
    let text = write(&bundle, 300);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for entry in &value["keys"].as_array().unwrap()[..2] {
        assert_eq!(entry["use"], "x509-svid");
        assert_eq!(
            (&entry["kty"], &entry["crv"]),
            (&json!("EC"), &json!("P-256"))
        );
        assert_eq!(entry["x5c"].as_array().unwrap().len(), 1);
        assert!(entry.get("kid").is_none());
    }
    let read = read(text.as_bytes(), &domain()).unwrap();
    let every = [&bundle.x509_authorities[..], &bundle.workload_authorities].concat();
    assert_eq!(read.x509_authorities, every);
    assert_eq!((read.sequence, read.refresh_hint), (Some(7), Some(300)));
    let keys: serde_json::Value = serde_json::from_str(&read.jwt_authorities).unwrap();
    assert_eq!(keys, json!({"keys": [jwk]}));
    // What vouches for some namespaces only would vouch for all of them elsewhere.
    bundle::set_vouched_namespaces(&mut bundle, &["shop".into()]);
    let read = super::read(write(&bundle, 300).as_bytes(), &domain()).unwrap();
    assert_eq!(read.x509_authorities, bundle.x509_authorities);
}

#[test]
fn entries_are_taken_or_ignored_by_the_rules() {
    let der = STANDARD.encode(root());
    let x509 = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut entry = json!({"kty": "EC", "use": "x509-svid", "x5c": [der], "crv": "P-256", "x": "AA", "y": "AA"});
        change(&mut entry);
        entry
    };
    let jwt = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut entry = json!({"kty": "RSA", "use": "jwt-svid", "kid": "k", "n": "AQAB", "e": "AQAB", "d": "secret"});
        change(&mut entry);
        entry
    };
    for (entry, roots, keys, why) in [
        (x509(&|_| {}), 1, 0, "a root"),
        (
            x509(&|e| e["kty"] = "OKP2".into()),
            0,
            0,
            "unknown type (38)",
        ),
        (x509(&|e| e["use"] = "sig".into()), 0, 0, "unknown use (38)"),
        (
            x509(&|e| drop(e.as_object_mut().unwrap().remove("use"))),
            0,
            0,
            "no use (39)",
        ),
        (
            x509(&|e| drop(e.as_object_mut().unwrap().remove("x5c"))),
            0,
            0,
            "no x5c (28)",
        ),
        (x509(&|e| e["x5c"] = json!([])), 0, 0, "empty x5c (28)"),
        (
            x509(&|e| e["x5c"] = json!([der, "garbage"])),
            1,
            0,
            "the first of several (28)",
        ),
        (jwt(&|_| {}), 0, 1, "a key"),
        (
            jwt(&|e| drop(e.as_object_mut().unwrap().remove("kid"))),
            0,
            0,
            "no kid (36)",
        ),
        (jwt(&|e| e["kty"] = "oct".into()), 0, 0, "no public key"),
        (json!("text"), 0, 0, "no object"),
    ] {
        let text = json!({"keys": [entry], "unknown": 1}).to_string();
        let read = read(text.as_bytes(), &domain()).unwrap_or_else(|e| panic!("{why}: {e}"));
        assert_eq!(read.x509_authorities.len(), roots, "{why}");
        assert_eq!(
            read.jwt_authorities.matches("\"kty\"").count(),
            keys,
            "{why}"
        );
        assert!(
            !read.jwt_authorities.contains("secret"),
            "private members stay"
        );
    }
    let empty = read(br#"{"keys":[]}"#, &domain()).unwrap();
    assert_eq!(empty, BundleDocument::default(), "nobody is trusted (40)");
}

#[test]
fn what_is_no_bundle_is_refused() {
    let not_ca = {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        STANDARD.encode(params.self_signed(&key).unwrap().der())
    };
    let with =
        |x5c: &str| json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [x5c]}]}).to_string();
    for (text, problem) in [
        (String::new(), "not a JSON object"),
        ("[]".into(), "not a JSON object"),
        ("{}".into(), "keys"),
        (r#"{"keys":{}}"#.into(), "keys"),
        (r#"{"keys":[],"keys":[]}"#.into(), "not a JSON object"),
        (
            r#"{"keys":[],"spiffe_sequence":-1}"#.into(),
            "spiffe_sequence",
        ),
        (
            r#"{"keys":[],"spiffe_sequence":"7"}"#.into(),
            "spiffe_sequence",
        ),
        (
            r#"{"keys":[],"spiffe_refresh_hint":1.5}"#.into(),
            "spiffe_refresh_hint",
        ),
        (with("%%%"), "x5c"),
        (with("AAAA"), "certificate 0"),
        (with(&not_ca), "not a CA"),
        (" ".repeat(MAX_BYTES + 1), "more than"),
    ] {
        let error = read(text.as_bytes(), &domain()).unwrap_err();
        assert!(error.contains(problem), "{text:.60}: {error}");
    }
}
