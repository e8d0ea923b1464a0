//! `CertificateVerify` by keys that come again and by those that do not: one verdict and one error.

use rustls::client::danger::ServerCertVerifier;
use rustls::internal::msgs::codec::Codec as _;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::*;
use crate::tls::verifier::Verifier;

fn trusting(mesh: &Mesh) -> Trust {
    let bundles = Arc::clone(&mesh.bundles);
    Trust {
        chains: Arc::new(VerifiedChains::new(bundles, Arc::default())),
        ..Trust::default()
    }
}

fn verifier(trust: Trust) -> Verifier {
    Verifier {
        trust,
        expected: None,
        mandatory: true,
    }
}

fn signed(scheme: SignatureScheme, signature: &[u8]) -> DigitallySignedStruct {
    let length = u16::try_from(signature.len()).unwrap();
    let bytes = [
        &u16::from(scheme).to_be_bytes(),
        &length.to_be_bytes(),
        signature,
    ];
    DigitallySignedStruct::read_bytes(&bytes.concat()).unwrap()
}

#[test]
fn peers_of_both_directions_are_prepared_once_they_came_often() {
    let mesh = Mesh::new();
    let (at_server, at_client) = (trusting(&mesh), trusting(&mesh));
    let expected = [SpiffeId::parse(ORDERS).unwrap()];
    for round in 1..6 {
        let server = server_config(
            &mesh.orders,
            at_server.clone(),
            ClientAuth::Required,
            &[b"h2"],
        );
        let client = client_config(Some(&mesh.web), at_client.clone(), &expected, &[b"h2"]);
        handshake(&client.unwrap(), &server.unwrap()).unwrap();
        let prepared = usize::from(round >= 3);
        assert_eq!(at_server.chains.keys().held(), prepared, "round {round}");
        assert_eq!(at_client.chains.keys().held(), prepared, "round {round}");
    }
    // Whoever has the certificate and not the key is told what he was told before.
    let stolen = unchecked(mesh.web.chain().to_vec(), &KeyPair::generate().unwrap());
    let server = server_config(&mesh.orders, at_server, ClientAuth::Required, &[b"h2"]);
    let known = refused(&mesh.client(Some(&stolen), &[ORDERS]), &server.unwrap());
    let unknown = refused(
        &mesh.client(Some(&stolen), &[ORDERS]),
        &mesh.server(&mesh.orders, ClientAuth::Required),
    );
    assert_eq!(known, unknown);
    assert!(known.contains("BadSignature"), "{known}");
}

#[test]
fn a_prepared_key_changes_no_verdict_and_no_error() {
    let mesh = Mesh::new();
    let key = KeyPair::generate().unwrap();
    let other = KeyPair::generate().unwrap();
    let leaf = leaf_params(WEB).signed_by(&key, &mesh.root).unwrap();
    let other_leaf = leaf_params(WEB).signed_by(&other, &mesh.root).unwrap();
    let trust = trusting(&mesh);
    trust
        .chains
        .keys()
        .prepare(leaf.der(), key.public_key_raw());
    let prepared = verifier(trust.clone());
    let unprepared = verifier(trusting(&mesh));
    let check = |message: &[u8], leaf: &CertificateDer<'_>, signed: &DigitallySignedStruct| {
        let verdict = |verifier: &Verifier| {
            let client =
                ClientCertVerifier::verify_tls13_signature(verifier, message, leaf, signed);
            let server =
                ServerCertVerifier::verify_tls13_signature(verifier, message, leaf, signed);
            assert_eq!(client.is_ok(), server.is_ok());
            assert_eq!(client.as_ref().err(), server.err().as_ref());
            client.map(|_| ())
        };
        let told = verdict(&prepared);
        assert_eq!(told, verdict(&unprepared));
        told
    };
    let message = b"what was said";
    let sign = |key: &KeyPair| rcgen::SigningKey::sign(key, message).unwrap();
    let p256 = SignatureScheme::ECDSA_NISTP256_SHA256;
    let good = sign(&key);
    assert_eq!(check(message, leaf.der(), &signed(p256, &good)), Ok(()));
    let bad = Err(CertificateError::BadSignature.into());
    assert_eq!(
        check(b"what was not", leaf.der(), &signed(p256, &good)),
        bad
    );
    assert_eq!(
        check(message, leaf.der(), &signed(p256, &sign(&other))),
        bad
    );
    assert_eq!(check(message, other_leaf.der(), &signed(p256, &good)), bad);
    let others = signed(p256, &sign(&other));
    assert_eq!(check(message, other_leaf.der(), &others), Ok(()));
    for (at, change) in (0..good.len()).flat_map(|at| [1, 0x80, 0xff].map(|change| (at, change))) {
        let mut wrong = good.clone();
        wrong[at] ^= change;
        assert_eq!(check(message, leaf.der(), &signed(p256, &wrong)), bad);
    }
    for length in 0..good.len() {
        let cut = signed(p256, &good[..length]);
        assert_eq!(check(message, leaf.der(), &cut), bad);
    }
    // The scheme is the peer's to name, and that of another key or of none in TLS 1.3 is refused.
    for scheme in [
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::ECDSA_SHA1_Legacy,
        SignatureScheme::Unknown(0x0403 + 0x4000),
    ] {
        let told = check(message, leaf.der(), &signed(scheme, &good));
        assert!(told.is_err(), "{scheme:?}");
    }
    assert_eq!(trust.chains.keys().held(), 1);
}
