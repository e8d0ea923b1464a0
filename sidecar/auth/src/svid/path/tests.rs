//! Paths: which roots count, which certificates may sign, and what a hostile chain may cost.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::bundle::{TrustBundle, TrustBundles};
use crate::der;
use crate::prepared::PreparedKeys;
use crate::svid::{SvidError, Usage, VerifiedPeer, verify, verify_with_validity};
use crate::testing::*;

use rustls_pki_types::CertificateDer;

const ID: &str = "spiffe://td/ns/a/sa/b";

fn check(chain: &[CertificateDer<'_>], roots: &[&Issuer]) -> Result<VerifiedPeer, SvidError> {
    let mut bundles = TrustBundles::default();
    bundles.insert(bundle("td", roots, 1)).unwrap();
    let verdict = verify(chain, Usage::Server, &bundles, unix(0));
    assert_eq!(check_prepared(chain, roots, &bundles), verdict);
    verdict
}

/// The same with every key of the chain and of the roots prepared.
fn check_prepared(
    chain: &[CertificateDer<'_>],
    roots: &[&Issuer],
    bundles: &TrustBundles,
) -> Result<VerifiedPeer, SvidError> {
    let keys = PreparedKeys::new();
    let roots = roots.iter().map(|root| &**root.der());
    for certificate in chain.iter().map(|certificate| &**certificate).chain(roots) {
        let facts = der::facts(certificate).ok();
        if let Some(point) = facts.and_then(|facts| der::p256_point(facts.public_key)) {
            keys.prepare(point, point);
        }
    }
    let verdict = verify_with_validity(chain, Usage::Server, bundles, Some(&keys), unix(0));
    verdict.map(|(peer, _)| peer)
}

/// A leaf under an intermediate under a root, the last two changed.
fn chain_of(change_intermediate: Change, change_root: Change) -> Result<VerifiedPeer, SvidError> {
    let mut params = signer_params("root");
    change_root(&mut params);
    let root = root(params);
    let mut params = signer_params("intermediate");
    change_intermediate(&mut params);
    let intermediate = intermediate(params, &root);
    let leaf = sign(&leaf_params(ID), &intermediate);
    check(&[leaf, intermediate.der().clone()], &[&root])
}

fn limit(length: u8) -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(length))
}

const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// nameConstraints with one subtree: permitted (0xa0) or excluded (0xa1), of a kind of name.
fn constrain(params: &mut CertificateParams, list: u8, kind: u8, base: &[u8]) {
    let subtree = tlv(0x30, &tlv(kind, base));
    let value = tlv(0x30, &tlv(list, &subtree));
    params.custom_extensions = vec![extension(NAME_CONSTRAINTS, true, value)];
}

