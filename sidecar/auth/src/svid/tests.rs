//! Every rule of an X.509-SVID, with what is accepted and what is refused. Rules of paths are in `path/tests.rs`.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::TrustDomain;
use crate::bundle::TrustBundle;
use crate::testing::*;

const ID: &str = "spiffe://td/ns/a/sa/b";
const SAN: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

fn check(params: &CertificateParams, offset: i64) -> Result<VerifiedPeer, SvidError> {
    let authority = authority("td");
    let chain = [sign(params, &authority)];
    let bundles = bundles(&[("td", &authority)]);
    let result = verify(&chain, Usage::Client, &bundles, unix(offset));
    // The rules of a leaf hold in both directions alike.
    let as_server = verify(&chain, Usage::Server, &bundles, unix(offset));
    assert_eq!(result, as_server);
    result
}

fn changed(change: Change) -> CertificateParams {
    let mut params = leaf_params(ID);
    change(&mut params);
    params
}

/// Replaces the SAN by names of raw bytes.
fn raw_san(params: &mut CertificateParams, critical: bool, names: &[(u8, &[u8])]) {
    params.subject_alt_names.clear();
    params.custom_extensions = vec![extension(SAN, critical, san(names))];
}

#[test]
fn leaves_that_keep_every_rule_are_accepted() {
    let cases: &[(&str, Change)] = &[
        ("as we issue them", |_| {}),
        ("no extended key usage", |p| p.extended_key_usages.clear()),
        ("a third purpose", |p| {
            p.extended_key_usages
                .push(ExtendedKeyUsagePurpose::CodeSigning);
        }),
        ("a second key usage", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyAgreement);
        }),
        ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
        ("basic constraints that spell out cA false", |p| {
            p.is_ca = IsCa::NoCa;
            p.custom_extensions = vec![extension(BASIC_CONSTRAINTS, true, vec![0x30, 3, 1, 1, 0])];
        }),
        ("other kinds of SAN beside the URI", |p| {
            p.subject_alt_names
                .push(SanType::DnsName("b.example".try_into().unwrap()));
            p.subject_alt_names
                .push(SanType::IpAddress([10, 0, 0, 1].into()));
        }),
        ("empty subject with a critical SAN", |p| {
            p.distinguished_name = DistinguishedName::new();
        }),
        ("a critical SAN with a subject", |p| {
            raw_san(p, true, &[(0x86, ID.as_bytes())]);
        }),
        ("an unknown extension that is not critical", |p| {
            p.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], false, vec![5, 0])];
        }),
    ];
    for (what, change) in cases {
        let peer = check(&changed(*change), 0).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(peer.id().as_str(), ID, "{what}");
    }
}

