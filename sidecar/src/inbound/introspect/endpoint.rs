//! One introspection endpoint: its connections, its credential, and whether it is worth asking.
//!
//! Connections are TLS 1.3, verified by name, kept warm, and used for one question at a time. After a few failures in a row
//! the endpoint is left alone for a while, except for one question that finds out whether it is well again.

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh_auth::{Secret, tls};
use mesh_proto::mesh::TokenIntrospection;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::question::{self, Answer, Question};
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
/// Failures in a row after which it is left alone.
const MAX_FAILURES: u32 = 5;
/// For how long.
const REST: Duration = Duration::from_secs(5);

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
}

type Sender = SendRequest<Full<Bytes>>;

/// What was read from files.
struct Files {
    secret: Secret<String>,
    tls: Arc<ClientConfig>,
    read_at: Instant,
}

/// The endpoint of one rule.
pub(super) struct Endpoint {
    rule: TokenIntrospection,
    dialer: Dialer,
    files: RefCell<Option<Rc<Files>>>,
    idle: RefCell<Vec<Sender>>,
    failures: Cell<u32>,
    rests_until: Cell<Instant>,
}

impl Endpoint {
    pub(super) fn new(rule: &TokenIntrospection, dialer: Dialer) -> Self {
        Self {
            rule: rule.clone(),
            dialer,
            files: RefCell::default(),
            idle: RefCell::default(),
            failures: Cell::default(),
            rests_until: Cell::new(Instant::now()),
        }
    }

    pub(super) fn rule(&self) -> &TokenIntrospection {
        &self.rule
    }

    /// Asks about `token`.
    pub(super) async fn ask(&self, token: &[u8]) -> Result<Answer, AskError> {
        let timeout = Duration::from_millis(match self.rule.timeout_ms {
            0 => DEFAULT_TIMEOUT.into(),
            milliseconds => milliseconds.into(),
        });
        if self.failures.get() >= MAX_FAILURES {
            let now = Instant::now();
            if now < self.rests_until.get() {
                return Err(AskError::Resting);
            }
            // This question finds out; those that come meanwhile are not asked.
            self.rests_until.set(now + REST);
        }
        let result = match tokio::time::timeout(timeout, self.exchange(token)).await {
            Ok(result) => result,
            Err(_) => Err(AskError::Timeout(timeout)),
        };
        match &result {
            Ok(_) => self.failures.set(0),
            Err(_) => {
                self.failures.set(self.failures.get().saturating_add(1));
                self.rests_until.set(Instant::now() + REST);
            }
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
            let question =
                Question::new(token, self.rule.auth(), &self.rule.client_id, &files.secret);
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
            if sender.ready().await.is_ok() && self.idle.borrow().len() < MAX_IDLE {
                self.idle.borrow_mut().push(sender);
            }
            return question::read(head.status, &head.headers, &body).map_err(AskError::Answer);
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
        if let Some(held) = held
            && held.read_at.elapsed() < FILES_TTL
        {
            return Ok(held);
        }
        let secret = read_file(&self.rule.credential_file).await?;
        let secret = String::from_utf8(secret)
            .map_err(|_| problem(&self.rule.credential_file, "is not text"))?;
        let secret = Secret::new(secret);
        // Editors end a file with a line end that is no part of the secret.
        let secret = Secret::new(secret.expose().trim_end_matches(['\r', '\n']).to_owned());
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
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| AskError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let files = Rc::new(Files {
            secret,
            tls: Arc::new(config),
            read_at: Instant::now(),
        });
        *self.files.borrow_mut() = Some(Rc::clone(&files));
        Ok(files)
    }
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
