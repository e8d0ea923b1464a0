//! The walk on tables, on random and damaged bytes, and against `webpki`'s reading of the same certificate.

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::testing::{at, authority, extension, good_leaf, leaf_params, san, sign, tlv};

static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| good_leaf().to_vec());

#[test]
fn times_are_read_as_unix_seconds() {
    let cases: &[(u8, &[u8], Option<i64>)] = &[
        (UTC_TIME, b"700101000000Z", Some(0)),
        (UTC_TIME, b"491231235959Z", Some(2_524_607_999)),
        (UTC_TIME, b"500101000000Z", Some(-631_152_000)),
        (GENERALIZED_TIME, b"20240229120000Z", Some(1_709_208_000)),
        (GENERALIZED_TIME, b"20000229000000Z", Some(951_782_400)),
        (GENERALIZED_TIME, b"99991231235959Z", Some(253_402_300_799)),
        // Not a date, not a time of day, not DER's spelling.
        (GENERALIZED_TIME, b"20230229000000Z", None),
        (GENERALIZED_TIME, b"21000229000000Z", None),
        (GENERALIZED_TIME, b"20241329120000Z", None),
        (GENERALIZED_TIME, b"20240001120000Z", None),
        (GENERALIZED_TIME, b"20240431120000Z", None),
        (GENERALIZED_TIME, b"20240430240000Z", None),
        (GENERALIZED_TIME, b"20240430126000Z", None),
        (GENERALIZED_TIME, b"20240430120060Z", None),
        (GENERALIZED_TIME, b"20240229120000", None),
        (GENERALIZED_TIME, b"2024022912000Z", None),
        (GENERALIZED_TIME, b"20240229120000.5Z", None),
        (GENERALIZED_TIME, b"2024022912+000Z", None),
        (UTC_TIME, b"20240229120000Z", None),
        (GENERALIZED_TIME, b"700101000000Z", None),
        (OCTET_STRING, b"20240229120000Z", None),
        (UTC_TIME, b"", None),
    ];
    for (tag, text, expected) in cases {
        let shown = text.escape_ascii();
        assert_eq!(time((*tag, text)), *expected, "{tag:#x} {shown}");
    }
}

#[test]
fn an_element_has_one_spelling() {
    let cases: &[(&str, &[u8], bool)] = &[
        ("empty sequence", &[0x30, 0], true),
        ("short length in long form", &[0x30, 0x81, 1, 0], false),
        ("length with a leading zero", &[0x30, 0x82, 0, 0x80], false),
        ("indefinite length", &[0x30, 0x80, 0, 0], false),
        ("length of four bytes", &[0x30, 0x84, 1, 0, 0, 0], false),
        ("longer than what is there", &[0x30, 2, 0], false),
        ("no length", &[0x30], false),
        ("nothing", &[], false),
        ("tag of several bytes", &[0x3f, 0x81, 0, 0], false),
    ];
    for (what, bytes, good) in cases {
        assert_eq!(Reader(bytes).next().is_some(), *good, "{what}");
    }
    assert_eq!(integer(&[]), None);
    assert_eq!(integer(&[0, 0x7f]), None);
    assert_eq!(integer(&[0xff, 0x80]), None);
    assert_eq!(integer(&[0, 0x80]), Some(&[0, 0x80][..]));
    assert_eq!((boolean(&[1]), boolean(&[])), (None, None));
}

