//! One introspection endpoint: its connections, its credential, and whether it is worth asking.
//!
//! Connections are TLS 1.3, verified by name, kept warm, and used for one question at a time. An endpoint that keeps failing
//! is left alone for a while ([`Health`]).

use std::cell::RefCell;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh_auth::tls::{self, Identity};
use mesh_auth::{Secret, address};
use mesh_proto::mesh::{IntrospectionAuth, TokenIntrospection};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::assertion::Assertor;
use super::health::{Health, MAX_FAILURES};
use super::question::{self, Answer, Proof, Question};
use crate::snapshot::SharedSnapshot;
use crate::wall_clock::unix_seconds;
use crate::worker::dial::{DialError, Dialer};

/// Milliseconds that an answer may take where the rule does not say.
const DEFAULT_TIMEOUT: u32 = 1_000;
/// Idle connections kept.
const MAX_IDLE: usize = 8;
/// Largest answer, bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Largest credential or list of roots, bytes.
const MAX_FILE: usize = 1 << 20;
/// How long what was read from files is used: they may be replaced.
const FILES_TTL: Duration = Duration::from_secs(30);
/// Addresses of the name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("it failed {MAX_FAILURES} times in a row and is left alone for a while")]
    Resting,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{file}: {problem}")]
    File { file: String, problem: String },
    #[error("'{0}' is not a URL that can be asked")]
    Url(String),
    #[error("the name '{name}' does not resolve: {error}")]
    Name { name: String, error: io::Error },
    #[error("link-local, metadata, multicast and reserved addresses are never asked: {0}")]
    Address(SocketAddr),
    #[error("this workload has no certificate to present")]
    NoIdentity,
    #[error("{0}")]
    Assertion(&'static str),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("its answer is longer than {MAX_ANSWER} bytes, or broke off")]
    Body,
    #[error("{0}")]
    Answer(&'static str),
    #[error("it does not answer about this token: {0}")]
    Declined(StatusCode),
}

impl AskError {
    /// Whether the endpoint is to blame. What it, or something before it, does not like about one question says nothing of the
    /// next: a caller chooses what his token looks like.
    fn is_failure(&self) -> bool {
        !matches!(self, Self::Declined(_))
    }
}

/// Whether `status` is about what was asked, and not about who asked, where or how often (RFC 9110 §15.5).
fn is_about_question(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 404 | 405 | 407 | 408 | 429)
}

type Sender = SendRequest<Full<Bytes>>;

/// What the client proves itself with.
enum Credential {
    /// A secret that it shares with the endpoint.
    Secret(Secret<String>),
    /// A key of its own.
    Key(Arc<Assertor>),
    /// The workload's certificate, presented by the connection.
    Svid(Arc<Identity>),
}

/// What was read from files, and what follows from it.
struct Files {
    credential: Credential,
    tls: Arc<ClientConfig>,
    read_at: Instant,
}

/// The endpoint of one rule.
pub(super) struct Endpoint {
    rule: TokenIntrospection,
    /// The issuer that it belongs to.
    issuer: String,
    dialer: Dialer,
    /// Where the workload's certificate is.
    snapshot: SharedSnapshot,
    files: RefCell<Option<Rc<Files>>>,
    idle: RefCell<Vec<Sender>>,
    health: Arc<Health>,
}

impl Endpoint {
    pub(super) fn new(
        rule: &TokenIntrospection,
        issuer: &str,
        dialer: Dialer,
        snapshot: SharedSnapshot,
        health: Arc<Health>,
    ) -> Self {
        Self {
            rule: rule.clone(),
            issuer: issuer.to_owned(),
            dialer,
            snapshot,
            files: RefCell::default(),
            idle: RefCell::default(),
            health,
        }
    }

    pub(super) fn rule(&self) -> &TokenIntrospection {
        &self.rule
    }

    /// Whether it is what `rule` of `issuer` names.
    pub(super) fn is(&self, rule: &TokenIntrospection, issuer: &str) -> bool {
        self.issuer == issuer && self.rule == *rule
    }

