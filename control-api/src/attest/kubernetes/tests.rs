//! Against tokens that are signed here, and an HTTPS server that plays the cluster.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::fetch::{self, Guard};
use crate::store::Store;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The key that a cluster signs its tokens with.
struct Cluster(EcdsaKeyPair);

impl Cluster {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwks(&self, kid: &str) -> String {
        let point = self.0.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..65]].map(|c| URL_SAFE_NO_PAD.encode(c));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}]})
            .to_string()
    }

    fn sign(&self, kid: &str, claims: &Value) -> Secret<String> {
        let header = json!({"alg": "ES256", "kid": kid});
        let [header, claims] =
            [header.to_string(), claims.to_string()].map(|p| URL_SAFE_NO_PAD.encode(p));
        let text = format!("{header}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What a cluster says of the pod `web-1` of the service account `shop/web`.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["postern"], "sub": "system:serviceaccount:shop:web",
        "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 3_540,
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "web-1", "uid": "a"},
            "serviceaccount": {"name": "web", "uid": "b"},
        },
    })
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut claims = claims();
    for (name, value) in changes {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(*name)),
            value => claims[*name] = value.clone(),
        }
    }
    claims
}

fn attestor(keys: Keys, tls: Option<Arc<ClientConfig>>, own: Option<PathBuf>) -> Kubernetes {
    let guard = Guard {
        allow_local: true,
        own_ports: vec![],
    };
    let settings = fetch::Settings { guard, roots: None };
    Kubernetes::new(
        Settings {
            name: "east".into(),
            issuer: ISSUER.into(),
            audiences: vec!["postern".into()],
            keys,
            tls,
            token_file: own,
        },
        Arc::new(Fetcher::new(settings).unwrap()),
        TrustDomain::new("example.org").unwrap(),
    )
}

/// Judges, then redeems, as the certificate service does.
async fn subject(attestor: &Kubernetes, proof: &Secret<String>) -> Result<Subject, String> {
    assert!(attestor.recognises(proof.expose()));
    let proven = attestor
        .attest(proof, NOW)
        .await
        .map_err(|e| e.to_string())?;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "example.org").unwrap();
    let redeemed: Result<Subject, AttestError> = store
        .write(|write| Ok::<_, crate::store::StoreError>(proven.redeem(write, "00", NOW)))
        .unwrap();
    redeemed.map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_token_proves_its_service_account_and_pod_and_nothing_else_does() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, cluster.jwks("k1")).unwrap();
    let attestor = attestor(Keys::File(file.clone()), None, None);
    let good = |workload: Option<&str>| {
        Ok(Subject {
            workload: workload.map(str::to_owned),
            id: "spiffe://example.org/ns/shop/sa/web".into(),
        })
    };
    let unbound = json!({"namespace": "shop", "serviceaccount": {"name": "web"}});
    let elsewhere = json!({"namespace": "bank", "serviceaccount": {"name": "web"}});
    let somebody = json!({"namespace": "shop", "serviceaccount": {"name": "root"}});
    for (reason, token, expected) in [
        (
            "as the kubelet projects it",
            cluster.sign("k1", &claims()),
            good(Some("shop/web-1")),
        ),
        (
            "no pod",
            cluster.sign("k1", &with(&[("kubernetes.io", unbound)])),
            good(None),
        ),
        (
            "no such object",
            cluster.sign("k1", &with(&[("kubernetes.io", Value::Null)])),
            good(None),
        ),
        (
            "several audiences",
            cluster.sign("k1", &with(&[("aud", json!(["x", "postern"]))])),
            good(Some("shop/web-1")),
        ),
        (
            "for the API server",
            cluster.sign("k1", &with(&[("aud", json!([ISSUER]))])),
            Err("another audience"),
        ),
        (
            "for nobody",
            cluster.sign("k1", &with(&[("aud", Value::Null)])),
            Err("token"),
        ),
        (
            "of another cluster",
            cluster.sign("k1", &with(&[("iss", json!("https://west"))])),
            Err("another cluster"),
        ),
        (
            "over",
            cluster.sign("k1", &with(&[("exp", json!(NOW - 120))])),
            Err("expired"),
        ),
        (
            "never over",
            cluster.sign("k1", &with(&[("exp", Value::Null)])),
            Err("token"),
        ),
        (
            "not begun",
            cluster.sign("k1", &with(&[("nbf", json!(NOW + 600))])),
            Err("not valid yet"),
        ),
        ("another key", other.sign("k1", &claims()), Err("signature")),
        (
            "a key nobody has",
            other.sign("k2", &claims()),
            Err("no such key"),
        ),
        (
            "a user",
            cluster.sign("k1", &with(&[("sub", json!("alice"))])),
            Err("'alice' is not a service account"),
        ),
        (
            "a deeper name",
            cluster.sign(
                "k1",
                &with(&[("sub", json!("system:serviceaccount:shop:web:x"))]),
            ),
            Err("not a service account"),
        ),
        (
            "no SPIFFE ID",
            cluster.sign(
                "k1",
                &with(&[("sub", json!("system:serviceaccount:shop:we/b"))]),
            ),
            Err("no SPIFFE ID"),
        ),
        (
            "two namespaces",
            cluster.sign("k1", &with(&[("kubernetes.io", elsewhere)])),
            Err("different service accounts"),
        ),
        (
            "two accounts",
            cluster.sign("k1", &with(&[("kubernetes.io", somebody)])),
            Err("different service accounts"),
        ),
        (
            "garbage",
            Secret::new("a.b.c".to_owned()),
            Err("not a service-account token"),
        ),
    ] {
        match (subject(&attestor, &token).await, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{reason}"),
            (Err(error), Err(part)) => {
                assert!(
                    error.contains(part) && error.contains("kubernetes 'east'"),
                    "{reason}: {error}"
                );
            }
            (found, expected) => panic!("{reason}: {found:?}, not {expected:?}"),
        }
    }
    // The file is read each time: a cluster that changes its key is followed.
    std::fs::write(&file, other.jwks("k2")).unwrap();
    assert!(
        subject(&attestor, &other.sign("k2", &claims()))
            .await
            .is_ok()
    );
    assert!(
        subject(&attestor, &cluster.sign("k1", &claims()))
            .await
            .is_err()
    );
    std::fs::remove_file(&file).unwrap();
    let error = subject(&attestor, &other.sign("k2", &claims()))
        .await
        .unwrap_err();
    assert!(
        error.contains("cannot be judged now") && error.contains("jwks.json"),
        "{error}"
    );
}

