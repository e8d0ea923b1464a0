use std::os::unix::fs::PermissionsExt as _;

use mesh_auth::svid::{Usage, VerifiedPeer};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
};
use x509_parser::extensions::ParsedExtension;

use super::*;

const NOW: i64 = 1_790_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

fn domain() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

fn authority() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), &domain(), None, None, NOW).unwrap();
    (dir, authority)
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://td/ns/a/sa/b").unwrap()
}

fn request() -> RequestedKey {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    RequestedKey::parse(params.serialize_request(&key).unwrap().der()).unwrap()
}

fn verify(
    authority: &Authority,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    at: i64,
) -> Result<VerifiedPeer, svid::SvidError> {
    let mut bundles = TrustBundles::default();
    bundles.insert(authority.bundle(0).unwrap()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap()));
    svid::verify(chain, usage, &bundles, at)
}

/// A chain of an operator: leaf-signing certificate first, then what is above it, and the signing key.
fn own_chain(dir: &Path, change: impl Fn(&mut CertificateParams)) -> (PathBuf, PathBuf) {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root_params = ca("own root");
    let root = root_params.self_signed(&root_key).unwrap();
    let mut params = ca("own intermediate");
    change(&mut params);
    let intermediate = params
        .signed_by(&key, &Issuer::new(root_params, root_key))
        .unwrap();
    let (certificate, key_file) = (dir.join("own.pem"), dir.join("own.key"));
    std::fs::write(&certificate, intermediate.pem() + &root.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (certificate, key_file)
}

#[test]
fn a_signed_certificate_is_an_svid_and_holds_nothing_else() {
    let (_dir, authority) = authority();
    let (key, serial) = (request(), Serial::random().unwrap());
    let issued = authority.sign(&key, &id(), HOUR, &serial, NOW).unwrap();
    for usage in [Usage::Client, Usage::Server] {
        let peer = verify(&authority, &issued.chain, usage, NOW).unwrap();
        assert_eq!(peer.id(), &id());
        assert_eq!(hex(peer.serial()), issued.serial);
        assert_eq!(
            (peer.not_before(), peer.not_after()),
            (NOW - 300, NOW + 3_600)
        );
    }
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert!(leaf.subject().iter_rdn().next().is_none());
    assert_eq!(leaf.public_key().raw, key.info.subject_public_key_info());
    let mut found: Vec<_> = leaf
        .extensions()
        .iter()
        .map(|e| (e.oid.to_id_string(), e.critical))
        .collect();
    found.sort();
    let expected = [
        ("2.5.29.14", false), // subject key identifier
        ("2.5.29.15", true),  // key usage
        ("2.5.29.17", true),  // subject alternative name: the subject is empty
        ("2.5.29.19", true),  // basic constraints
        ("2.5.29.35", false), // authority key identifier
        ("2.5.29.37", false), // extended key usage
    ];
    let expected: Vec<_> = expected.map(|(oid, c)| (oid.to_owned(), c)).into();
    assert_eq!(found, expected);
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => {
                assert_eq!(usage.flags, 1, "digitalSignature alone");
            }
            ParsedExtension::BasicConstraints(constraints) => assert!(!constraints.ca),
            ParsedExtension::SubjectAlternativeName(names) => {
                assert_eq!(names.general_names.len(), 1);
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(
                    usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty()
                );
            }
            _ => {}
        }
    }
}

#[test]
fn a_certificate_ends_with_what_signs_it() {
    let (_dir, authority) = authority();
    let late = authority.not_after() - 60;
    let issued = authority
        .sign(&request(), &id(), HOUR, &Serial::random().unwrap(), late)
        .unwrap();
    assert_eq!(issued.not_after, authority.not_after());
    let after = authority.sign(
        &request(),
        &id(),
        HOUR,
        &Serial::random().unwrap(),
        authority.not_after(),
    );
    assert!(matches!(after, Err(CaError::Expired)));
    let longest = authority.sign(
        &request(),
        &id(),
        Duration::MAX,
        &Serial::random().unwrap(),
        NOW,
    );
    assert_eq!(longest.unwrap().not_after, authority.not_after());
}

#[test]
fn serials_are_positive_and_of_twenty_octets() {
    for _ in 0..2_000 {
        let serial = Serial::random().unwrap();
        assert!((1..0x80).contains(&serial.as_bytes()[0]));
    }
}