    /// Asks about `token`.
    pub(super) async fn ask(&self, token: &[u8]) -> Result<Answer, AskError> {
        let timeout = Duration::from_millis(match self.rule.timeout_ms {
            0 => DEFAULT_TIMEOUT.into(),
            milliseconds => milliseconds.into(),
        });
        if !self.health.may_be_asked() {
            return Err(AskError::Resting);
        }
        let result = match tokio::time::timeout(timeout, self.exchange(token)).await {
            Ok(result) => result,
            Err(_) => Err(AskError::Timeout(timeout)),
        };
        match &result {
            Err(error) if error.is_failure() => self.health.failed(),
            // It, or what answers for it, is there.
            _ => self.health.answered(),
        }
        result
    }

    async fn exchange(&self, token: &[u8]) -> Result<Answer, AskError> {
        let files = self.files().await?;
        let uri: Uri = self.rule.endpoint.parse().map_err(|_| self.not_a_url())?;
        loop {
            let idle = self.take_idle();
            let reused = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect(&uri, &files.tls).await?,
            };
            let question = self.question(token, &files.credential).await?;
            let response = match sender.send_request(self.request(&uri, question)?).await {
                Ok(response) => response,
                // A kept connection that was closed at the moment it was used again.
                Err(error) if reused => {
                    tracing::debug!(%error, "asking again on a new connection");
                    self.idle.borrow_mut().clear();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|_| AskError::Body)?.to_bytes();
            if sender.ready().await.is_ok()
                && self.idle.borrow().len() < MAX_IDLE
                && self.is_current(&files.credential)
            {
                self.idle.borrow_mut().push(sender);
            }
            if is_about_question(head.status) {
                return Err(AskError::Declined(head.status));
            }
            return question::read(head.status, &head.headers, &body).map_err(AskError::Answer);
        }
    }

    async fn question(&self, token: &[u8], credential: &Credential) -> Result<Question, AskError> {
        let id = self.rule.client_id.as_str();
        Ok(match credential {
            Credential::Secret(secret) => {
                let proof = match self.rule.auth() {
                    IntrospectionAuth::SecretPost => Proof::Post(secret),
                    _ => Proof::Basic(secret),
                };
                Question::new(token, id, &proof)
            }
            Credential::Key(key) => {
                let assertion = assertion(key).await?;
                Question::new(token, id, &Proof::Assertion(&assertion))
            }
            Credential::Svid(identity) => {
                let id = match id {
                    "" => identity.id().as_str(),
                    id => id,
                };
                Question::new(token, id, &Proof::Certificate)
            }
        })
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        let snapshot = self.snapshot.load();
        snapshot.tls.as_ref().map(|tls| Arc::clone(&tls.identity))
    }