#[test]
fn malformed_extensions_are_refused_and_named() {
    const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
    const SAN: &[u64] = &[2, 5, 29, 17];
    const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
    const PURPOSES: &[u64] = &[2, 5, 29, 37];
    let cases: &[(&[u64], Vec<u8>, &str)] = &[
        (KEY_USAGE, vec![3, 2, 8, 0x80], "keyUsage"),
        (KEY_USAGE, vec![3, 2, 7, 0xc0], "keyUsage"),
        (KEY_USAGE, vec![3, 1, 1], "keyUsage"),
        (KEY_USAGE, vec![3, 0], "keyUsage"),
        (KEY_USAGE, vec![3, 2, 7, 0x80, 0], "keyUsage"),
        (
            SAN,
            [san(&[(0x86, b"a")]), vec![5, 0]].concat(),
            "subjectAltName",
        ),
        (SAN, san(&[(0x8f, b"a")]), "subjectAltName"),
        (SAN, vec![0x31, 0], "subjectAltName"),
        (
            BASIC_CONSTRAINTS,
            vec![0x30, 3, 1, 1, 1],
            "basicConstraints",
        ),
        (
            BASIC_CONSTRAINTS,
            vec![0x30, 6, 1, 1, 0xff, 2, 1, 0x80],
            "basicConstraints",
        ),
        (
            BASIC_CONSTRAINTS,
            vec![0x30, 5, 1, 1, 0xff, 5, 0],
            "basicConstraints",
        ),
        (PURPOSES, vec![0x30, 2, 5, 0], "extendedKeyUsage"),
        (PURPOSES, vec![0x30, 0, 0], "extendedKeyUsage"),
    ];
    let authority = authority("td");
    for (oid, value, named) in cases {
        let mut params = leaf_params("spiffe://td/a");
        params.subject_alt_names.clear();
        params.key_usages.clear();
        params.extended_key_usages.clear();
        params.is_ca = IsCa::NoCa;
        params.custom_extensions = vec![extension(oid, true, value.clone())];
        let der = sign(&params, &authority);
        let problem = facts(&der).expect_err(named);
        assert!(problem.contains(named), "{value:02x?}: {problem}");
    }
}

#[test]
fn extensions_appear_once_and_are_few() {
    let authority = authority("td");
    let with = |extensions: &[u64]| {
        let mut params = leaf_params("spiffe://td/a");
        params.custom_extensions = extensions
            .iter()
            .map(|last| extension(&[1, 3, 6, 1, 4, 1, 99999, *last], false, vec![5, 0]))
            .collect();
        facts(&sign(&params, &authority)).map(drop)
    };
    assert_eq!(with(&[1, 2, 3]), Ok(()));
    assert!(with(&[1, 2, 1]).unwrap_err().contains("twice"));
    let many: Vec<u64> = (1..=40).collect();
    assert!(with(&many).unwrap_err().contains("more than 32"));
}

#[test]
fn nothing_may_follow_a_certificate_or_be_missing_from_it() {
    assert!(facts(&LEAF).is_ok());
    assert!(facts(&[&LEAF[..], &[0]].concat()).is_err());
    for length in 0..LEAF.len() {
        assert!(facts(&LEAF[..length]).is_err(), "cut to {length}");
    }
    // One more element at the end of the outer sequence, and of the part that is signed.
    let (_, content) = Reader(&LEAF).next().unwrap();
    assert!(facts(&tlv(0x30, &[content, &[5, 0]].concat())).is_err());
    let mut parts = Reader(content);
    let (_, signed) = parts.next().unwrap();
    let longer = tlv(0x30, &[signed, &[5, 0]].concat());
    assert!(facts(&tlv(0x30, &[&longer[..], parts.0].concat())).is_err());
}

