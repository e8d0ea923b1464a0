//! Both services over a real socket: what the specifications ask of them (SPIFFE Workload Endpoint, Workload API), and
//! what callers do who have other plans.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use mesh_proto::secret::secret_discovery_service_client::SecretDiscoveryServiceClient;
use mesh_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mesh_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Streaming};

use super::admission::{Admission, Allowed};
use super::jwt_svids::JwtSvids;
use super::material::Material;
use super::run::serve;
use super::sds::TYPE_URL;
use super::socket::bind;
use super::testing::{ID, material, rotated};
use crate::control::SystemClock;
use crate::control::connect::Target;
use crate::snapshot::Snapshot;

const PATIENCE: Duration = Duration::from_secs(20);

struct Open {
    material: watch::Sender<Arc<Material>>,
    path: std::path::PathBuf,
    serving: JoinHandle<()>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Open {
    fn start(material: Material, uids: &[u32]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("api.sock");
        let listener = bind(&path, 0o600).expect("a socket");
        let (sender, receiver) = watch::channel(Arc::new(material));
        let stop = CancellationToken::new();
        let admission = Admission::new(Allowed::new(uids));
        let serving = tokio::spawn(serve(
            listener,
            admission,
            receiver,
            nobody_to_ask(),
            stop.clone(),
        ));
        Self {
            material: sender,
            path,
            serving,
            stop,
            _dir: dir,
        }
    }

    /// A connection without TLS and without any credential.
    async fn channel(&self) -> Channel {
        let path = self.path.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint
            .connect_with_connector(connector)
            .await
            .expect("a connection")
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    async fn ask_svids(&self) -> Result<Streaming<X509svidResponse>, tonic::Status> {
        let mut client = self.client().await;
        let answer = client.fetch_x509svid(call(X509svidRequest {})).await?;
        Ok(answer.into_inner())
    }

    async fn svids(&self) -> Streaming<X509svidResponse> {
        self.ask_svids().await.expect("a stream")
    }
}

/// JWT-SVIDs of a sidecar without an identity, whose control API is away.
fn nobody_to_ask() -> Arc<JwtSvids> {
    let domain = TrustDomain::new("demo.test").expect("a domain");
    let snapshot = Snapshot::empty("demo/web", domain);
    let target = Target {
        address: "127.0.0.1:1".into(),
        id: SpiffeId::parse(ID).expect("an ID"),
        mark: None,
    };
    let shared = Arc::new(ArcSwap::from_pointee(snapshot));
    Arc::new(JwtSvids::new(target, shared, Arc::new(SystemClock)))
}

/// A request of a workload.
fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = "true".parse().expect("ASCII");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, tonic::Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    let message = message.expect("in time")?;
    Ok(message.expect("the stream goes on"))
}

#[tokio::test]
async fn a_call_without_the_metadata_is_an_invalid_argument() {
    let open = Open::start(material(), &[]);
    let mut client = open.client().await;
    for value in [None, Some("TRUE"), Some("1"), Some(""), Some("false")] {
        let mut request = Request::new(X509svidRequest {});
        if let Some(value) = value {
            let value = value.parse().expect("ASCII");
            request.metadata_mut().insert("workload.spiffe.io", value);
        }
        let refused = client.fetch_x509svid(request).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{value:?}");
    }
    let mut twice = call(X509BundlesRequest {});
    let value = "true".parse().expect("ASCII");
    twice.metadata_mut().append("workload.spiffe.io", value);
    let refused = client.fetch_x509_bundles(twice).await.expect_err("twice");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let without = client.fetch_jwt_bundles(JwtBundlesRequest {}).await;
    assert_eq!(without.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_first_response_is_complete_and_needs_neither_tls_nor_a_credential() {
    let held = material();
    let svid = held.svid.clone().expect("an SVID");
    let bundles = Arc::clone(&held.bundles);
    let open = Open::start(held, &[]);
    let response = next(&mut open.svids().await).await.expect("at once");
    let [only] = response.svids.as_slice() else {
        panic!("{:?}", response.svids.len());
    };
    assert_eq!(only.spiffe_id, ID);
    assert_eq!(only.x509_svid, svid.chain[0].to_vec());
    assert_eq!(&only.x509_svid_key, svid.key.expose());
    let root = |domain| bundles.get(domain).expect(domain).authorities()[0].to_vec();
    assert_eq!(only.bundle, root("demo.test"));
    // Hints are unique: there is one SVID, without one.
    assert_eq!(only.hint, "");
    // Bundles of other trust domains stand beside, by the SPIFFE ID of the trust domain, never merged.
    let federated: Vec<_> = response.federated_bundles.into_iter().collect();
    assert_eq!(
        federated,
        [("spiffe://other.test".to_owned(), root("other.test"))]
    );

    let mut client = open.client().await;
    let answer = client.fetch_x509_bundles(call(X509BundlesRequest {}));
    let mut stream = answer.await.expect("a stream").into_inner();
    let response = next(&mut stream).await.expect("at once");
    let names: Vec<_> = response.bundles.keys().collect();
    assert_eq!(names, ["spiffe://demo.test", "spiffe://other.test"]);
}

#[tokio::test]
async fn every_change_is_pushed_as_the_complete_set_and_a_bundle_stream_is_quiet_about_svids() {
    let first = material();
    let open = Open::start(first, &[]);
    let mut svids = open.svids().await;
    let before = next(&mut svids).await.expect("at once");
    let mut client = open.client().await;
    let answer = client.fetch_x509_bundles(call(X509BundlesRequest {}));
    let mut bundles = answer.await.expect("a stream").into_inner();
    next(&mut bundles).await.expect("at once");

    open.material.send_replace(Arc::new(rotated()));
    let after = next(&mut svids).await.expect("pushed");
    assert_ne!(before.svids[0].x509_svid, after.svids[0].x509_svid);
    assert_eq!(before.federated_bundles, after.federated_bundles);

    // A trust domain is gone: its absence from the set says so.
    let mut without = rotated();
    let mut fewer = mesh_auth::bundle::TrustBundles::default();
    let own = without.bundles.get("demo.test").expect("own").clone();
    fewer.insert(own).expect("new");
    without.bundles = Arc::new(fewer);
    open.material.send_replace(Arc::new(without));
    let after = next(&mut svids).await.expect("pushed");
    assert!(after.federated_bundles.is_empty());
    // The rotation in between made no message: this is the first one after the first.
    let after = next(&mut bundles).await.expect("pushed");
    assert_eq!(after.bundles.len(), 1);
}

#[tokio::test]
async fn without_an_identity_permission_is_denied_and_open_streams_end_with_it() {
    let open = Open::start(material(), &[]);
    let mut svids = open.svids().await;
    next(&mut svids).await.expect("at once");
    let mut client = SecretDiscoveryServiceClient::new(open.channel().await);
    let asked = tokio_stream::once(DiscoveryRequest {
        resource_names: vec!["default".into()],
        type_url: TYPE_URL.into(),
        ..Default::default()
    });
    let asked = asked.chain(tokio_stream::pending());
    let mut secrets = client
        .stream_secrets(asked)
        .await
        .expect("a stream")
        .into_inner();
    assert_eq!(next(&mut secrets).await.expect("one").resources.len(), 1);

    let mut none = material();
    none.svid = None;
    open.material.send_replace(Arc::new(none));
    let ended = next(&mut svids).await.expect_err("redacted");
    assert_eq!(ended.code(), Code::PermissionDenied);
    let ended = next(&mut secrets).await.expect_err("redacted");
    assert_eq!(ended.code(), Code::PermissionDenied);
    let refused = open.ask_svids().await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_call_before_the_first_certificate_of_all_waits_for_it() {
    let domain = TrustDomain::new("demo.test").expect("a domain");
    let open = Open::start(Material::none(domain), &[]);
    let (svids, ()) = tokio::join!(open.svids(), async {
        tokio::task::yield_now().await;
        open.material.send_replace(Arc::new(material()));
    });
    let mut svids = svids;
    assert_eq!(next(&mut svids).await.expect("one").svids[0].spiffe_id, ID);
}

#[tokio::test]
async fn another_user_is_denied_on_both_services() {
    let other = rustix::process::geteuid().as_raw() + 1;
    let open = Open::start(material(), &[other]);
    let refused = open.ask_svids().await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut secrets = SecretDiscoveryServiceClient::new(open.channel().await);
    let refused = secrets.fetch_secrets(DiscoveryRequest::default()).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_jwt_profile_is_apart_from_the_other_and_never_answers_for_another_identity() {
    let open = Open::start(material(), &[]);
    let mut client = open.client().await;
    let answer = client.fetch_jwt_bundles(call(JwtBundlesRequest {})).await;
    let mut stream = answer.expect("a stream").into_inner();
    let response = next(&mut stream).await.expect("at once");
    let bundles: Vec<_> = response.bundles.into_iter().collect();
    let empty = br#"{"keys":[]}"#.to_vec();
    assert_eq!(bundles, [("spiffe://demo.test".to_owned(), empty)]);
    for (audience, id, expected) in [
        (&[][..], "", Code::InvalidArgument),
        (&[""], "", Code::InvalidArgument),
        (
            &["a"],
            "spiffe://demo.test/ns/demo/sa/orders",
            Code::PermissionDenied,
        ),
        (&["a"], "nonsense", Code::PermissionDenied),
    ] {
        let request = JwtsvidRequest {
            audience: audience.iter().map(|a: &&str| (*a).to_owned()).collect(),
            spiffe_id: id.into(),
        };
        let refused = client.fetch_jwtsvid(call(request)).await.expect_err(id);
        assert_eq!(refused.code(), expected, "{audience:?} {id}");
    }
}

/// gRPC's C core, which the libraries for Python and C++ are made of, puts the socket's path there.
#[tokio::test]
async fn an_authority_that_is_a_percent_encoded_path_is_let_pass() {
    let open = Open::start(material(), &[]);
    let mut stream = UnixStream::connect(&open.path).await.expect("a connection");
    let literal = |name: &str, value: &str| {
        let mut field = vec![0x40, u8::try_from(name.len()).expect("short")];
        field.extend_from_slice(name.as_bytes());
        field.push(u8::try_from(value.len()).expect("short"));
        field.extend_from_slice(value.as_bytes());
        field
    };
    let fields = [
        literal(":path", "/SpiffeWorkloadAPI/FetchX509Bundles"),
        literal(":authority", "tmp%2Fdir%2Fapi.sock"),
        vec![0x83, 0x86],
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
        literal("workload.spiffe.io", "true"),
    ]
    .concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let length = u8::try_from(fields.len()).expect("short");
    bytes.extend([0, 0, length, 1, 4, 0, 0, 0, 1]);
    bytes.extend(fields);
    // An empty message, the end of the request.
    bytes.extend(b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0");
    stream.write_all(&bytes).await.expect("written");
    let mut answer = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&answer).contains("spiffe://demo.test") {
            if stream.read_buf(&mut answer).await.expect("bytes") == 0 {
                break;
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, read).await;
    let text = answer.escape_ascii();
    assert!(
        outcome.is_ok() && text.to_string().contains("demo.test"),
        "{text}"
    );
}

#[tokio::test]
async fn methods_of_profiles_that_are_not_served_are_unimplemented() {
    let open = Open::start(material(), &[]);
    let channel = open.channel().await;
    for method in ["FetchWITSVID", "FetchWITBundles", "FetchSomethingElse"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("ready");
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidResponse>::default();
        let path = path.parse().expect("a path");
        let answer = grpc.unary(call(X509svidRequest {}), path, codec).await;
        assert_eq!(
            answer.expect_err(method).code(),
            Code::Unimplemented,
            "{method}"
        );
    }
}

#[tokio::test]
async fn sds_answers_both_variants_and_pushes_a_rotation() {
    let open = Open::start(material(), &[]);
    let mut client = SecretDiscoveryServiceClient::new(open.channel().await);
    let names = vec!["default".to_owned(), "ROOTCA".to_owned()];
    let asked = tokio_stream::once(DiscoveryRequest {
        resource_names: names.clone(),
        type_url: TYPE_URL.into(),
        ..Default::default()
    });
    let answer = client.stream_secrets(asked.chain(tokio_stream::pending()));
    let mut all = answer.await.expect("a stream").into_inner();
    assert_eq!(next(&mut all).await.expect("at once").resources.len(), 2);
    let asked = tokio_stream::once(DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        type_url: TYPE_URL.into(),
        ..Default::default()
    });
    let answer = client.delta_secrets(asked.chain(tokio_stream::pending()));
    let mut delta = answer.await.expect("a stream").into_inner();
    assert_eq!(next(&mut delta).await.expect("at once").resources.len(), 2);

    open.material.send_replace(Arc::new(rotated()));
    assert_eq!(next(&mut all).await.expect("pushed").resources.len(), 2);
    let changed = next(&mut delta).await.expect("pushed");
    let changed: Vec<_> = changed.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(changed, ["default"]);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only_and_too_many_connections_are_closed() {
    let open = Open::start(material(), &[]);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 70_000],
    ] {
        let mut stream = UnixStream::connect(&open.path).await.expect("a connection");
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "it is closed");
    }
    // Everybody who says nothing takes a place; the one too many is closed at once.
    let held: Vec<_> = (0..64)
        .map(|_| StdStream::connect(&open.path).expect("a connection"))
        .collect();
    let mut over = UnixStream::connect(&open.path).await.expect("a connection");
    let read = tokio::time::timeout(PATIENCE, over.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "closed: {read:?}");
    drop(held);
    next(&mut open.svids().await).await.expect("served again");
}

#[tokio::test]
async fn ten_thousand_streams_and_a_slow_reader_are_bounded_and_disturb_nobody() {
    let open = Open::start(material(), &[]);
    let mut slow = open.svids().await;
    let mut held = Vec::new();
    let mut refused = 0;
    // Over so many connections that the limit of streams on each is not what bounds them.
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(open.client().await);
    }
    for n in 0..10_000 {
        let mut client = clients[n % clients.len()].clone();
        let opening = client.fetch_x509svid(call(X509svidRequest {}));
        match tokio::time::timeout(Duration::from_millis(50), opening).await {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(status)) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
                if refused > 50 {
                    break;
                }
            }
            // Every stream of the connection is taken.
            Err(_) => refused += 1,
        }
    }
    assert!(held.len() <= 1_024 && refused > 50, "{} open", held.len());
    // Many changes while nobody reads: each reader finds the last set, and no queue of them.
    let mut last = Arc::new(rotated());
    for _ in 0..50 {
        last = Arc::new(rotated());
        open.material.send_replace(Arc::clone(&last));
        tokio::task::yield_now().await;
    }
    let wanted = last.svid.as_ref().expect("an SVID").chain[0].to_vec();
    let mut messages = 0;
    loop {
        let message = next(&mut slow).await.expect("a set");
        messages += 1;
        assert!(messages < 50, "a queue of sets");
        if message.svids[0].x509_svid == wanted {
            break;
        }
    }
    drop(held);
    next(&mut open.svids().await).await.expect("served again");
}

#[tokio::test]
async fn streams_end_when_the_sidecar_stops() {
    let open = Open::start(material(), &[]);
    let mut svids = open.svids().await;
    next(&mut svids).await.expect("at once");
    open.stop.cancel();
    tokio::time::timeout(PATIENCE, open.serving)
        .await
        .expect("stops in time")
        .expect("no panic");
    let ended = tokio::time::timeout(PATIENCE, svids.message()).await;
    assert!(
        !matches!(ended, Ok(Ok(Some(_))) | Err(_)),
        "the stream ends"
    );
}