    /// A certificate is renewed; a secret or key holds until its file is read again.
    fn is_current(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Secret(_) | Credential::Key(_) => true,
            Credential::Svid(held) => self.identity().is_some_and(|now| Arc::ptr_eq(&now, held)),
        }
    }

    fn not_a_url(&self) -> AskError {
        AskError::Url(self.rule.endpoint.escape_default().to_string())
    }

    fn request(&self, uri: &Uri, question: Question) -> Result<Request<Full<Bytes>>, AskError> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(question.form.expose().clone())))
            .map_err(|_| self.not_a_url())?;
        if let Some(value) = question.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static("postern"));
        Ok(request)
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self, uri: &Uri, config: &Arc<ClientConfig>) -> Result<Sender, AskError> {
        let host = uri.host().ok_or_else(|| self.not_a_url())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| self.not_a_url())?;
        let unresolved = |error| AskError::Name {
            name: host.to_owned(),
            error,
        };
        let addresses = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(443)))
            .await
            .map_err(unresolved)?;
        let mut failure = unresolved(io::ErrorKind::NotFound.into());
        for address in addresses.take(MAX_ADDRESSES) {
            if address::class(address.ip()) == address::Class::Never {
                failure = AskError::Address(address);
                continue;
            }
            let stream = match self.dialer.connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    failure = error.into();
                    continue;
                }
            };
            let stream = TlsConnector::from(Arc::clone(config))
                .connect(name, stream)
                .await
                .map_err(|error| AskError::Tls(error.to_string()))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Ends when the sender is dropped or the server hangs up; what goes wrong is told to the sender.
            tokio::spawn(connection);
            return Ok(sender);
        }
        Err(failure)
    }

    async fn files(&self) -> Result<Rc<Files>, AskError> {
        let held = self.files.borrow().clone();
        if let Some(held) = held {
            if !self.is_current(&held.credential) {
                // A kept connection speaks for the certificate that it was opened with.
                self.idle.borrow_mut().clear();
            } else if held.read_at.elapsed() < FILES_TTL {
                return Ok(held);
            }
        }
        let credential = self.credential().await?;
        let mut roots = RootCertStore::empty();
        if self.rule.ca_file.is_empty() {
            roots.roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        } else {
            let pem = read_file(&self.rule.ca_file).await?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate =
                    certificate.map_err(|e| problem(&self.rule.ca_file, &e.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|e| problem(&self.rule.ca_file, &e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(problem(&self.rule.ca_file, "has no certificate in it"));
            }
        }
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| AskError::Tls(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &credential {
            Credential::Svid(identity) => builder.with_client_cert_resolver(identity.resolver()),
            Credential::Secret(_) | Credential::Key(_) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let files = Rc::new(Files {
            credential,
            tls: Arc::new(config),
            read_at: Instant::now(),
        });
        *self.files.borrow_mut() = Some(Rc::clone(&files));
        Ok(files)
    }

    async fn credential(&self) -> Result<Credential, AskError> {
        if self.rule.auth() == IntrospectionAuth::Svid {
            let identity = self.identity().ok_or(AskError::NoIdentity)?;
            return Ok(Credential::Svid(identity));
        }
        let file = self.rule.credential_file.as_str();
        let bytes = Secret::new(read_file(file).await?);
        if self.rule.auth() == IntrospectionAuth::PrivateKeyJwt {
            let rule = &self.rule;
            let key = Assertor::new(bytes.expose(), &rule.client_id, &self.issuer, &rule.key_id);
            return match key {
                Ok(key) => Ok(Credential::Key(Arc::new(key))),
                Err(why) => Err(problem(file, why)),
            };
        }
        let text = std::str::from_utf8(bytes.expose()).map_err(|_| problem(file, "is not text"))?;
        // Editors end a file with a line end that is no part of the secret.
        let text = text.trim_end_matches(['\r', '\n']);
        Ok(Credential::Secret(Secret::new(text.to_owned())))
    }
}

async fn assertion(key: &Arc<Assertor>) -> Result<Secret<String>, AskError> {
    let now = unix_seconds();
    let assertion = if key.is_slow() {
        let key = Arc::clone(key);
        let made = tokio::task::spawn_blocking(move || key.assert(now));
        made.await
            .map_err(|_| AskError::Assertion("it was not signed"))?
    } else {
        key.assert(now)
    };
    assertion.map_err(AskError::Assertion)
}

fn problem(file: &str, problem: &str) -> AskError {
    AskError::File {
        file: file.escape_default().to_string(),
        problem: problem.to_owned(),
    }
}

/// Not on the worker's thread: a file may be on a slow disk.
async fn read_file(file: &str) -> Result<Vec<u8>, AskError> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_FILE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let opened = std::fs::File::open(path)?;
        opened.take(limit).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    });
    let bytes = match read.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(problem(file, &error.to_string())),
        Err(_) => return Err(problem(file, "was not read")),
    };
    match bytes.len() {
        0 => Err(problem(file, "is empty")),
        1..=MAX_FILE => Ok(bytes),
        _ => Err(problem(file, "is too long")),
    }
}