/// An HTTPS server that answers each connection with the next of `answers`, and keeps what was asked.
struct Server {
    port: u16,
    tls: Arc<ClientConfig>,
    asked: tokio::task::JoinHandle<Vec<String>>,
}

impl Server {
    async fn start(answers: Vec<(u16, String)>) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = tokio::spawn(async move {
            let mut asked = vec![];
            for (status, body) in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                asked.push(request(&mut stream).await);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream
                    .write_all(format!("{head}{body}").as_bytes())
                    .await
                    .unwrap();
                let _ = stream.shutdown().await;
            }
            asked
        });
        Self {
            port,
            tls: fetch::client_config(Some(certificate.pem().as_bytes())).unwrap(),
            asked,
        }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("https://localhost:{}{path}", self.port)).unwrap()
    }
}

/// One request with its body.
async fn request<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0_usize) {
                return text;
            }
        }
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "cut off: {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
}

#[tokio::test]
async fn the_clusters_keys_come_from_its_url_and_outlast_an_outage_of_it() {
    let cluster = Cluster::new();
    let server = Server::start(vec![(200, cluster.jwks("k1"))]).await;
    let url = server.url("/openid/v1/jwks");
    let attestor = attestor(Keys::Url(url), Some(Arc::clone(&server.tls)), None);
    assert!(
        subject(&attestor, &cluster.sign("k1", &claims()))
            .await
            .is_ok()
    );
    // It answers no second time. Held keys are fresh, and an unknown key asks again at most every ten seconds.
    assert!(
        subject(&attestor, &cluster.sign("k1", &claims()))
            .await
            .is_ok()
    );
    let error = subject(&attestor, &cluster.sign("k2", &claims()))
        .await
        .unwrap_err();
    assert!(error.contains("no such key"), "{error}");
    assert!(server.asked.await.unwrap()[0].starts_with("GET /openid/v1/jwks "));

    let server = Server::start(vec![(503, String::new())]).await;
    let attestor = self::attestor(
        Keys::Url(server.url("/keys")),
        Some(Arc::clone(&server.tls)),
        None,
    );
    let error = subject(&attestor, &cluster.sign("k1", &claims()))
        .await
        .unwrap_err();
    assert!(
        error.contains("cannot be judged now") && error.contains("503"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_review_decides_and_must_say_for_whom_the_token_is() {
    let user = |name: &str| json!({"username": name, "extra": {"authentication.kubernetes.io/pod-name": ["web-1"]}});
    let account = "system:serviceaccount:shop:web";
    let said = |status: Value| {
        (
            201,
            json!({"kind": "TokenReview", "status": status}).to_string(),
        )
    };
    let answers = [
        (
            said(json!({"authenticated": true, "audiences": ["postern"], "user": user(account)})),
            Ok(()),
        ),
        (
            said(json!({"authenticated": true, "user": user(account)})),
            Err("does not say that the token is for us"),
        ),
        (
            said(json!({"authenticated": true, "audiences": ["api"], "user": user(account)})),
            Err("does not say that the token is for us"),
        ),
        (
            said(json!({"authenticated": false, "error": "token expired"})),
            Err("its API server says: token expired"),
        ),
        (
            said(json!({"user": user(account), "audiences": ["postern"]})),
            Err("not authenticated"),
        ),
        (
            said(
                json!({"authenticated": true, "audiences": ["postern"], "user": user("system:node:a")}),
            ),
            Err("not a service account"),
        ),
        ((401, "{}".to_owned()), Err("answered 401")),
        ((200, "{".to_owned()), Err("not JSON")),
        ((200, "{}".to_owned()), Err("no 'status'")),
    ];
    let server = Server::start(answers.iter().map(|(a, _)| a.clone()).collect()).await;
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own-token");
    let review = Keys::Review(TokenReview {
        url: server.url("/"),
    });
    let attestor = attestor(review, Some(Arc::clone(&server.tls)), Some(own.clone()));
    let token = Secret::new("opaque.to.us".to_owned());
    for (turn, (answer, expected)) in answers.iter().enumerate() {
        // Its own token is read for every request, too: the kubelet replaces it.
        std::fs::write(&own, format!("own-{turn}\n")).unwrap();
        match (subject(&attestor, &token).await, expected) {
            (Ok(found), Ok(())) => assert_eq!(
                found,
                Subject {
                    workload: Some("shop/web-1".into()),
                    id: "spiffe://example.org/ns/shop/sa/web".into()
                }
            ),
            (Err(error), Err(part)) => assert!(error.contains(part), "{answer:?}: {error}"),
            (found, expected) => panic!("{answer:?}: {found:?}, not {expected:?}"),
        }
    }
    for (turn, asked) in server.asked.await.unwrap().iter().enumerate() {
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "),
            "{head}"
        );
        assert!(head.contains(&format!("Bearer own-{turn}\r\n")), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body["spec"],
            json!({"token": "opaque.to.us", "audiences": ["postern"]})
        );
    }
}
