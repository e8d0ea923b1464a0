//! Real handshakes, in memory, at a fixed time.

use mesh_proto::mesh::revocation::Subject;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};
use rustls_pki_types::UnixTime;

use super::*;
use crate::bundle::TrustBundles;
use crate::revocation::{Entry, Revocations};
use crate::svid::VerifiedChains;
use crate::testing::*;

mod possession;
mod resumption;

const WEB: &str = "spiffe://td/ns/a/sa/web";
const ORDERS: &str = "spiffe://td/ns/a/sa/orders";

#[derive(Debug)]
struct Fixed;

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(0))
    }
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

fn identity(id: &str, issuer: &Issuer) -> Identity {
    let key = KeyPair::generate().unwrap();
    let leaf = leaf_params(id).signed_by(&key, issuer).unwrap();
    Identity::new(vec![leaf.der().clone()], private(&key)).unwrap()
}

/// What an attacker presents: any leaf, which [`Identity::new`] would refuse.
fn forged(change: Change, issuer: &Issuer) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params(WEB);
    change(&mut params);
    let leaf = params.signed_by(&key, issuer).unwrap();
    unchecked(vec![leaf.der().clone()], &key)
}

fn unchecked(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Identity {
    let signing = sign::any_supported_type(&private(key)).unwrap();
    Identity {
        key: Arc::new(CertifiedKey::new(chain, signing)),
        id: SpiffeId::parse(WEB).unwrap(),
        not_before: 0,
        not_after: 0,
        serial: vec![1],
    }
}

/// One mesh: a root, two workloads, and their configurations.
struct Mesh {
    root: Issuer,
    bundles: Arc<TrustBundles>,
    web: Identity,
    orders: Identity,
}

impl Mesh {
    fn new() -> Self {
        let root = authority("td");
        Self {
            bundles: Arc::new(bundles(&[("td", &root)])),
            web: identity(WEB, &root),
            orders: identity(ORDERS, &root),
            root,
        }
    }

    fn server(&self, identity: &Identity, clients: ClientAuth) -> Arc<ServerConfig> {
        server_config(identity, Arc::clone(&self.bundles), clients, &[b"h2"]).unwrap()
    }

    fn client(&self, identity: Option<&Identity>, expected: &[&str]) -> Arc<ClientConfig> {
        let expected: Vec<_> = expected
            .iter()
            .map(|id| SpiffeId::parse(id).unwrap())
            .collect();
        client_config(identity, Arc::clone(&self.bundles), &expected, &[b"h2"]).unwrap()
    }
}

struct Session {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs a handshake; an error says who raised it.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Session, String> {
    let (mut client, mut server) = (ClientConfig::clone(client), ServerConfig::clone(server));
    (client.time_provider, server.time_provider) = (Arc::new(Fixed), Arc::new(Fixed));
    let mut session = Session {
        client: ClientConnection::new(Arc::new(client), server_name()).unwrap(),
        server: ServerConnection::new(Arc::new(server)).unwrap(),
    };
    let Session { client, server } = &mut session;
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server
                .process_new_packets()
                .map_err(|e| format!("server: {e}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client
                .process_new_packets()
                .map_err(|e| format!("client: {e}"))?;
        }
    }
    assert!(!session.client.is_handshaking() && !session.server.is_handshaking());
    Ok(session)
}

fn refused(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> String {
    match handshake(client, server) {
        Ok(_) => panic!("the handshake succeeded"),
        Err(error) => error,
    }
}

#[test]
fn two_workloads_of_one_mesh_meet_over_tls13_with_the_hybrid_group() {
    let mesh = Mesh::new();
    let client = mesh.client(Some(&mesh.web), &[ORDERS]);
    let server = mesh.server(&mesh.orders, ClientAuth::Required);
    // The second one is as full as the first: nothing is resumed.
    for _ in 0..2 {
        let session = handshake(&client, &server).unwrap();
        assert_eq!(peer_of(&session.server).unwrap().id().as_str(), WEB);
        assert_eq!(peer_of(&session.client).unwrap().id().as_str(), ORDERS);
        assert_eq!(session.server.server_name(), None, "no SNI");
        for side in [
            &session.client as &CommonState,
            &session.server as &CommonState,
        ] {
            let group = side
                .negotiated_key_exchange_group()
                .map(rustls::crypto::SupportedKxGroup::name);
            assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
            assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(side.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(side.handshake_kind(), Some(HandshakeKind::Full));
        }
        assert_eq!(session.client.tls13_tickets_received(), 0);
    }
    assert_eq!(
        (server.max_early_data_size, server.send_tls13_tickets),
        (0, 0)
    );
    assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
    assert!(!client.enable_early_data && !client.enable_sni);
}

#[test]
fn a_peer_without_the_hybrid_group_is_met_with_x25519() {
    let mesh = Mesh::new();
    let server = mesh.server(&mesh.orders, ClientAuth::Required);
    let mut provider = CryptoProvider::clone(&provider());
    provider.kx_groups = vec![crypto::kx_group::X25519];
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            trust: Arc::clone(&mesh.bundles).into(),
            expected: None,
            mandatory: true,
        }))
        .with_client_cert_resolver(Arc::new(Single(Arc::clone(&mesh.web.key))));
    client.alpn_protocols = vec![b"h2".to_vec()];
    let session = handshake(&Arc::new(client), &server).unwrap();
    let group = session.server.negotiated_key_exchange_group();
    assert_eq!(
        group.map(rustls::crypto::SupportedKxGroup::name),
        Some(rustls::NamedGroup::X25519)
    );
}

#[test]
fn keys_of_other_kinds_authenticate_too() {
    let mesh = Mesh::new();
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = leaf_params(WEB).signed_by(&key, &mesh.root).unwrap();
        let web = Identity::new(vec![leaf.der().clone()], private(&key)).unwrap();
        let client = mesh.client(Some(&web), &[ORDERS]);
        let server = mesh.server(&mesh.orders, ClientAuth::Required);
        handshake(&client, &server).unwrap();
    }
}

