//! Against an endpoint on loopback that speaks HTTP/1.1 over TLS and counts.

use std::sync::Mutex;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_auth::TrustDomain;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::tls::{self, ClientAuth, Identity};
use mesh_auth::token::TokenPolicy;
use mesh_proto::mesh;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::snapshot::{Snapshot, TlsContexts};

#[derive(Default)]
struct Seen {
    connections: usize,
    /// What each presented.
    certificates: Vec<Option<Vec<u8>>>,
    requests: Vec<String>,
}

/// An endpoint that knows the token `good`, is broken for `broken`, and never answers for `slow`.
struct Peer {
    directory: tempfile::TempDir,
    port: u16,
    seen: Arc<Mutex<Seen>>,
    /// Who signs workloads' certificates.
    issuer: Issuer<'static, KeyPair>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a root").der().clone();
    Authority {
        issuer: Issuer::new(params, key),
        certificate,
    }
}

fn empty() -> Snapshot {
    Snapshot::empty("shop/orders", TrustDomain::new("td").expect("a domain"))
}

impl Peer {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = mesh_auth::tls::provider();
        let authority = authority();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate).expect("a root");
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let clients = clients.allow_unauthenticated().build().expect("a verifier");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("ca.pem"), made.cert.pem()).expect("written");
        std::fs::write(directory.path().join("secret"), "s3cret\n").expect("written");
        let key = KeyPair::generate().expect("a key").serialize_pem();
        std::fs::write(directory.path().join("key.pem"), key).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let presented = stream.get_ref().1.peer_certificates();
                    let presented = presented.and_then(<[_]>::first).map(|leaf| leaf.to_vec());
                    {
                        let mut seen = seen.lock().expect("seen");
                        seen.connections += 1;
                        seen.certificates.push(presented);
                    }
                    let mut bytes = vec![0; 8192];
                    // Requests are short: each comes in one record.
                    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                        let request = String::from_utf8_lossy(&bytes[..n]).into_owned();
                        let answer = answer(&request);
                        seen.lock().expect("seen").requests.push(request);
                        let Some((status, body)) = answer else {
                            return std::future::pending().await;
                        };
                        let text = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            directory,
            port,
            seen,
            issuer: authority.issuer,
        }
    }

    /// A workload that holds a new certificate.
    fn workload(&self, id: &str) -> Snapshot {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ascii"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(vec![leaf.der().clone()], key).expect("an identity");
        let bundles = Arc::new(TrustBundles::default());
        let server = tls::server_config(&identity, bundles, ClientAuth::Required, &[]);
        let server = server.expect("a configuration");
        Snapshot {
            tls: Some(Arc::new(TlsContexts {
                epoch: 1,
                identity: Arc::new(identity),
                mesh: Arc::clone(&server),
                inbound: server,
            })),
            ..empty()
        }
    }

    fn provider(&self, change: impl FnOnce(&mut mesh::TokenIntrospection)) -> Arc<Provider> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut introspection = mesh::TokenIntrospection {
            endpoint: format!("https://localhost:{}/introspect", self.port),
            client_id: "orders".into(),
            credential_file: file("secret"),
            ca_file: file("ca.pem"),
            ..Default::default()
        };
        change(&mut introspection);
        let document = mesh::RequestAuthentication {
            name: "r".into(),
            namespace: "shop".into(),
            rules: vec![mesh::TokenRule {
                issuer: "https://idp".into(),
                audiences: vec!["orders".into()],
                introspection: Some(introspection),
                ..Default::default()
            }],
            ..Default::default()
        };
        let policy = TokenPolicy::compile([&document], &Default::default(), None);
        let policy = policy.expect("compiles").expect("has a rule");
        Arc::clone(&policy.providers()[0])
    }

    fn count(&self) -> (usize, usize) {
        let seen = self.seen.lock().expect("seen");
        (seen.connections, seen.requests.len())
    }
}

