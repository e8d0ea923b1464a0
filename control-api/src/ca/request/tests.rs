use base64::Engine as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::*;

const CORPUS: &str = include_str!("corpus.txt");

fn corpus() -> impl Iterator<Item = (&'static str, &'static str, Vec<u8>)> {
    CORPUS.lines().filter(|l| !l.starts_with('#')).map(|line| {
        let mut parts = line.split('|');
        let mut next = || parts.next().expect("three parts");
        let (name, expected, der) = (next(), next(), next());
        let der = base64::engine::general_purpose::STANDARD.decode(der);
        (name, expected, der.expect("base64"))
    })
}

fn good() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn refusal(der: &[u8]) -> String {
    RequestedKey::parse(der).unwrap_err().to_string()
}

#[test]
fn what_a_request_asks_for_decides_whether_it_is_refused() {
    let mut count = 0;
    for (name, expected, der) in corpus() {
        count += 1;
        match (expected, RequestedKey::parse(&der)) {
            ("ok", Ok(_)) => {}
            ("ok", Err(error)) => panic!("{name}: {error}"),
            (_, Ok(_)) => panic!("{name} was taken"),
            (reason, Err(error)) => assert!(error.to_string().contains(reason), "{name}: {error}"),
        }
    }
    assert!(count >= 30, "{count}");
}

#[test]
fn the_key_that_is_signed_is_the_key_of_the_request() {
    for (name, expected, der) in corpus() {
        if expected != "ok" {
            continue;
        }
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        let key = RequestedKey::parse(&der).unwrap();
        let requested = request.certification_request_info.subject_pki.raw;
        assert_eq!(key.info.subject_public_key_info(), requested, "{name}");
    }
}

/// A request with one attribute: object identifier, and a SET of one UTF8String.
fn with_attribute(oid: &'static [u64]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let attribute = rcgen::Attribute {
        oid,
        values: b"\x31\x06\x0c\x04word".to_vec(),
    };
    let key = KeyPair::generate().unwrap();
    let request = params.serialize_request_with_attributes(&key, vec![attribute]);
    request.unwrap().der().to_vec()
}

#[test]
fn attributes_are_refused_but_for_the_challenge_password_which_asks_for_nothing() {
    RequestedKey::parse(&with_attribute(&[1, 2, 840, 113_549, 1, 9, 7])).unwrap();
    for oid in [&[1, 2, 840, 113_549, 1, 9, 2][..], &[1, 2, 3, 4]] {
        let dotted = oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
        let error = refusal(&with_attribute(oid));
        assert!(error.contains(&dotted), "{error}");
    }
}

#[test]
fn a_request_whose_bytes_were_changed_is_refused() {
    let der = good();
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    let signed = request.certification_request_info.raw.len();
    let signature = request.signature_value.as_ref().len();
    // What is signed, after the outermost header, and the signature at the end.
    for at in (3..3 + signed).chain(der.len() - signature..der.len()) {
        for bit in [0x01, 0x80] {
            let mut changed = der.clone();
            changed[at] ^= bit;
            assert!(
                RequestedKey::parse(&changed).is_err(),
                "bit {bit:#x} of byte {at}"
            );
        }
    }
}

#[test]
fn a_request_that_is_no_request_is_refused() {
    let der = good();
    for length in 0..der.len() {
        assert!(
            RequestedKey::parse(&der[..length]).is_err(),
            "{length} bytes"
        );
    }
    let mut longer = der.clone();
    longer.push(0);
    assert!(refusal(&longer).contains("bytes after"));
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}", "A".repeat(300));
    assert!(refusal(pem.as_bytes()).contains("not a PKCS#10 request"));
    assert!(refusal(&vec![0x30; 1 << 20]).contains("more than 16384"));
    assert!(refusal(&[]).contains("not a PKCS#10 request"));
}

#[test]
fn a_signature_of_another_key_proves_nothing() {
    // The signature is the last part of a request: one request's body with another's signature.
    let (a, b) = (good(), good());
    let parse = |der| X509CertificationRequest::from_der(der).unwrap().1;
    let (body, signature) = (parse(&a), parse(&b));
    let inner = body.certification_request_info.raw;
    let algorithm = [
        0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
    ];
    let bits = signature.signature_value.as_ref();
    let mut forged = inner.to_vec();
    forged.extend(algorithm);
    forged.extend([0x03, u8::try_from(bits.len() + 1).unwrap(), 0]);
    forged.extend(bits);
    let mut der = vec![0x30, 0x81, u8::try_from(forged.len()).unwrap()];
    der.extend(forged);
    assert!(
        refusal(&der).contains("signature does not verify"),
        "{}",
        refusal(&der)
    );
}