#[test]
fn signing_certificates_keep_their_own_rules() {
    let none: Change = |_| {};
    let cases: &[(&str, Change, Change, Result<(), &str>)] = &[
        ("as they should be", none, none, Ok(())),
        (
            "path length 0 below path length 1",
            |p| p.is_ca = limit(0),
            |p| p.is_ca = limit(1),
            Ok(()),
        ),
        (
            "a root whose path length allows no intermediate",
            none,
            |p| p.is_ca = limit(0),
            Err("untrusted"),
        ),
        (
            "the trust domain's ID",
            |p| p.subject_alt_names = vec![uri("spiffe://td")],
            none,
            Ok(()),
        ),
        (
            "a URI that is no SPIFFE ID",
            |p| p.subject_alt_names = vec![uri("https://ca.example/")],
            none,
            Ok(()),
        ),
        (
            "an ID of another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other")],
            none,
            Err("signing_certificate"),
        ),
        (
            "an ID with a path",
            |p| p.subject_alt_names = vec![uri("spiffe://td/ca")],
            none,
            Err("signing_certificate"),
        ),
        (
            "an ID that is not well formed",
            |p| p.subject_alt_names = vec![uri("SPIFFE://TD")],
            none,
            Err("signing_certificate"),
        ),
        (
            "two IDs",
            |p| p.subject_alt_names = vec![uri("spiffe://td"), uri("spiffe://other")],
            none,
            Err("signing_certificate"),
        ),
        (
            "key usage without keyCertSign",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            none,
            Err("signing_certificate"),
        ),
        (
            "no key usage",
            |p| p.key_usages.clear(),
            none,
            Err("signing_certificate"),
        ),
        (
            "no basic constraints",
            |p| p.is_ca = IsCa::NoCa,
            none,
            Err("untrusted"),
        ),
        (
            "cA false",
            |p| p.is_ca = IsCa::ExplicitNoCa,
            none,
            Err("untrusted"),
        ),
        (
            "for code signing only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            none,
            Err("untrusted"),
        ),
        (
            "an unknown critical extension",
            |p| {
                p.custom_extensions =
                    vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, vec![5, 0])];
            },
            none,
            Err("untrusted"),
        ),
        ("expired", |p| p.not_after = at(-1), none, Err("expired")),
        (
            "not valid yet",
            |p| p.not_before = at(60),
            none,
            Err("not_yet_valid"),
        ),
        (
            "an expired root",
            none,
            |p| p.not_after = at(-1),
            Err("expired"),
        ),
        (
            "a root of tomorrow",
            none,
            |p| p.not_before = at(86_400),
            Err("not_yet_valid"),
        ),
        (
            "names of another kind constrained",
            |p| constrain(p, 0xa0, 0x82, b"example"),
            none,
            Ok(()),
        ),
        (
            "our URI host excluded",
            |p| constrain(p, 0xa1, 0x86, b"td"),
            none,
            Err("untrusted"),
        ),
        (
            "another URI host permitted",
            |p| constrain(p, 0xa0, 0x86, b"other"),
            none,
            Err("untrusted"),
        ),
        (
            "another URI host permitted by the root",
            none,
            |p| constrain(p, 0xa0, 0x86, b"other"),
            Err("untrusted"),
        ),
        (
            "a directory name permitted",
            |p| constrain(p, 0xa0, 0xa4, &[0x30, 0]),
            none,
            Err("untrusted"),
        ),
    ];
    for (what, intermediate, root, expected) in cases {
        let verdict = chain_of(*intermediate, *root);
        let got = verdict.as_ref().map(|_| ()).map_err(SvidError::reason);
        assert_eq!(got, *expected, "{what}: {verdict:?}");
    }
}

#[test]
fn the_error_names_the_certificate_whose_time_it_is_not() {
    let none: Change = |_| {};
    let cases: &[(Change, Change, &str)] = &[
        (
            |p| p.not_after = at(-100),
            none,
            "the intermediate certificate expired 1m 40s ago; check clocks and renewal",
        ),
        (
            |p| p.not_before = at(7380),
            none,
            "the intermediate certificate starts in 2h 3m; check clocks",
        ),
        (
            none,
            |p| p.not_after = at(-3 * 86_400),
            "the root certificate expired 3d 0h ago; check clocks and renewal",
        ),
        (
            none,
            |p| p.not_before = at(59),
            "the root certificate starts in 59s; check clocks",
        ),
    ];
    for (intermediate, root, text) in cases {
        assert_eq!(
            chain_of(*intermediate, *root).unwrap_err().to_string(),
            *text
        );
    }
}

#[test]
fn path_lengths_are_kept_along_the_chain() {
    let root = root(signer_params("root"));
    let mut params = signer_params("first");
    params.is_ca = limit(0);
    let first = intermediate(params, &root);
    let second = intermediate(signer_params("second"), &first);
    let leaf = sign(&leaf_params(ID), &second);
    let chain = [leaf, second.der().clone(), first.der().clone()];
    let error = check(&chain, &[&root]).unwrap_err();
    assert!(error.to_string().contains("path length"), "{error}");
}