#[test]
fn a_leaf_that_breaks_one_rule_is_refused_with_its_reason() {
    let cases: &[(&str, Change, &str)] = &[
        // Exactly one URI SAN.
        ("no SAN", |p| p.subject_alt_names.clear(), "uri_san_count"),
        ("empty SAN", |p| raw_san(p, false, &[]), "uri_san_count"),
        (
            "a DNS SAN that spells an ID",
            |p| raw_san(p, false, &[(0x82, ID.as_bytes())]),
            "uri_san_count",
        ),
        (
            "an ID as common name only",
            |p| {
                p.subject_alt_names.clear();
                p.distinguished_name = name(ID);
            },
            "uri_san_count",
        ),
        (
            "two URI SANs",
            |p| p.subject_alt_names.push(uri("spiffe://td/ns/a/sa/c")),
            "uri_san_count",
        ),
        (
            "the same URI SAN twice",
            |p| p.subject_alt_names.push(uri(ID)),
            "uri_san_count",
        ),
        (
            "a second URI that is no SPIFFE ID",
            |p| p.subject_alt_names.push(uri("https://td/")),
            "uri_san_count",
        ),
        (
            "a second SAN extension",
            |p| {
                p.custom_extensions = vec![extension(SAN, false, san(&[(0x86, b"spiffe://td/x")]))];
            },
            "certificate_malformed",
        ),
        (
            "a URI as constructed element",
            |p| raw_san(p, false, &[(0x86, ID.as_bytes()), (0xa6, b"\x16\x01a")]),
            "certificate_malformed",
        ),
        // The URI is a SPIFFE ID of a workload.
        (
            "https",
            |p| p.subject_alt_names = vec![uri("https://td/ns/a/sa/b")],
            "not_spiffe",
        ),
        (
            "upper-case scheme",
            |p| p.subject_alt_names = vec![uri("SPIFFE://td/ns/a/sa/b")],
            "not_spiffe",
        ),
        (
            "upper-case trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://TD/ns/a/sa/b")],
            "not_spiffe",
        ),
        (
            "trailing slash",
            |p| p.subject_alt_names = vec![uri("spiffe://td/ns/a/")],
            "not_spiffe",
        ),
        (
            "empty URI",
            |p| raw_san(p, false, &[(0x86, b"")]),
            "not_spiffe",
        ),
        (
            "NUL",
            |p| raw_san(p, false, &[(0x86, b"spiffe://td/a\0b")]),
            "not_spiffe",
        ),
        (
            "CR LF",
            |p| raw_san(p, false, &[(0x86, b"spiffe://td/a\r\nx: y")]),
            "not_spiffe",
        ),
        (
            "not UTF-8",
            |p| raw_san(p, false, &[(0x86, b"spiffe://td/\xff")]),
            "not_spiffe",
        ),
        (
            "no path",
            |p| p.subject_alt_names = vec![uri("spiffe://td")],
            "spiffe_id_without_path",
        ),
        (
            "another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other/ns/a/sa/b")],
            "unknown_trust_domain",
        ),
        (
            "a trust domain that ends as ours",
            |p| p.subject_alt_names = vec![uri("spiffe://evil.td/ns/a/sa/b")],
            "unknown_trust_domain",
        ),
        (
            "a trust domain that starts as ours",
            |p| p.subject_alt_names = vec![uri("spiffe://td.evil/ns/a/sa/b")],
            "unknown_trust_domain",
        ),
        // A leaf, not an authority.
        (
            "CA",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "ca_leaf",
        ),
        (
            "a signing certificate with its own ID",
            |p| {
                *p = signer_params("td");
                p.subject_alt_names = vec![uri("spiffe://td")];
            },
            "ca_leaf",
        ),
        (
            "path length without cA",
            |p| {
                p.is_ca = IsCa::NoCa;
                p.custom_extensions =
                    vec![extension(BASIC_CONSTRAINTS, true, vec![0x30, 3, 2, 1, 0])];
            },
            "certificate_malformed",
        ),
        (
            "name constraints",
            |p| {
                p.custom_extensions = vec![extension(NAME_CONSTRAINTS, true, vec![0x30, 0])];
            },
            "leaf_name_constraints",
        ),
        // Key usage.
        ("no key usage", |p| p.key_usages.clear(), "key_usage"),
        (
            "key usage that is not critical",
            |p| {
                p.key_usages.clear();
                p.custom_extensions = vec![extension(KEY_USAGE, false, vec![3, 2, 7, 0x80])];
            },
            "key_usage",
        ),
        (
            "key usage without a bit",
            |p| {
                p.key_usages.clear();
                p.custom_extensions = vec![extension(KEY_USAGE, true, vec![3, 1, 0])];
            },
            "key_usage",
        ),
        (
            "no digitalSignature",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            "key_usage",
        ),
        (
            "keyCertSign",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            "key_usage",
        ),
        (
            "cRLSign",
            |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
            "key_usage",
        ),
        // Extended key usage: both or none.
        (
            "serverAuth only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "extended_key_usage",
        ),
        (
            "clientAuth only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "extended_key_usage",
        ),
        (
            "codeSigning only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            "extended_key_usage",
        ),
        (
            "OCSP signing only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning],
            "extended_key_usage",
        ),
        (
            "any purpose",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            "extended_key_usage",
        ),
        (
            "an empty list of purposes",
            |p| {
                p.extended_key_usages.clear();
                p.custom_extensions = vec![extension(EXTENDED_KEY_USAGE, false, vec![0x30, 0])];
            },
            "extended_key_usage",
        ),
        // RFC 5280.
        (
            "empty subject with a SAN that is not critical",
            |p| {
                p.distinguished_name = DistinguishedName::new();
                raw_san(p, false, &[(0x86, ID.as_bytes())]);
            },
            "san_not_critical",
        ),
        (
            "an unknown critical extension",
            |p| {
                p.custom_extensions =
                    vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, vec![5, 0])];
            },
            "untrusted",
        ),
    ];
    for (what, change, reason) in cases {
        match check(&changed(*change), 0) {
            Ok(_) => panic!("{what}: accepted"),
            Err(error) => {
                assert_eq!(error.reason(), *reason, "{what}: {error}");
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
            }
        }
    }
}

