//! Which connections are resumed, and that none is whose peer would not be let in by a full handshake.

use std::sync::atomic::{AtomicI64, Ordering};

use rustls::server::ProducesTickets as _;

use super::*;
use crate::svid::{SvidError, Usage};

/// A clock that is set, in seconds from the time of the certificates.
#[derive(Debug, Default)]
struct Clock(AtomicI64);

impl Clock {
    fn set(&self, offset: i64) {
        self.0.store(offset, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0.load(Ordering::Relaxed)))
    }
}

struct Server {
    config: Arc<ServerConfig>,
    trust: Trust,
    clock: Arc<Clock>,
}

impl Server {
    fn new(identity: &Identity, trust: &Trust, alpn: &[&[u8]]) -> Self {
        let clock = Arc::<Clock>::default();
        let mut config = server(identity, trust.clone(), ClientAuth::Required, alpn).unwrap();
        give_tickets(
            &mut config,
            identity,
            trust.clone(),
            Arc::clone(&clock) as _,
        )
        .unwrap();
        Self {
            config: Arc::new(config),
            trust: trust.clone(),
            clock,
        }
    }

    fn of(mesh: &Mesh) -> Self {
        Self::new(&mesh.orders, &trust(mesh, &[]), &[b"h2"])
    }
}

struct Client {
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
    clock: Arc<Clock>,
}

impl Client {
    fn of(mesh: &Mesh) -> Self {
        let clock = Arc::<Clock>::default();
        let expected = [mesh.orders.id().clone()];
        let protocols: [&[u8]; 2] = [b"h2", b"other"];
        let mut config = client(Some(&mesh.web), trust(mesh, &[]), &expected, &protocols).unwrap();
        let sessions = keep_sessions(&mut config, &mesh.web, Arc::clone(&clock) as _);
        Self {
            config: Arc::new(config),
            sessions,
            clock,
        }
    }

    /// Connects, and says how; who the peers are is asked on both sides.
    fn connect(&self, server: &Server) -> Result<HandshakeKind, String> {
        self.connect_until(server, 3600)
    }

    /// The same with a server whose certificate is said to end then, seconds from the time of the certificates.
    fn connect_until(&self, server: &Server, end: i64) -> Result<HandshakeKind, String> {
        // A ticket comes after the client was told of the handshake; here it comes with it.
        let kind = match self.sessions.is_useful() {
            true => HandshakeKind::Resumed,
            false => {
                self.sessions.clear();
                HandshakeKind::Full
            }
        };
        self.sessions.shook_hands(kind, NOW.cast_signed() + end);
        let session = handshake(&self.config, &server.config)?;
        let web = server
            .trust
            .peer_of(&session.server, Usage::Client, unix(0));
        assert_eq!(web.map_err(|e| e.to_string())?.id().as_str(), WEB);
        let orders = server
            .trust
            .peer_of(&session.client, Usage::Server, unix(0));
        assert_eq!(orders.map_err(|e| e.to_string())?.id().as_str(), ORDERS);
        assert_eq!(
            session.client.handshake_kind(),
            session.server.handshake_kind()
        );
        session.server.handshake_kind().ok_or_else(|| "none".into())
    }
}

fn trust(mesh: &Mesh, entries: &[Entry]) -> Trust {
    let chains = VerifiedChains::new(Arc::clone(&mesh.bundles), Arc::default());
    Trust {
        chains: Arc::new(chains),
        revocations: Arc::new(Revocations::new(entries.iter().cloned())),
    }
}