#[test]
fn the_authority_survives_a_restart_and_its_key_is_its_owners_alone() {
    let (dir, authority) = authority();
    let again = Authority::open(
        dir.path(),
        &domain(),
        None,
        Some(&authority.root_sha256()),
        NOW,
    );
    assert_eq!(again.unwrap().root(), authority.root());
    let mode = std::fs::metadata(dir.path().join("ca.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_operators_intermediate_signs_and_is_sent_along() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = own_chain(dir.path(), |_| ());
    let data = dir.path().join("data");
    files::make_dir(&data).unwrap();
    let own = Some((certificate.as_path(), key.as_path()));
    let authority = Authority::open(&data, &domain(), own, None, NOW).unwrap();
    let issued = authority
        .sign(&request(), &id(), HOUR, &Serial::random().unwrap(), NOW)
        .unwrap();
    assert_eq!(issued.chain.len(), 2);
    verify(&authority, &issued.chain, Usage::Client, NOW).unwrap();
    // Taken over: the next start needs the files no longer.
    let again = Authority::open(&data, &domain(), None, Some(&authority.root_sha256()), NOW);
    assert_eq!(again.unwrap().root(), authority.root());
}

#[test]
fn an_authority_that_cannot_work_is_refused_at_the_start() {
    type Break = fn(&mut CertificateParams);
    let cases: [(&str, Break, i64, &str); 5] = [
        (
            "no CA",
            |p| p.is_ca = IsCa::ExplicitNoCa,
            NOW,
            "would be refused",
        ),
        (
            "may not sign",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            NOW,
            "would be refused",
        ),
        (
            "other domain",
            |p| {
                p.subject_alt_names =
                    vec![rcgen::SanType::URI("spiffe://other".try_into().unwrap())];
            },
            NOW,
            "would be refused",
        ),
        (
            "constrained",
            |p| {
                p.name_constraints = Some(rcgen::NameConstraints {
                    permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example".into())],
                    excluded_subtrees: vec![rcgen::GeneralSubtree::DirectoryName(
                        DistinguishedName::new(),
                    )],
                });
            },
            NOW,
            "would be refused",
        ),
        (
            "expired",
            |p| p.not_after = time::OffsetDateTime::from_unix_timestamp(NOW - 1).unwrap(),
            NOW,
            "expired",
        ),
    ];
    for (name, change, now, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = own_chain(dir.path(), change);
        let own = Some((certificate.as_path(), key.as_path()));
        match Authority::open(dir.path(), &domain(), own, None, now) {
            Ok(_) if name == "constrained" => {} // A constraint on other kinds of names does not concern URIs.
            Ok(_) => panic!("{name} was taken"),
            Err(error) => assert!(error.to_string().contains(expected), "{name}: {error}"),
        }
        assert!(
            !dir.path().join("ca.pem").exists() || name == "constrained",
            "{name}: nothing is taken over"
        );
    }
}

#[test]
fn files_that_are_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = own_chain(dir.path(), |_| ());
    let (other_dir, garbage) = (tempfile::tempdir().unwrap(), dir.path().join("garbage"));
    let (_, other_key) = own_chain(other_dir.path(), |_| ());
    std::fs::write(&garbage, "-----BEGIN NOTHING-----").unwrap();
    let missing = dir.path().join("missing");
    for (certificate, key, names, says) in [
        (&missing, &key, &missing, "cannot read"),
        (&certificate, &missing, &missing, "cannot read"),
        (&garbage, &key, &garbage, "PEM"),
        (&certificate, &garbage, &garbage, "private key"),
        (&certificate, &other_key, &other_key, "does not belong"),
    ] {
        let own = Some((certificate.as_path(), key.as_path()));
        let Err(error) = Authority::open(other_dir.path(), &domain(), own, None, NOW) else {
            panic!("{} and {}", certificate.display(), key.display());
        };
        let text = error.to_string();
        assert!(
            text.contains(&names.display().to_string()) && text.contains(says),
            "{text}"
        );
    }
}

#[test]
fn half_an_authority_is_restored_by_people_once_peers_trust_it_and_made_anew_before() {
    for lost in ["ca.pem", "ca.key"] {
        let (dir, authority) = authority();
        std::fs::remove_file(dir.path().join(lost)).unwrap();
        let Err(error) = Authority::open(
            dir.path(),
            &domain(),
            None,
            Some(&authority.root_sha256()),
            NOW,
        ) else {
            panic!("{lost}");
        };
        assert!(error.to_string().contains(lost), "{error}");
    }
    // Killed between the two files of the first start.
    let (dir, _) = authority();
    std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
    Authority::open(dir.path(), &domain(), None, None, NOW).unwrap();
}

#[test]
fn another_root_is_refused_once_peers_trust_one() {
    let (dir, authority) = authority();
    let other = tempfile::tempdir().unwrap();
    let (certificate, key) = own_chain(other.path(), |_| ());
    let own = Some((certificate.as_path(), key.as_path()));
    let Err(error) = Authority::open(
        dir.path(),
        &domain(),
        own,
        Some(&authority.root_sha256()),
        NOW,
    ) else {
        panic!("another root was taken");
    };
    assert!(error.to_string().contains("another root"), "{error}");
    let again = Authority::open(
        dir.path(),
        &domain(),
        None,
        Some(&authority.root_sha256()),
        NOW,
    );
    assert_eq!(
        again.unwrap().root(),
        authority.root(),
        "nothing was taken over"
    );
}