fn answer(request: &str) -> Option<(u16, String)> {
    let exp = unix_seconds() + 10;
    let token = request.rsplit("token=").next().unwrap_or_default();
    Some(match token.split('&').next().unwrap_or_default() {
        "good" => (
            200,
            format!(
                r#"{{"active":true,"iss":"https://idp","sub":"alice","aud":"orders","exp":{exp}}}"#
            ),
        ),
        "undated" => (
            200,
            r#"{"active":true,"sub":"alice","aud":"orders"}"#.into(),
        ),
        "elsewhere" => (
            200,
            format!(r#"{{"active":true,"aud":"payments","exp":{exp}}}"#),
        ),
        "foreign" => (
            200,
            format!(r#"{{"active":true,"iss":"https://evil","aud":"orders","exp":{exp}}}"#),
        ),
        "late" => (200, r#"{"active":true,"aud":"orders","exp":1000}"#.into()),
        "broken" => (500, r#"{"active":true}"#.into()),
        "slow" => return None,
        "disliked" => (403, "go away".into()),
        _ => (200, r#"{"active":false}"#.into()),
    })
}

fn introspector() -> Introspector {
    introspector_of(Arc::new(ArcSwap::from_pointee(empty())))
}

fn introspector_of(snapshot: SharedSnapshot) -> Introspector {
    let dialer = Dialer {
        mark: None,
        timeout: Duration::from_secs(5),
    };
    Introspector::new(Arc::new(Questions::new([1; 32])), dialer, snapshot)
}

/// What the workers of one sidecar have.
fn introspectors<const N: usize>() -> [Introspector; N] {
    let questions = Arc::new(Questions::new([1; 32]));
    std::array::from_fn(|_| Introspector {
        questions: Arc::clone(&questions),
        ..introspector()
    })
}

async fn ask(of: &Introspector, provider: &Arc<Provider>, token: &str) -> Verdict {
    let mut digest = [0; 32];
    digest[..token.len()].copy_from_slice(token.as_bytes());
    let name = Fingerprint::new([0; 8]);
    of.ask(provider, digest, name, token.as_bytes()).await
}

fn reason(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Active(..) => "active",
        Verdict::Refused(reason) => reason.code(),
        Verdict::Unknown => "unknown",
    }
}

#[tokio::test]
async fn an_answer_is_judged_like_a_token_and_one_connection_carries_all_questions() {
    let peer = Peer::start().await;
    let provider = peer.provider(|_| {});
    let introspector = introspector();
    for (token, expected) in [
        ("good", "active"),
        ("undated", "active"),
        ("gone", "token_inactive"),
        ("elsewhere", "token_wrong_audience"),
        ("foreign", "token_unknown_issuer"),
        ("late", "token_expired"),
        ("broken", "unknown"),
    ] {
        let verdict = ask(&introspector, &provider, token).await;
        assert_eq!(reason(&verdict), expected, "{token}");
        if let Verdict::Active(verified, until) = verdict {
            let most = if token == "good" { 10 } else { 30 };
            let left = until - unix_seconds();
            assert!((1..=most).contains(&left), "{token}: {left} s");
            assert_eq!(verified.token().subject(), Some("alice"));
        }
    }
    assert_eq!(peer.count(), (1, 7), "connections and questions");
    let seen = peer.seen.lock().expect("seen");
    let first = seen.requests[0].to_ascii_lowercase();
    assert!(
        first.starts_with("post /introspect http/1.1\r\n"),
        "{first}"
    );
    assert!(
        first.contains("authorization: basic b3jkzxjzonmzy3jlda=="),
        "{first}"
    );
}

#[tokio::test]
async fn many_who_present_one_token_ask_once() {
    let peer = Peer::start().await;
    let provider = peer.provider(|_| {});
    let introspector = introspector();
    let asked = (0..50).map(|_| ask(&introspector, &provider, "good"));
    for verdict in futures_util::future::join_all(asked).await {
        assert_eq!(reason(&verdict), "active");
    }
    assert_eq!(peer.count(), (1, 1));
    assert!(introspector.open.borrow().is_empty());
}

#[tokio::test]
async fn one_worker_asks_for_all_and_its_answer_holds_for_those_that_come_later() {
    let peer = Peer::start().await;
    let provider = peer.provider(|_| {});
    let [a, b, late] = introspectors();
    let workers = [&a, &b].into_iter().cycle().take(50);
    let asked = workers.map(|worker| ask(worker, &provider, "good"));
    let mut ends = Vec::new();
    for verdict in futures_util::future::join_all(asked).await {
        let Verdict::Active(verified, until) = verdict else {
            panic!("{}", reason(&verdict));
        };
        assert_eq!(verified.token().subject(), Some("alice"));
        ends.push(until);
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    assert_eq!(reason(&ask(&late, &provider, "good").await), "active");
    assert_eq!(peer.count(), (1, 1));
    // Another rule is another question, and a refusal is told to nobody who comes later.
    let other = peer.provider(|_| {});
    assert_eq!(reason(&ask(&late, &other, "good").await), "active");
    assert_eq!(peer.count().1, 2);
    for worker in [&a, &b] {
        let verdict = ask(worker, &provider, "gone").await;
        assert_eq!(reason(&verdict), "token_inactive");
    }
    assert_eq!(peer.count().1, 4);
}

#[tokio::test]
async fn when_whoever_asks_gives_up_one_of_the_others_asks() {
    let peer = Peer::start().await;
    let provider = peer.provider(|_| {});
    let [a, b] = introspectors();
    let mut first = Box::pin(ask(&a, &provider, "good"));
    let mut second = Box::pin(ask(&b, &provider, "good"));
    let begun = futures_util::poll!(first.as_mut()).is_pending();
    assert!(begun && futures_util::poll!(second.as_mut()).is_pending());
    drop(first);
    assert_eq!(reason(&second.await), "active");
    assert_eq!(peer.count().1, 1);
    assert!(b.open.borrow().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_alone() {
    let peer = Peer::start().await;
    let provider = peer.provider(|i| i.timeout_ms = 50);
    let workers: [_; 3] = introspectors();
    for worker in workers.iter().cycle().take(20) {
        let verdict = ask(worker, &provider, "slow").await;
        assert_eq!(reason(&verdict), "unknown");
    }
    let asked = peer.count().1;
    assert!((1..=5).contains(&asked), "{asked} questions of all workers");
    for worker in &workers {
        let verdict = ask(worker, &provider, "good").await;
        assert_eq!(reason(&verdict), "unknown", "nobody is asked for a while");
    }
}

#[tokio::test]
async fn a_token_that_the_endpoint_dislikes_keeps_nobody_from_asking() {
    let peer = Peer::start().await;
    let provider = peer.provider(|_| {});
    let introspector = introspector();
    for _ in 0..10 {
        let verdict = ask(&introspector, &provider, "disliked").await;
        assert_eq!(reason(&verdict), "unknown");
    }
    let verdict = ask(&introspector, &provider, "good").await;
    assert_eq!(reason(&verdict), "active");
}

#[tokio::test]
async fn a_wrong_certificate_or_a_missing_secret_is_no_answer() {
    let peer = Peer::start().await;
    for change in [
        (|i: &mut mesh::TokenIntrospection| i.ca_file.clear()) as fn(&mut _),
        |i| i.endpoint = i.endpoint.replace("localhost", "127.0.0.1"),
        |i| i.credential_file = "/nowhere/secret".into(),
    ] {
        let provider = peer.provider(change);
        let verdict = ask(&introspector(), &provider, "good").await;
        assert_eq!(reason(&verdict), "unknown");
    }
    assert_eq!(peer.count().1, 0, "the token was sent to nobody");
}

#[tokio::test]
async fn a_client_key_signs_every_question_anew() {
    let peer = Peer::start().await;
    let key = peer.directory.path().join("key.pem").display().to_string();
    let provider = peer.provider(|i| {
        i.auth = mesh::IntrospectionAuth::PrivateKeyJwt.into();
        i.credential_file = key;
    });
    let introspector = introspector();
    for token in ["good", "undated"] {
        let verdict = ask(&introspector, &provider, token).await;
        assert_eq!(reason(&verdict), "active");
    }
    let seen = peer.seen.lock().expect("seen");
    let assertions: Vec<&str> = seen
        .requests
        .iter()
        .map(|request| {
            assert!(!request.to_ascii_lowercase().contains("authorization:"));
            let (_, rest) = request.split_once("&client_assertion=").expect("one");
            rest.split('&').next().expect("a value")
        })
        .collect();
    assert_ne!(assertions[0], assertions[1]);
    assert_eq!(assertions[0].split('.').count(), 3);
}

#[tokio::test]
async fn the_certificate_of_this_moment_is_presented() {
    let peer = Peer::start().await;
    let provider = || {
        peer.provider(|i| {
            i.auth = mesh::IntrospectionAuth::Svid.into();
            i.client_id.clear();
            i.credential_file.clear();
        })
    };
    let snapshot: SharedSnapshot = Arc::new(ArcSwap::from_pointee(empty()));
    let introspector = introspector_of(Arc::clone(&snapshot));
    let verdict = ask(&introspector, &provider(), "good").await;
    assert_eq!(reason(&verdict), "unknown", "there is no certificate yet");
    let id = "spiffe://td/ns/shop/sa/orders";
    let leaf = |snapshot: &Snapshot| {
        let tls = snapshot.tls.as_ref().expect("an identity");
        Some(tls.identity.chain()[0].to_vec())
    };
    let mut expected = Vec::new();
    for _ in 0..2 {
        let renewed = peer.workload(id);
        expected.push(leaf(&renewed));
        snapshot.store(Arc::new(renewed));
        // Another rule, so that what was answered is asked again; one connection for both.
        let provider = provider();
        for token in ["good", "undated"] {
            let verdict = ask(&introspector, &provider, token).await;
            assert_eq!(reason(&verdict), "active");
        }
    }
    let seen = peer.seen.lock().expect("seen");
    assert_eq!(seen.certificates, expected);
    for request in &seen.requests {
        assert!(
            request.ends_with("&client_id=spiffe%3A%2F%2Ftd%2Fns%2Fshop%2Fsa%2Forders"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_metadata_service_is_never_asked() {
    let peer = Peer::start().await;
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "0.0.0.0"] {
        let provider = peer.provider(|i| i.endpoint = format!("https://{host}:{}/", peer.port));
        let introspector = introspector();
        let endpoint = introspector.endpoint(&provider).expect("an endpoint");
        let error = endpoint.ask(b"good").await.expect_err("no answer");
        assert!(error.to_string().contains("never asked"), "{host}: {error}");
    }
    assert_eq!(peer.count(), (0, 0));
}