#[test]
fn validity_is_exact_and_the_error_names_the_skew() {
    let params = leaf_params(ID);
    let cases = [
        (-300, None),
        (3600, None),
        (
            -300 - 7380,
            Some("the leaf certificate starts in 2h 3m; check clocks"),
        ),
        (
            -301,
            Some("the leaf certificate starts in 1s; check clocks"),
        ),
        (
            3601,
            Some("the leaf certificate expired 1s ago; check clocks and renewal"),
        ),
        (
            3600 + 90,
            Some("the leaf certificate expired 1m 30s ago; check clocks and renewal"),
        ),
        (
            3600 + 25 * 3600,
            Some("the leaf certificate expired 1d 1h ago; check clocks and renewal"),
        ),
    ];
    for (offset, refusal) in cases {
        let text = check(&params, offset).err().map(|e| e.to_string());
        assert_eq!(text.as_deref(), refusal, "{offset}");
    }
}

#[test]
fn a_verified_peer_says_what_its_certificate_says() {
    let authority = authority("td");
    let mut params = leaf_params(ID);
    params.serial_number = Some(vec![0x12, 0x34].into());
    let leaf = sign(&params, &authority);
    let peer = verify(
        std::slice::from_ref(&leaf),
        Usage::Server,
        &bundles(&[("td", &authority)]),
        unix(0),
    )
    .unwrap();
    assert_eq!(peer.serial(), [0x12, 0x34]);
    let now = NOW.cast_signed();
    assert_eq!(
        (peer.not_before(), peer.not_after()),
        (now - 300, now + 3600)
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf);
    assert_eq!(peer.leaf_sha256(), digest.as_ref());
}

#[test]
fn chains_are_bounded_and_empty_ones_refused() {
    let authority = authority("td");
    let bundles = bundles(&[("td", &authority)]);
    let leaf = sign(&leaf_params(ID), &authority);
    let reason = |chain: &[CertificateDer<'_>]| {
        verify(chain, Usage::Client, &bundles, unix(0))
            .unwrap_err()
            .reason()
    };
    assert_eq!(reason(&[]), "certificate_missing");
    assert_eq!(
        reason(&vec![leaf.clone(); MAX_CHAIN_CERTIFICATES + 1]),
        "chain_too_large"
    );
    let mut bloated = leaf_params(ID);
    bloated.custom_extensions = vec![extension(
        &[1, 3, 6, 1, 4, 1, 99999, 1],
        false,
        vec![0; 40_000],
    )];
    let bloated = sign(&bloated, &authority);
    assert!(
        verify(
            std::slice::from_ref(&bloated),
            Usage::Client,
            &bundles,
            unix(0)
        )
        .is_ok()
    );
    assert_eq!(reason(&[bloated.clone(), bloated]), "chain_too_large");
    assert_eq!(
        reason(&[CertificateDer::from(vec![0x30; 100])]),
        "certificate_malformed"
    );
}

/// T11: what OpenSSL signs with keys and digests that are too weak, beside what is strong enough.
#[test]
fn weak_signatures_are_refused_and_certificates_of_another_encoder_accepted() {
    let cases: &[(&str, &[u8], bool)] = &[
        (
            "RSA-2048",
            include_bytes!("../../testdata/rsa-2048.pem"),
            true,
        ),
        ("P-384", include_bytes!("../../testdata/p-384.pem"), true),
        (
            "RSA-1024",
            include_bytes!("../../testdata/rsa-1024.pem"),
            false,
        ),
        (
            "SHA-1",
            include_bytes!("../../testdata/rsa-2048-sha1.pem"),
            false,
        ),
        ("P-224", include_bytes!("../../testdata/p-224.pem"), false),
        (
            "secp256k1",
            include_bytes!("../../testdata/secp256k1.pem"),
            false,
        ),
    ];
    for (what, pem, accepted) in cases {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .unwrap();
        let mut bundles = TrustBundles::default();
        let domain = TrustDomain::new("td").unwrap();
        bundles
            .insert(TrustBundle::new(domain, vec![chain[1].clone()], 1).unwrap())
            .unwrap();
        let verdict = verify(&chain[..1], Usage::Client, &bundles, unix(0));
        match verdict {
            Ok(peer) => assert!(*accepted && peer.id().as_str() == ID, "{what}"),
            Err(error) => {
                assert!(!accepted, "{what}: {error}");
                assert_eq!(error.reason(), "untrusted", "{what}: {error}");
            }
        }
    }
}