#[test]
fn a_server_with_another_identity_is_refused_by_the_client() {
    const PAYMENTS: &str = "spiffe://td/ns/a/sa/payments";
    let mesh = Mesh::new();
    let server = mesh.server(&mesh.orders, ClientAuth::Required);
    let cases: &[(&[&str], Option<&str>)] = &[
        (&[PAYMENTS, ORDERS], None),
        (
            &[PAYMENTS],
            Some(
                "the peer is 'spiffe://td/ns/a/sa/orders', expected 'spiffe://td/ns/a/sa/payments'",
            ),
        ),
        (
            &["spiffe://td/ns/a/sa/order"],
            Some("expected 'spiffe://td/ns/a/sa/order'"),
        ),
        (
            &[PAYMENTS, WEB],
            Some("expected 'spiffe://td/ns/a/sa/payments' or 'spiffe://td/ns/a/sa/web'"),
        ),
        (&[], Some("expected nobody")),
    ];
    for (expected, error) in cases {
        let client = mesh.client(Some(&mesh.web), expected);
        match error {
            None => assert!(handshake(&client, &server).is_ok(), "{expected:?}"),
            Some(error) => {
                let text = refused(&client, &server);
                assert!(
                    text.starts_with("client: ") && text.contains(error),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn what_breaks_a_rule_is_refused_in_both_directions_and_the_error_says_why() {
    let cases: &[(&str, Change, &str)] = &[
        (
            "expired",
            |p| p.not_after = at(-7380),
            "the leaf certificate expired 2h 3m ago; check clocks and renewal",
        ),
        (
            "not valid yet",
            |p| p.not_before = at(7380),
            "the leaf certificate starts in 2h 3m; check clocks",
        ),
        (
            "two URI SANs",
            |p| p.subject_alt_names.push(uri(ORDERS)),
            "the leaf certificate has 2 URI SANs",
        ),
        (
            "no URI SAN",
            |p| p.subject_alt_names.clear(),
            "the leaf certificate has 0 URI SANs",
        ),
        (
            "an unknown trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://evil/ns/a/sa/web")],
            "no trust bundle is held for trust domain 'evil'",
        ),
        (
            "control characters",
            |p| p.subject_alt_names = vec![uri("spiffe://td/a\r\nx")],
            "'spiffe://td/a\\r\\nx' is not a SPIFFE ID",
        ),
        (
            "a signing certificate",
            |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.push(KeyUsagePurpose::KeyCertSign);
            },
            "signing certificates do not authenticate",
        ),
        (
            "clientAuth only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "must have both serverAuth and clientAuth",
        ),
        (
            "serverAuth only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "must have both serverAuth and clientAuth",
        ),
    ];
    let mesh = Mesh::new();
    for (what, change, sentence) in cases {
        let intruder = forged(*change, &mesh.root);
        for clients in [ClientAuth::Required, ClientAuth::Optional] {
            let text = refused(
                &mesh.client(Some(&intruder), &[ORDERS]),
                &mesh.server(&mesh.orders, clients),
            );
            assert!(
                text.starts_with("server: ") && text.contains(sentence),
                "{what}: {text}"
            );
        }
        let text = refused(
            &mesh.client(Some(&mesh.web), &[WEB]),
            &mesh.server(&intruder, ClientAuth::Required),
        );
        assert!(
            text.starts_with("client: ") && text.contains(sentence),
            "{what}: {text}"
        );
        assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
    }
}

#[test]
fn an_impostor_with_another_root_or_another_key_is_refused() {
    let mesh = Mesh::new();
    let rogue = authority("td");
    let server = mesh.server(&mesh.orders, ClientAuth::Required);
    let same_name = identity(WEB, &rogue);
    let text = refused(&mesh.client(Some(&same_name), &[ORDERS]), &server);
    assert!(
        text.contains("does not lead to a trusted root of 'td'"),
        "{text}"
    );
    // Web's certificate, which anybody has seen, without web's key.
    let stolen = unchecked(mesh.web.chain().to_vec(), &KeyPair::generate().unwrap());
    let text = refused(&mesh.client(Some(&stolen), &[ORDERS]), &server);
    assert!(
        text.starts_with("server: ") && text.contains("BadSignature"),
        "{text}"
    );
}

#[test]
fn a_known_chain_still_has_to_prove_its_key_and_not_to_be_revoked() {
    let mesh = Mesh::new();
    let chains = Arc::new(VerifiedChains::new(
        Arc::clone(&mesh.bundles),
        Arc::default(),
    ));
    let trusting = |entries: &[Entry]| {
        let trust = Trust {
            chains: Arc::clone(&chains),
            revocations: Arc::new(Revocations::new(entries.iter().cloned())),
        };
        server_config(&mesh.orders, trust, ClientAuth::Required, &[b"h2"]).unwrap()
    };
    let client = mesh.client(Some(&mesh.web), &[ORDERS]);
    for hits in 0..3 {
        handshake(&client, &trusting(&[])).unwrap();
        assert_eq!((chains.tally().hits(), chains.tally().misses()), (hits, 1));
    }
    let stolen = unchecked(mesh.web.chain().to_vec(), &KeyPair::generate().unwrap());
    let text = refused(&mesh.client(Some(&stolen), &[ORDERS]), &trusting(&[]));
    assert!(
        text.starts_with("server: ") && text.contains("BadSignature"),
        "{text}"
    );
    let revoked = Entry::parse(&mesh_proto::mesh::Revocation {
        name: "lost".into(),
        subject: Some(Subject::SpiffeId(WEB.into())),
        ..Default::default()
    })
    .unwrap();
    let text = refused(&client, &trusting(&[revoked]));
    assert!(
        text.starts_with("server: ") && text.contains("'lost'"),
        "{text}"
    );
    assert_eq!(chains.tally().misses(), 1, "known all along");
}

#[test]
fn the_reason_of_a_refusal_is_found_in_the_error_of_a_handshake() {
    let mesh = Mesh::new();
    let intruder = forged(|p| p.not_after = at(-1), &mesh.root);
    let verifier = Verifier {
        trust: Arc::clone(&mesh.bundles).into(),
        expected: None,
        mandatory: true,
    };
    use rustls::server::danger::ClientCertVerifier as _;
    let error = verifier
        .verify_client_cert(&intruder.chain()[0], &[], unix(0))
        .unwrap_err();
    let expired = SvidError::Expired {
        which: "leaf",
        seconds: 1,
    };
    assert_eq!(refusal(&error), Some(&expired));
    let carried = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    assert_eq!(refusal(&carried), Some(&expired));
    assert_eq!(refusal(&std::io::Error::other("x")), None);
    assert_eq!(refusal(&rustls::Error::HandshakeNotComplete), None);
}

#[test]
fn a_federated_trust_domain_is_met_with_its_own_roots() {
    let (own, other) = (authority("td"), authority("other"));
    let both = Arc::new(bundles(&[("td", &own), ("other", &other)]));
    let (web, partner) = (identity(WEB, &own), identity("spiffe://other/x", &other));
    let server = server_config(&web, Arc::clone(&both), ClientAuth::Required, &[b"h2"]).unwrap();
    let expected = [web.id().clone()];
    let client = client_config(Some(&partner), both, &expected, &[b"h2"]).unwrap();
    let session = handshake(&client, &server).unwrap();
    assert_eq!(
        peer_of(&session.server).unwrap().id().as_str(),
        "spiffe://other/x"
    );
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let mesh = Mesh::new();
    let client = mesh.client(None, &[ORDERS]);
    let text = refused(&client, &mesh.server(&mesh.orders, ClientAuth::Required));
    assert_eq!(text, "server: peer sent no certificates");
    let session = handshake(&client, &mesh.server(&mesh.orders, ClientAuth::Optional)).unwrap();
    let error = peer_of(&session.server).unwrap_err();
    assert_eq!(error.reason(), "certificate_missing");
    assert_eq!(error.to_string(), "the peer presented no certificate");
}

#[test]
fn another_application_protocol_is_refused() {
    let mesh = Mesh::new();
    let expected = [mesh.orders.id().clone()];
    let client = client_config(
        Some(&mesh.web),
        Arc::clone(&mesh.bundles),
        &expected,
        &[b"http/1.1"],
    )
    .unwrap();
    let text = refused(&client, &mesh.server(&mesh.orders, ClientAuth::Required));
    assert!(
        text.starts_with("server: ") && text.contains("known protocol"),
        "{text}"
    );
}

#[test]
fn a_hello_of_tls12_is_refused() {
    let mesh = Mesh::new();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, ECDHE-RSA-AES128-GCM-SHA256, no compression, no extensions.
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &body[..]].concat();
    let config = mesh.server(&mesh.orders, ClientAuth::Required);
    let mut server = ServerConnection::new(config).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(
        matches!(error, rustls::Error::PeerIncompatible(_)),
        "{error}"
    );
}

#[test]
fn an_identity_is_a_leaf_with_its_own_key() {
    let root = authority("td");
    let key = KeyPair::generate().unwrap();
    let leaf = leaf_params(WEB).signed_by(&key, &root).unwrap();
    let chain = vec![leaf.der().clone()];
    let good = Identity::new(chain.clone(), private(&key)).unwrap();
    assert_eq!((good.id().as_str(), good.chain()), (WEB, &chain[..]));
    assert_eq!(good.not_after() - good.not_before(), 3900);
    assert!(
        !format!("{good:?}").contains("key"),
        "no key material is shown"
    );

    let other = KeyPair::generate().unwrap();
    let error = Identity::new(chain.clone(), private(&other)).unwrap_err();
    assert!(matches!(error, IdentityError::Key(_)), "{error}");
    let garbage = PrivateKeyDer::Pkcs8(vec![1, 2, 3].into());
    let error = Identity::new(chain.clone(), garbage).unwrap_err();
    assert!(matches!(error, IdentityError::Key(_)), "{error}");
    let refused = [
        (vec![], "certificate_missing"),
        (vec![chain[0].clone(); 9], "chain_too_large"),
        (vec![root.der().clone()], "ca_leaf"),
    ];
    for (chain, reason) in refused {
        match Identity::new(chain, private(&key)) {
            Err(IdentityError::Svid(error)) => assert_eq!(error.reason(), reason),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn garbage_on_the_port_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
            let mesh = Mesh::new();
            mesh.server(&mesh.orders, ClientAuth::Required)
        });
        let mut server = ServerConnection::new(Arc::clone(&CONFIG)).unwrap();
        let mut input = bytes.as_slice();
        while !input.is_empty() && server.read_tls(&mut input).is_ok() {
            if server.process_new_packets().is_err() {
                break;
            }
        }
        prop_assert!(server.is_handshaking());
        prop_assert!(peer_of(&server).is_err());
    }
}
