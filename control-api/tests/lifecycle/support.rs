//! A control API as a child process, an operator on its socket, and workloads that talk to it over TLS.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::tls::{self, Identity};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use mesh_proto::admin::{ApplyRequest, CreateJoinTokenRequest};
use mesh_proto::mesh::IssueCertificateRequest;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub(crate) const DOMAIN: &str = "test.example";
const PATIENCE: Duration = Duration::from_secs(30);

/// A control API and its data directory.
pub(crate) struct ControlApi {
    child: Child,
    scratch: Arc<tempfile::TempDir>,
    flags: Vec<String>,
    pub(crate) ready: Value,
}

impl Drop for ControlApi {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ControlApi {
    /// Started with further flags, over an empty data directory.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let scratch = Arc::new(tempfile::tempdir().expect("a directory"));
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        Self::over(scratch, flags)
    }

    fn over(scratch: Arc<tempfile::TempDir>, flags: Vec<String>) -> Self {
        let ready_file = scratch.path().join("ready");
        std::fs::remove_file(&ready_file).ok();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(scratch.path().join("log"))
            .expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_control-api"))
            .args(["run", "--trust-domain", DOMAIN])
            .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(scratch.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(&flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let end = Instant::now() + PATIENCE;
        let ready = loop {
            if let Ok(text) = std::fs::read_to_string(&ready_file) {
                break serde_json::from_str(&text).expect("JSON");
            }
            if child.try_wait().expect("a status").is_some() || Instant::now() > end {
                child.kill().ok();
                let log = std::fs::read_to_string(scratch.path().join("log"));
                panic!("not ready: {}", log.unwrap_or_default());
            }
            std::thread::yield_now();
        };
        Self {
            child,
            scratch,
            flags,
            ready,
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// kill -9, and a new process over the same data.
    pub(crate) fn restart(self) -> Self {
        let flags = self.flags.clone();
        self.restart_with(flags)
    }

    /// The same with other flags.
    pub(crate) fn restart_with(mut self, flags: Vec<String>) -> Self {
        self.kill();
        Self::over(Arc::clone(&self.scratch), flags)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn address(&self, of: &str) -> String {
        self.ready[of].as_str().expect("an address").to_owned()
    }

    /// A channel over the Unix socket: this user is an operator.
    pub(crate) async fn operator(&self) -> Channel {
        let socket = PathBuf::from(self.ready["admin_socket"].as_str().expect("a path"));
        Endpoint::from_static("http://socket")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .expect("the socket answers")
    }

    pub(crate) async fn apply(&self, manifest: &str) {
        let request = ApplyRequest {
            manifest: manifest.into(),
            ..ApplyRequest::default()
        };
        let mut admin = AdminServiceClient::new(self.operator().await);
        admin.apply(request).await.expect("applied");
    }

    /// Registers a workload `demo/<name>` with the service account of the same name.
    pub(crate) async fn register(&self, name: &str) {
        self.apply(&format!(
            "{{apiVersion: postern.dev/v1alpha1, kind: Workload, metadata: {{namespace: demo, name: {name}}}, spec: {{serviceAccount: {name}}}}}"
        ))
        .await;
    }

    /// A join token for a registered workload.
    pub(crate) async fn join_token(&self, workload: &str) -> String {
        let request = CreateJoinTokenRequest {
            workload: workload.into(),
            ttl_seconds: 600,
        };
        let mut admin = AdminServiceClient::new(self.operator().await);
        let made = admin.create_join_token(request).await.expect("a token");
        made.into_inner().token
    }

    /// The roots that the control API gives to whoever starts now.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        roots_of(&self.data().join("trust-bundle.pem"))
    }

    /// A TLS channel that verifies the control API by `roots`.
    pub(crate) async fn dial(
        &self,
        identity: Option<&Identity>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Channel, tonic::transport::Error> {
        let api = SpiffeId::parse(&format!(
            "spiffe://{DOMAIN}/ns/postern-system/sa/control-api"
        ))
        .expect("an ID");
        let config = tls::client_config(identity, bundles(roots), &[api], &[b"h2"]).expect("TLS");
        let address = self.address("grpc");
        Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_with_connector(tower::service_fn(move |_| {
                let (config, address) = (Arc::clone(&config), address.clone());
                async move {
                    let tcp = TcpStream::connect(address).await?;
                    let connector = TlsConnector::from(config);
                    let tls = connector.connect(tls::server_name(), tcp).await?;
                    Ok::<_, std::io::Error>(TokioIo::new(tls))
                }
            }))
            .await
    }

    /// Asks for a certificate with a bearer token.
    pub(crate) async fn issue(&self, bearer: &str) -> Result<Svid, Status> {
        let channel = self.dial(None, self.roots()).await;
        issue(channel.expect("a connection"), Some(bearer)).await
    }

    /// A registered workload with a certificate.
    pub(crate) async fn workload(&self, name: &str) -> Svid {
        self.register(name).await;
        let token = self.join_token(&format!("demo/{name}")).await;
        self.issue(&token).await.expect("a certificate")
    }
}

/// What a workload holds.
pub(crate) struct Svid {
    pub(crate) identity: Identity,
}

/// Asks for a certificate on a connection.
pub(crate) async fn issue(channel: Channel, bearer: Option<&str>) -> Result<Svid, Status> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).expect("a request");
    let mut request = Request::new(IssueCertificateRequest {
        csr: csr.der().to_vec(),
        lifetime_seconds: 0,
    });
    if let Some(bearer) = bearer {
        let value = MetadataValue::try_from(format!("Bearer {bearer}")).expect("a header");
        request.metadata_mut().insert("authorization", value);
    }
    let answer = CertificateServiceClient::new(channel)
        .issue_certificate(request)
        .await?
        .into_inner();
    let chain = answer.certificate_chain.iter();
    let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Svid {
        identity: Identity::new(chain, key).expect("an identity"),
    })
}

pub(crate) fn roots_of(pem: &Path) -> Vec<CertificateDer<'static>> {
    let domain = TrustDomain::new(DOMAIN).expect("a domain");
    let text = std::fs::read(pem).expect("a bundle");
    let bundle = TrustBundle::from_pem(domain, &text).expect("roots");
    bundle.authorities().to_vec()
}

pub(crate) fn bundles(roots: Vec<CertificateDer<'static>>) -> Arc<TrustBundles> {
    let domain = TrustDomain::new(DOMAIN).expect("a domain");
    let mut bundles = TrustBundles::default();
    let bundle = TrustBundle::new(domain, roots, 0).expect("roots");
    bundles.insert(bundle).expect("the only one");
    Arc::new(bundles)
}

/// `GET` over plain HTTP.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}
