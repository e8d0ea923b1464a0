//! A control API for tests: a real TLS and gRPC server in this process that does what the test tells it to.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::tls::{self, ClientAuth, Identity};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use mesh_proto::mesh::certificate_service_server::{CertificateService, CertificateServiceServer};
use mesh_proto::mesh::{self, IssueCertificateRequest, IssueCertificateResponse};
use mesh_proto::{ResourceType, TypedResource};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::clock::{Clock as _, SystemClock};

/// Trust domain of all tests.
pub(crate) const DOMAIN: &str = "demo.test";
/// The workload under test.
pub(super) const WORKLOAD: &str = "demo/web-1";
/// Its identity.
pub(super) const WORKLOAD_ID: &str = "spiffe://demo.test/ns/demo/sa/web";
/// The control API's own identity.
pub(super) const API_ID: &str = "spiffe://demo.test/ns/postern-system/sa/control-api";
/// The join token that it takes.
pub(super) const TOKEN: &str = "canary-join-token";

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("root").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    pub(super) fn bundles(&self) -> Arc<TrustBundles> {
        let domain = TrustDomain::new(DOMAIN).expect("domain");
        let mut bundles = TrustBundles::default();
        let bundle = TrustBundle::new(domain, vec![self.root()], 0).expect("bundle");
        bundles.insert(bundle).expect("insert");
        Arc::new(bundles)
    }

    fn leaf(id: &str, lifetime: Duration) -> CertificateParams {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ascii"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = now - time::Duration::minutes(5);
        params.not_after = now + lifetime;
        params
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        let key = KeyPair::generate().expect("key");
        let leaf = Self::leaf(id, Duration::from_secs(3_600))
            .signed_by(&key, &self.issuer)
            .expect("leaf");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Identity::new(vec![leaf.der().clone()], key).expect("identity")
    }

    fn sign(
        &self,
        csr: &[u8],
        id: &str,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, Status> {
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&csr)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        request.params = Self::leaf(id, lifetime);
        let leaf = request
            .signed_by(&self.issuer)
            .map_err(|e| Status::internal(e.to_string()))?;
        Ok(leaf.der().clone())
    }
}

/// What the API does; changed by tests while it runs.
#[derive(Clone)]
pub(super) struct Script {
    /// Name of the workload in issued certificates' answers.
    pub(super) workload: String,
    /// Identity in issued certificates.
    pub(super) workload_id: String,
    /// Their lifetime.
    pub(super) lifetime: Duration,
    /// How far its clock is ahead of this machine's, seconds.
    pub(super) clock_ahead: i64,
    /// What each kind is answered with; a kind that is missing gets no answer.
    pub(super) resources: BTreeMap<ResourceType, Vec<Resource>>,
}

impl Script {
    /// Everything that a sidecar needs.
    pub(super) fn complete(authority: &Authority) -> Self {
        let mut resources: BTreeMap<_, _> = ResourceType::ALL
            .into_iter()
            .map(|t| (t, Vec::new()))
            .collect();
        let mut put = |resource: Resource, kind| resources.entry(kind).or_default().push(resource);
        put(
            wrap(&mesh::MeshDefaults {
                trust_domain: DOMAIN.into(),
                ..Default::default()
            }),
            ResourceType::MeshDefaults,
        );
        put(
            wrap(&mesh::TrustBundle {
                trust_domain: DOMAIN.into(),
                x509_authorities: vec![authority.root().to_vec()],
                sequence: 1,
                ..Default::default()
            }),
            ResourceType::TrustBundle,
        );
        put(
            wrap(&mesh::Workload {
                uid: WORKLOAD.into(),
                name: "web-1".into(),
                namespace: "demo".into(),
                service_account: "web".into(),
                addresses: vec![vec![127, 0, 0, 1]],
                mesh_protocol: mesh::MeshProtocol::Postern.into(),
                ..Default::default()
            }),
            ResourceType::Workload,
        );
        Self {
            workload: WORKLOAD.into(),
            workload_id: WORKLOAD_ID.into(),
            lifetime: Duration::from_secs(3_600),
            clock_ahead: 0,
            resources,
        }
    }
}

/// Packs a resource.
pub(super) fn wrap<M: TypedResource>(message: &M) -> Resource {
    Resource {
        version: "v1".into(),
        name: message.resource_name(),
        resource: Some(message.to_any()),
        ..Default::default()
    }
}

/// What the API saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Proofs of certificate requests: `token` or `svid`.
    pub(super) proofs: Vec<&'static str>,
    /// Every discovery request.
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
}

struct Shared {
    authority: Arc<Authority>,
    script: watch::Sender<Script>,
    seen: watch::Sender<Seen>,
    cut: watch::Sender<()>,
}

/// The running server. Once dropped it takes no new connection.
pub(super) struct FakeApi {
    pub(super) address: SocketAddr,
    pub(super) script: watch::Sender<Script>,
    pub(super) seen: watch::Receiver<Seen>,
    cut: watch::Sender<()>,
    accepting: JoinHandle<()>,
    serving: JoinHandle<()>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.accepting.abort();
        self.serving.abort();
    }
}