fn revoked(id: &str) -> Entry {
    Entry::parse(&mesh_proto::mesh::Revocation {
        name: "lost".into(),
        subject: Some(Subject::SpiffeId(id.into())),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn a_client_that_comes_back_is_resumed_as_who_it_was() {
    let mesh = Mesh::new();
    let (client, server) = (Client::of(&mesh), Server::of(&mesh));
    assert_eq!(client.connect(&server), Ok(HandshakeKind::Full));
    for _ in 0..3 {
        assert!(client.sessions.is_useful());
        assert_eq!(client.connect(&server), Ok(HandshakeKind::Resumed));
    }
    let session = handshake(&client.config, &server.config).unwrap();
    assert_eq!(session.client.tls13_tickets_received(), 1);
    assert!(!session.client.is_early_data_accepted());
    assert_eq!(server.config.max_early_data_size, 0);
    let group = session.server.negotiated_key_exchange_group();
    let group = group.map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(
        group,
        Some(rustls::NamedGroup::X25519MLKEM768),
        "keys are agreed on anew"
    );
}

#[test]
fn whatever_changes_on_the_servers_side_makes_the_next_handshake_a_full_one() {
    let mesh = Mesh::new();
    let other_root = Arc::new(bundles(&[
        ("td", &mesh.root),
        ("other", &authority("other")),
    ]));
    let other_root = Trust {
        chains: Arc::new(VerifiedChains::new(other_root, Arc::default())),
        ..Trust::default()
    };
    let same = trust(&mesh, &[]);
    let cases = [
        (
            "another SVID",
            Server::new(&identity(ORDERS, &mesh.root), &same, &[b"h2"]),
        ),
        (
            "other bundles",
            Server::new(&mesh.orders, &other_root, &[b"h2"]),
        ),
        (
            "other revocations",
            Server::new(
                &mesh.orders,
                &trust(&mesh, &[revoked("spiffe://td/x")]),
                &[b"h2"],
            ),
        ),
        (
            "another listener",
            Server::new(&mesh.orders, &same, &[b"other"]),
        ),
        (
            "another sidecar, alike in everything",
            Server::new(&mesh.orders, &same, &[b"h2"]),
        ),
    ];
    for (what, after) in cases {
        let (client, before) = (
            Client::of(&mesh),
            Server::new(&mesh.orders, &same, &[b"h2"]),
        );
        assert_eq!(client.connect(&before), Ok(HandshakeKind::Full));
        assert_eq!(client.connect(&before), Ok(HandshakeKind::Resumed));
        assert_eq!(client.connect(&after), Ok(HandshakeKind::Full), "{what}");
        assert_eq!(client.connect(&after), Ok(HandshakeKind::Resumed), "{what}");
    }
}

#[test]
fn a_ticket_does_not_help_a_client_that_is_revoked() {
    let mesh = Mesh::new();
    let (client, before) = (Client::of(&mesh), Server::of(&mesh));
    client.connect(&before).unwrap();
    let after = Server::new(&mesh.orders, &trust(&mesh, &[revoked(WEB)]), &[b"h2"]);
    let text = client.connect(&after).unwrap_err();
    assert!(
        text.starts_with("server: ") && text.contains("'lost'"),
        "{text}"
    );
    // Even under the key that sealed it: the peer of the chain that it names is asked for again.
    client.connect(&before).unwrap();
    let mut tickets = tickets(&mesh);
    let ticket = tickets.encrypt(&session_of(&mesh)).unwrap();
    assert!(tickets.decrypt(&ticket).is_some());
    tickets.trust.revocations = trust(&mesh, &[revoked(WEB)]).revocations;
    assert!(tickets.decrypt(&ticket).is_none());
    assert!(tickets.encrypt(&session_of(&mesh)).is_none());
}

/// Of a server that has met web.
fn tickets(mesh: &Mesh) -> Tickets {
    let trust = trust(mesh, &[]);
    let web = mesh.web.chain();
    let verified = trust.verify(&web[0], &web[1..], Usage::Client, unix(0));
    assert_eq!(verified.unwrap().id().as_str(), WEB);
    Tickets::new(trust, i64::MAX, Arc::new(Fixed)).unwrap()
}

/// A session of web as rustls writes it down.
fn session_of(mesh: &Mesh) -> Vec<u8> {
    #[derive(Debug)]
    struct Keep(std::sync::Mutex<Vec<u8>>);
    impl rustls::server::ProducesTickets for Keep {
        fn enabled(&self) -> bool {
            true
        }
        fn lifetime(&self) -> u32 {
            1
        }
        fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
            *self.0.lock().unwrap() = session.to_vec();
            None
        }
        fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }
    }
    let keep = Arc::new(Keep(std::sync::Mutex::default()));
    let mut config = server(
        &mesh.orders,
        trust(mesh, &[]),
        ClientAuth::Required,
        &[b"h2"],
    )
    .unwrap();
    config.ticketer = Arc::clone(&keep) as _;
    config.send_tls13_tickets = 1;
    handshake(&Client::of(mesh).config, &Arc::new(config)).unwrap();
    let session = keep.0.lock().unwrap().clone();
    assert!(!session.is_empty());
    session
}

/// An identity whose certificate ends then, seconds from now.
fn ending(id: &str, end: i64, issuer: &Issuer) -> Identity {
    let mut params = leaf_params(id);
    params.not_after = at(end);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    Identity::new(vec![leaf.der().clone()], private(&key)).unwrap()
}

#[test]
fn a_ticket_ends_with_either_certificate_and_after_an_hour() {
    // Ends of web's and of orders' certificates and the time of the second handshake, in seconds from now; how it goes.
    let cases = [
        (100, 3600, 99, Ok(HandshakeKind::Resumed)),
        (100, 3600, 100, Ok(HandshakeKind::Full)),
        (3600, 100, 99, Ok(HandshakeKind::Resumed)),
        (3600, 100, 100, Ok(HandshakeKind::Full)),
        (9000, 9000, 3599, Ok(HandshakeKind::Resumed)),
        (9000, 9000, 3600, Ok(HandshakeKind::Full)),
    ];
    let root = authority("td");
    for (web_end, orders_end, later, expected) in cases {
        let mesh = Mesh {
            bundles: Arc::new(bundles(&[("td", &root)])),
            web: ending(WEB, web_end, &root),
            orders: ending(ORDERS, orders_end, &root),
            root: authority("unused"),
        };
        let (client, server) = (Client::of(&mesh), Server::of(&mesh));
        client.connect(&server).unwrap();
        // Only the tickets' clock moves: the certificates would still do.
        server.clock.set(later);
        assert_eq!(
            client.connect(&server),
            expected,
            "{web_end} {orders_end} {later}"
        );
    }
}

#[test]
fn a_client_offers_no_session_beyond_either_certificate() {
    let mesh = Mesh::new();
    let server = Server::of(&mesh);
    for (later, server_end, useful) in [
        (3599, 9000, true),
        (3600, 9000, false),
        (99, 100, true),
        (100, 100, false),
    ] {
        let client = Client::of(&mesh);
        client.connect_until(&server, server_end).unwrap();
        client.clock.set(later);
        assert_eq!(client.sessions.is_useful(), useful, "{later} {server_end}");
        let kind = handshake(&client.config, &server.config).unwrap();
        let expected = match useful {
            true => HandshakeKind::Resumed,
            false => HandshakeKind::Full,
        };
        assert_eq!(
            kind.client.handshake_kind(),
            Some(expected),
            "{later} {server_end}"
        );
    }
    let client = Client::of(&mesh);
    handshake(&client.config, &server.config).unwrap();
    assert!(
        !client.sessions.is_useful(),
        "nobody said how long the server's lasts"
    );
    client.connect(&server).unwrap();
    client.sessions.clear();
    assert_eq!(client.connect(&server), Ok(HandshakeKind::Full));
}

#[test]
fn a_day_after_a_full_handshake_comes_another_whatever_was_resumed_since() {
    const DAYS: i64 = 24 * 3600;
    let root = authority("td");
    let mesh = Mesh {
        bundles: Arc::new(bundles(&[("td", &root)])),
        web: ending(WEB, 9 * DAYS, &root),
        orders: ending(ORDERS, 9 * DAYS, &root),
        root,
    };
    for is_the_servers in [true, false] {
        let (client, server) = (Client::of(&mesh), Server::of(&mesh));
        let clock = match is_the_servers {
            true => &server.clock,
            false => &client.clock,
        };
        let connect = |half_hour: i64| {
            clock.set(half_hour * 1800);
            client.connect_until(&server, 9 * DAYS).unwrap()
        };
        let full: Vec<_> = (0..100)
            .filter(|half_hour| connect(*half_hour) == HandshakeKind::Full)
            .collect();
        assert_eq!(full, [0, 48, 96], "of the server: {is_the_servers}");
    }
}

#[test]
fn who_a_resumed_peer_is_is_asked_at_the_time_that_it_is() {
    let mesh = Mesh::new();
    let (client, server) = (Client::of(&mesh), Server::of(&mesh));
    client.connect(&server).unwrap();
    let session = handshake(&client.config, &server.config).unwrap();
    assert_eq!(
        session.server.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    let later = server
        .trust
        .peer_of(&session.server, Usage::Client, unix(3601));
    assert!(matches!(later, Err(SvidError::Expired { .. })), "{later:?}");
    let revoking = trust(&mesh, &[revoked(WEB)]);
    let refused = revoking.peer_of(&session.server, Usage::Client, unix(0));
    assert!(
        matches!(refused, Err(SvidError::Revoked { .. })),
        "{refused:?}"
    );
}

#[test]
fn the_switch_turns_it_off() {
    let mesh = Mesh::new();
    let off = Resumption::Off;
    let server = mesh_server_config(&mesh.orders, trust(&mesh, &[]), &[b"h2"], off).unwrap();
    assert!(!server.ticketer.enabled() && server.send_tls13_tickets == 0);
    let (client, sessions) = mesh_client_config(
        &mesh.web,
        trust(&mesh, &[]),
        mesh.orders.id(),
        &[b"h2"],
        off,
    )
    .unwrap();
    assert!(sessions.is_none());
    for _ in 0..2 {
        let session = handshake(&client, &server).unwrap();
        assert_eq!(session.server.handshake_kind(), Some(HandshakeKind::Full));
    }
    let on = Resumption::On;
    let server = mesh_server_config(&mesh.orders, trust(&mesh, &[]), &[b"h2"], on).unwrap();
    assert!(server.ticketer.enabled() && server.max_early_data_size == 0);
}

#[test]
fn a_ticket_that_was_touched_and_a_session_of_nobody_are_nothing() {
    let mesh = Mesh::new();
    let tickets = tickets(&mesh);
    let session = session_of(&mesh);
    let ticket = tickets.encrypt(&session).unwrap();
    assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&session[..]));
    assert_ne!(
        tickets.encrypt(&session).unwrap(),
        ticket,
        "no two are alike"
    );
    for position in 0..ticket.len() {
        let mut touched = ticket.clone();
        touched[position] ^= 0x80;
        assert!(tickets.decrypt(&touched).is_none(), "{position}");
    }
    for length in 0..ticket.len() {
        assert!(tickets.decrypt(&ticket[..length]).is_none(), "{length}");
    }
    // What rustls wrote in another way would not be understood, and no ticket given.
    assert!(tickets.encrypt(&session[..session.len() - 1]).is_none());
    assert!(tickets.encrypt(&[&session[..], &[0]].concat()).is_none());
    assert!(tickets.encrypt(&[]).is_none());
    let shown = format!("{tickets:?}");
    assert_eq!(shown, "Tickets { own_not_after: 9223372036854775807, .. }");
    assert_eq!(tickets.lifetime(), 3600);
}

#[test]
fn a_ticket_names_the_chain_and_is_nothing_once_the_chain_is_forgotten() {
    let mesh = Mesh::new();
    let mut tickets = tickets(&mesh);
    let session = session_of(&mesh);
    let ticket = tickets.encrypt(&session).unwrap();
    let leaf = mesh.web.chain()[0].len();
    assert!(
        ticket.len() < 200 && session.len() > leaf,
        "{}",
        ticket.len()
    );
    // The same roots, and nobody met yet: as after the chain's place was given to another.
    tickets.trust = trust(&mesh, &[]);
    assert!(tickets.decrypt(&ticket).is_none());
    assert!(tickets.encrypt(&session).is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_a_ticket_or_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        static TICKETS: LazyLock<Tickets> = LazyLock::new(|| {
            Tickets::new(Trust::default(), i64::MAX, Arc::new(Fixed)).unwrap()
        });
        prop_assert!(TICKETS.decrypt(&bytes).is_none());
        prop_assert!(TICKETS.encrypt(&bytes).is_none());
    }
}