/// `webpki` reads the same bytes by other code; where both accept, they must agree on who it is.
fn agrees_with_webpki(der: &[u8]) -> Result<(), TestCaseError> {
    let certificate = rustls_pki_types::CertificateDer::from(der);
    let (Ok(facts), Ok(other)) = (facts(der), webpki::EndEntityCert::try_from(&certificate)) else {
        return Ok(());
    };
    let uris: Vec<&str> = other.valid_uri_names().collect();
    if let Some(Ok(uri)) = facts.uri.map(std::str::from_utf8)
        && facts.uri_count == 1
    {
        // webpki leaves out names it cannot read; it never has one that we do not have.
        prop_assert!(uris.iter().all(|u| *u == uri), "{uris:?} and {uri}");
    } else {
        prop_assert!(uris.len() <= facts.uri_count);
    }
    prop_assert_eq!(facts.serial, other.serial());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = facts(&bytes);
    }

    #[test]
    fn random_elements_never_panic(parts in proptest::collection::vec((
        proptest::sample::select(vec![0x01u8, 2, 3, 4, 6, 0x17, 0x30, 0xa0, 0xa3, 0x86]),
        proptest::collection::vec(any::<u8>(), 0..24),
    ), 0..12)) {
        let body: Vec<u8> = parts.iter().flat_map(|(tag, content)| tlv(*tag, content)).collect();
        let _ = facts(&tlv(0x30, &tlv(0x30, &body)));
        let mut usage = Reader(&body);
        let _ = (key_usage(&mut usage, true), basic_constraints(&mut usage), purposes(&mut usage));
    }

    #[test]
    fn a_damaged_certificate_never_panics_and_reads_as_webpki_reads_it(
        damage in proptest::collection::vec((0usize..2000, any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.1, 0usize..2000),
    ) {
        let mut der = LEAF.clone();
        for (at, value) in damage {
            let at = at % der.len();
            der[at] = value;
        }
        if let Some(cut) = cut {
            der.truncate(cut);
        }
        agrees_with_webpki(&der)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_put_in_a_certificate_is_read_from_it(
        start in -1_000_000_000i64..1_000_000_000,
        length in 0i64..10_000_000_000,
        serial in proptest::collection::vec(any::<u8>(), 1..19),
        usages in proptest::sample::subsequence(vec![
            KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DecipherOnly,
        ], 0..=5),
        purposes in proptest::sample::subsequence(vec![
            ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::CodeSigning,
        ], 0..=3),
    ) {
        static ISSUER: LazyLock<crate::testing::Issuer> = LazyLock::new(|| authority("td"));
        // A leading byte below 0x80 and not zero, so that DER spells the number with these bytes.
        let serial = [&[0x01], &serial[..]].concat();
        let mut params = leaf_params("spiffe://td/a");
        (params.not_before, params.not_after) = (at(start), at(start + length));
        params.serial_number = Some(serial.clone().into());
        params.key_usages = usages.clone();
        params.extended_key_usages = purposes.clone();
        let der = sign(&params, &ISSUER);
        let facts = facts(&der).unwrap();
        prop_assert_eq!(facts.not_before, at(start).unix_timestamp());
        prop_assert_eq!(facts.not_after, at(start + length).unix_timestamp());
        prop_assert_eq!(facts.serial, serial);
        prop_assert_eq!(facts.uri, Some(&b"spiffe://td/a"[..]));
        let has = |usage| usages.contains(&usage);
        prop_assert_eq!(facts.key_usage, (!usages.is_empty()).then(|| KeyUsage {
            critical: true,
            digital_signature: has(KeyUsagePurpose::DigitalSignature),
            key_cert_sign: has(KeyUsagePurpose::KeyCertSign),
            crl_sign: has(KeyUsagePurpose::CrlSign),
        }));
        prop_assert_eq!(facts.extended_key_usage, (!purposes.is_empty()).then(|| ExtendedKeyUsage {
            server_auth: purposes.contains(&ExtendedKeyUsagePurpose::ServerAuth),
            client_auth: purposes.contains(&ExtendedKeyUsagePurpose::ClientAuth),
        }));
        agrees_with_webpki(&der)?;
    }
}

#[test]
fn the_point_of_a_p256_key_is_found_and_no_other() {
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = leaf_params("spiffe://td/a").signed_by(&key, &authority("td"));
    let leaf = leaf.unwrap();
    let public_key = facts(leaf.der()).unwrap().public_key;
    assert_eq!(p256_point(public_key), Some(key.public_key_raw()));
    for length in 0..public_key.len() {
        assert_eq!(p256_point(&public_key[..length]), None, "{length}");
    }
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let leaf = leaf_params("spiffe://td/a").signed_by(&key, &authority("td"));
        let leaf = leaf.unwrap();
        assert_eq!(p256_point(facts(leaf.der()).unwrap().public_key), None);
    }
}