impl FakeApi {
    /// Starts it with an own identity of `id`.
    pub(super) async fn start(authority: &Arc<Authority>, id: &str, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let config = tls::server_config(
            &authority.identity(id),
            authority.bundles(),
            ClientAuth::Optional,
            &[b"h2"],
        )
        .expect("TLS");
        let (accepted, incoming) = mpsc::channel(8);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(config), accepted));
        let (script, _) = watch::channel(script);
        let (cut, _) = watch::channel(());
        let (seen_sender, seen) = watch::channel(Seen::default());
        let shared = Arc::new(Shared {
            authority: Arc::clone(authority),
            script: script.clone(),
            seen: seen_sender,
            cut: cut.clone(),
        });
        let api = Api { shared };
        let serving = tokio::spawn(async move {
            let _ = tonic::transport::Server::builder()
                .add_service(CertificateServiceServer::new(api.clone()))
                .add_service(AggregatedDiscoveryServiceServer::new(api))
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await;
        });
        Self {
            address,
            script,
            seen,
            cut,
            accepting,
            serving,
        }
    }

    /// Ends every discovery stream.
    pub(super) fn cut_streams(&self) {
        self.cut.send_replace(());
    }

    /// Waits until what was seen satisfies `predicate`.
    pub(super) async fn until(&mut self, predicate: impl FnMut(&Seen) -> bool) -> Seen {
        let waiting = self.seen.wait_for(predicate);
        let seen = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        seen.expect("the API saw what it waits for in time")
            .expect("alive")
            .clone()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: mpsc::Sender<io::Result<Io>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        if let Ok(stream) = acceptor.accept(tcp).await {
            let _ = accepted.send(Ok(Io(stream))).await;
        }
    }
}

#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl CertificateService for Api {
    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let bearer = request
            .metadata()
            .get("authorization")
            .and_then(|v| v.to_str().ok());
        let peer = request.extensions().get::<Peer>().and_then(|p| p.0.clone());
        let proof = match (bearer, peer) {
            (Some(bearer), _) if bearer == format!("Bearer {TOKEN}") => "token",
            (None, Some(id)) if id.as_str() == WORKLOAD_ID => "svid",
            _ => {
                return Err(Status::unauthenticated(
                    "neither a join token nor a certificate of a workload",
                ));
            }
        };
        let script = self.shared.script.borrow().clone();
        let leaf = self.shared.authority.sign(
            &request.get_ref().csr,
            &script.workload_id,
            script.lifetime,
        )?;
        self.shared.seen.send_modify(|seen| seen.proofs.push(proof));
        Ok(Response::new(IssueCertificateResponse {
            certificate_chain: vec![leaf.to_vec()],
            spiffe_id: script.workload_id,
            workload: script.workload,
            bundle: None,
            now_unix_ms: (SystemClock.now() + script.clock_ahead) * 1000,
        }))
    }

    async fn issue_jwt_svid(
        &self,
        _: Request<mesh::IssueJwtSvidRequest>,
    ) -> Result<Response<mesh::IssueJwtSvidResponse>, Status> {
        Err(Status::unimplemented("no test asks for tokens"))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Api {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|p| p.0.clone());
        if peer.is_none_or(|id| id.as_str() != WORKLOAD_ID) {
            return Err(Status::unauthenticated("no certificate"));
        }
        let (sender, receiver) = mpsc::channel(16);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(discovery(shared, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Answers each kind once per version of the script.
async fn discovery(
    shared: Arc<Shared>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut script = shared.script.subscribe();
    let mut cut = shared.cut.subscribe();
    let mut subscribed = Vec::new();
    let mut sent: BTreeMap<ResourceType, Vec<Resource>> = BTreeMap::new();
    loop {
        let current = script.borrow_and_update().resources.clone();
        for kind in &subscribed {
            let Some(resources) = current.get(kind).filter(|r| sent.get(kind) != Some(r)) else {
                continue;
            };
            let response = DeltaDiscoveryResponse {
                system_version_info: "5".into(),
                resources: resources.clone(),
                type_url: kind.type_url().into(),
                nonce: format!("{}-{}", kind.kind(), sent.len()),
                ..Default::default()
            };
            sent.insert(*kind, resources.clone());
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                let kind = ResourceType::from_type_url(&request.type_url).expect("a known type");
                if request.response_nonce.is_empty() {
                    subscribed.push(kind);
                }
                shared.seen.send_modify(|seen| seen.requests.push(request));
            }
            changed = script.changed() => if changed.is_err() { return },
            _ = cut.changed() => {
                let _ = responses.send(Err(Status::unavailable("going away"))).await;
                return;
            }
        }
    }
}

/// Who is on the other end of a connection.
#[derive(Clone)]
struct Peer(Option<SpiffeId>);

struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let (_, session) = self.0.get_ref();
        Peer(tls::peer_of(session).ok().map(|peer| peer.id().clone()))
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