#[test]
fn only_the_roots_of_the_leafs_own_trust_domain_count() {
    let (own, other) = (authority("td"), authority("other"));
    let bundles = bundles(&[("td", &own), ("other", &other)]);
    let cases = [
        (ID, &own, true),
        (ID, &other, false),
        ("spiffe://other/ns/a/sa/b", &other, true),
        ("spiffe://other/ns/a/sa/b", &own, false),
    ];
    for (id, signer, accepted) in cases {
        let chain = [sign(&leaf_params(id), signer)];
        match verify(&chain, Usage::Client, &bundles, unix(0)) {
            Ok(peer) => assert!(accepted && peer.id().as_str() == id, "{id}"),
            Err(error) => {
                assert!(!accepted, "{id}: {error}");
                assert_eq!(error.reason(), "untrusted", "{id}: {error}");
            }
        }
    }
}

#[test]
fn a_chain_that_ends_elsewhere_is_refused() {
    let root = authority("td");
    let same_name = authority("td");
    let middle = intermediate(signer_params("intermediate"), &root);
    let leaf = sign(&leaf_params(ID), &middle);
    let good = [leaf.clone(), middle.der().clone()];
    assert!(check(&good, &[&root]).is_ok());
    assert!(
        check(
            &[leaf.clone(), middle.der().clone(), root.der().clone()],
            &[&root]
        )
        .is_ok(),
        "a root sent along does no harm"
    );
    let mut bad_signature = leaf.to_vec();
    *bad_signature.last_mut().unwrap() ^= 1;
    let signer = intermediate(leaf_params("spiffe://td/x"), &root);
    let cases: &[(&str, Vec<CertificateDer<'_>>)] = &[
        ("missing intermediate", vec![leaf.clone()]),
        (
            "wrong signature",
            vec![bad_signature.into(), middle.der().clone()],
        ),
        (
            "the peer's own root",
            vec![sign(&leaf_params(ID), &same_name), same_name.der().clone()],
        ),
        (
            "a leaf that signs",
            vec![sign(&leaf_params(ID), &signer), signer.der().clone()],
        ),
        (
            "an intermediate that does not parse",
            vec![leaf.clone(), middle.der().clone(), vec![0x30, 0].into()],
        ),
    ];
    for (what, chain) in cases {
        let error = check(chain, &[&root]).expect_err(what);
        assert_eq!(error.reason(), "untrusted", "{what}: {error}");
    }
    assert_eq!(
        check(&good, &[]).unwrap_err().reason(),
        "untrusted",
        "an empty bundle trusts nobody"
    );
}

#[test]
fn a_change_of_roots_is_survived_with_either_root() {
    let (old, new) = (authority("td"), authority("td"));
    let key = KeyPair::generate().unwrap();
    let params = signer_params("intermediate");
    let cross = params.signed_by(&key, &new).unwrap().der().clone();
    let middle = CertifiedIssuer::signed_by(params, key, &old).unwrap();
    let leaf = sign(&leaf_params(ID), &middle);
    let chain = [leaf, middle.der().clone(), cross];
    for roots in [&[&old][..], &[&new], &[&old, &new]] {
        assert!(check(&chain, roots).is_ok());
    }
}

#[test]
fn a_renewed_root_counts_beside_its_expired_predecessor() {
    let key = KeyPair::generate().unwrap();
    let mut params = signer_params("root");
    params.not_after = at(-1);
    params.is_ca = limit(0);
    let expired = params.self_signed(&key).unwrap().der().clone();
    let renewed = CertifiedIssuer::self_signed(signer_params("root"), key).unwrap();
    let middle = intermediate(signer_params("intermediate"), &renewed);
    let chain = [sign(&leaf_params(ID), &middle), middle.der().clone()];
    let domain = crate::TrustDomain::new("td").unwrap();
    let roots = vec![expired, renewed.der().clone()];
    let mut bundles = TrustBundles::default();
    bundles
        .insert(TrustBundle::new(domain, roots, 1).unwrap())
        .unwrap();
    assert!(verify(&chain, Usage::Client, &bundles, unix(0)).is_ok());
}

#[test]
fn a_root_for_some_namespaces_vouches_for_no_other_identity() {
    let (own, theirs) = (authority("td"), authority("theirs"));
    let domain = crate::TrustDomain::new("td").unwrap();
    let [own_root, their_root] = [&own, &theirs].map(|root| root.der().clone());
    let with = |namespaces: &[&str]| {
        let named: Vec<String> = namespaces.iter().map(|n| (*n).to_owned()).collect();
        let bundle = TrustBundle::new(domain.clone(), vec![own_root.clone()], 1).unwrap();
        let more = vec![their_root.clone(), own_root.clone()];
        bundle.with_workload_roots(more, &named).unwrap()
    };
    let believes = |namespaces: &[&str], id: &str, issuer: &Issuer| {
        let mut bundles = TrustBundles::default();
        bundles.insert(with(namespaces)).unwrap();
        let chain = [sign(&leaf_params(id), issuer)];
        verify(&chain, Usage::Client, &bundles, unix(0)).map(drop)
    };
    let cases = [
        (ID, &theirs, true),
        ("spiffe://td/ns/b/sa/b", &theirs, true),
        ("spiffe://td/ns/c/sa/b", &theirs, false),
        ("spiffe://td/ns/a/b/sa/b", &theirs, false),
        ("spiffe://td/control-api", &theirs, false),
        // What is a root without bounds stays one, named among the others or not.
        ("spiffe://td/ns/c/sa/b", &own, true),
        ("spiffe://td/control-api", &own, true),
    ];
    for (id, issuer, expected) in cases {
        let found = believes(&["a", "b"], id, issuer);
        assert_eq!(found.is_ok(), expected, "{id}: {found:?}");
        assert!(believes(&["*"], id, issuer).is_ok(), "{id}: anybody");
        let is_own = std::ptr::eq(issuer, &own);
        assert_eq!(believes(&[], id, issuer).is_ok(), is_own, "{id}: nobody");
        if let Err(error) = found {
            let text = error.to_string();
            assert!(text.contains("other namespaces"), "{text}");
        }
    }
    assert!(with(&["a"]).trusts_like(&with(&["a"])));
    assert!(!with(&["a"]).trusts_like(&with(&["a", "b"])));
    assert!(!with(&["a"]).trusts_like(&with(&[])));
}

/// T10: seven intermediates that could each have signed each other: thousands of orders to try.
#[test]
fn a_fan_out_of_same_named_intermediates_is_refused_before_the_search() {
    let root = authority("td");
    let stranger = crate::testing::root(signer_params("loop"));
    let leaf = sign(&leaf_params(ID), &stranger);
    for (count, reason) in [
        (2, "untrusted"),
        (3, "chain_ambiguous"),
        (7, "chain_ambiguous"),
    ] {
        let mut chain = vec![leaf.clone()];
        for _ in 0..count {
            chain.push(sign(&signer_params("loop"), &stranger));
        }
        assert_eq!(
            check(&chain, &[&root]).unwrap_err().reason(),
            reason,
            "{count}"
        );
    }
}

/// T10: the widest fan-out that is searched: three names, two certificates each, in a ring.
#[test]
fn the_widest_fan_out_that_is_searched_ends_in_a_refusal() {
    let root = authority("td");
    let names = ["a", "b", "c"];
    let issuers: Vec<_> = names
        .iter()
        .map(|name| crate::testing::root(signer_params(name)))
        .collect();
    let mut chain = vec![sign(&leaf_params(ID), &issuers[0])];
    for (i, name) in names.iter().enumerate() {
        for _ in 0..2 {
            chain.push(sign(&signer_params(name), &issuers[(i + 1) % 3]));
        }
    }
    assert_eq!(check(&chain, &[&root]).unwrap_err().reason(), "untrusted");
}
