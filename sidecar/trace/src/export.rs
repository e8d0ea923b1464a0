//! The exporter: empties the workers' queues and sends batches to the collector, over gRPC or HTTP.
//!
//! One export at a time, each bounded by a timeout; what cannot be sent is tried again with growing pauses for as long as
//! the timeout allows, then dropped and counted. After a batch that was refused there is a pause too, whatever the reason:
//! somebody who refuses everything at once would otherwise be sent, and asked to take a connection for, each batch that the
//! workers can fill. A collector that is dead, slow or hostile costs the queues' memory and nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use mesh_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
use metrics::{counter, describe_counter};
use prost::Message as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder as Encode};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::encode::Encoder;
use crate::id::IdSource;
use crate::settings::{Protocol, Settings};
use crate::span::Span;
use crate::tracer::Queue;

/// How often the queues are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// First pause after a failure; doubles with each further one until something succeeds.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// OTLP/gRPC's method.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Most that a collector's answer may say.
const MAX_ANSWER: usize = 64 << 10;

/// Why the exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file cannot be read or holds something else.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS to the collector cannot be set up: {0}")]
    Tls(String),
}

/// Why a batch was not taken.
#[derive(Debug)]
struct Refused {
    reason: String,
    /// Worth another try.
    passing: bool,
}

impl Refused {
    fn passing(reason: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            passing: true,
        }
    }

    fn for_good(reason: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            passing: false,
        }
    }
}

/// Takes spans from the workers' queues and sends them to one collector. What it has taken stays with it until the
/// collector has answered, so that whoever stops it in between can still [`finish`](Self::finish).
pub struct Exporter {
    sender: Sender,
    queues: Vec<Queue>,
    batch: Vec<Span>,
}

/// Sends batches.
struct Sender {
    settings: Settings,
    dialer: Dialer,
    grpc: Option<Grpc<Channel>>,
    encoder: Encoder,
    backoff: Backoff,
}

/// How long the collector is left alone after failures. Half of a pause is random, so that sidecars which lost the same
/// collector do not come back together.
struct Backoff {
    next: Duration,
    random: IdSource,
}

impl Backoff {
    fn new(seed: u64) -> Self {
        Self {
            next: FIRST_PAUSE,
            random: IdSource::new(seed),
        }
    }

    /// It works.
    fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }

    /// It failed once more: the pause until the next try.
    fn pause(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(LONGEST_PAUSE);
        longest.mul_f64(0.5 + 0.5 * self.random.share())
    }
}

impl Exporter {
    /// An exporter; nothing is sent yet. `mark` is set on its sockets, so that capture lets them pass.
    ///
    /// # Errors
    /// A file of TLS does not do.
    pub fn new(
        settings: Settings,
        queues: Vec<Queue>,
        mark: Option<u32>,
        seed: u64,
    ) -> Result<Self, ExportError> {
        let tls = match settings.endpoint.scheme_str() {
            Some("https") => Some(tls(&settings)?),
            _ => None,
        };
        Ok(Self {
            batch: Vec::with_capacity(settings.batch),
            sender: Sender {
                dialer: Dialer { tls, mark },
                encoder: Encoder::new(&settings.resource, settings.attributes, IdSource::new(seed)),
                backoff: Backoff::new(seed.rotate_left(32)),
                settings,
                grpc: None,
            },
            queues,
        })
    }

    /// Runs until it is dropped.
    pub async fn run(&mut self) {
        describe_counter!("postern_spans_exported_total", "Spans the collector took.");
        describe_counter!(
            "postern_spans_dropped_total",
            "Spans that did not reach the collector, by reason."
        );
        let (size, delay) = (self.sender.settings.batch, self.sender.settings.delay);
        let wake = Arc::clone(&self.sender.settings.wake);
        let mut oldest: Option<tokio::time::Instant> = None;
        let mut look = tokio::time::interval(LOOK.min(delay));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = wake.notified() => {}
            }
            loop {
                self.take();
                if self.batch.is_empty() {
                    break;
                }
                let since = *oldest.get_or_insert_with(tokio::time::Instant::now);
                let full = self.batch.len() >= size;
                if !full && since.elapsed() < delay {
                    break;
                }
                oldest = None;
                let sent = self.sender.export(&self.batch).await;
                self.batch.clear();
                if let Err(Refusing) = sent {
                    let pause = self.sender.backoff.pause();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Sends what is left, in at most a second: the process is ending, and nobody waits long for a collector.
    pub async fn finish(mut self) {
        let all = async {
            loop {
                self.take();
                if self.batch.is_empty() {
                    return;
                }
                let sent = self.sender.export(&self.batch).await;
                self.batch.clear();
                if sent.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    fn take(&mut self) {
        for queue in &self.queues {
            let room = self.sender.settings.batch.saturating_sub(self.batch.len());
            self.batch
                .extend(queue.try_iter().take(room).map(|span| *span));
        }
    }
}

impl Sender {
    /// Sends a batch, or drops and counts it.
    async fn export(&mut self, batch: &[Span]) -> Result<(), Refusing> {
        let request = self.encoder.request(batch);
        let timeout = self.settings.timeout;
        let mut refused = Refused::passing("no answer in time");
        let attempts = async {
            loop {
                match self.send(&request).await {
                    Ok(rejected) => return Ok(rejected),
                    Err(error) => {
                        let passing = error.passing;
                        refused = error;
                        if !passing {
                            return Err(());
                        }
                    }
                }
                tokio::time::sleep(self.backoff.pause()).await;
            }
        };
        let count = batch.len() as u64;
        match tokio::time::timeout(timeout, attempts).await {
            Ok(Ok(rejected)) => {
                self.backoff.reset();
                let rejected = rejected.min(count);
                counter!("postern_spans_exported_total").increment(count - rejected);
                dropped("rejected", rejected);
                Ok(())
            }
            Ok(Err(())) => Err(gave_up(&refused, count)),
            // It had all the time there is: whoever comes next has waited.
            Err(_) => {
                gave_up(&refused, count);
                Ok(())
            }
        }
    }

    /// Sends one batch; returns how many spans the collector did not want.
    async fn send(&mut self, request: &Bytes) -> Result<u64, Refused> {
        let response = match self.settings.protocol {
            Protocol::Grpc => self.send_grpc(request).await?,
            Protocol::Http => self.send_http(request).await?,
        };
        let rejected = response.partial_success.map_or(0, |p| p.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    async fn send_grpc(&mut self, request: &Bytes) -> Result<ExportTraceServiceResponse, Refused> {
        let client = match &mut self.grpc {
            Some(client) => client,
            None => {
                let channel = self.dialer.channel(&self.settings.endpoint);
                let client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
                self.grpc.insert(client)
            }
        };
        let mut message = tonic::Request::new(request.clone());
        for (name, value) in &self.settings.headers.0 {
            if let (Ok(name), Ok(value)) = (
                tonic::metadata::AsciiMetadataKey::from_bytes(name.as_str().as_bytes()),
                tonic::metadata::AsciiMetadataValue::try_from(value.as_bytes()),
            ) {
                message.metadata_mut().insert(name, value);
            }
        }
        if let Err(error) = client.ready().await {
            return Err(Refused::passing(error));
        }
        let path = PathAndQuery::from_static(EXPORT);
        match client.unary(message, path, Encoded).await {
            Ok(response) => Ok(response.into_inner()),
            // OTLP specification, "Failures".
            Err(status)
                if matches!(
                    status.code(),
                    Code::Cancelled
                        | Code::DeadlineExceeded
                        | Code::Aborted
                        | Code::OutOfRange
                        | Code::Unavailable
                        | Code::DataLoss
                        | Code::Unknown
                ) =>
            {
                Err(Refused::passing(status.code()))
            }
            Err(status) => Err(Refused::for_good(status.code())),
        }
    }

    async fn send_http(&self, request: &Bytes) -> Result<ExportTraceServiceResponse, Refused> {
        let endpoint = &self.settings.endpoint;
        let stream = self.dialer.open(endpoint).await.map_err(Refused::passing)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Refused::passing)?;
        let host = endpoint.authority().map_or("", |a| a.as_str());
        let path = endpoint.path_and_query().map_or("/", |p| p.as_str());
        let mut message = Request::post(path)
            .header(http::header::HOST, host)
            .header(http::header::CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.settings.headers.0 {
            message = message.header(name, value);
        }
        let message = message
            .body(Full::new(request.clone()))
            .map_err(Refused::for_good)?;
        let exchange = async {
            let response = sender
                .send_request(message)
                .await
                .map_err(Refused::passing)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(Refused::passing)?
                .to_bytes();
            match status.as_u16() {
                200..=299 => Ok(ExportTraceServiceResponse::decode(body).unwrap_or_default()),
                429 | 502..=504 => Err(Refused::passing(status)),
                _ => Err(Refused::for_good(status)),
            }
        };
        // The connection lives as long as the exchange: nothing is left running.
        tokio::select! {
            answer = exchange => answer,
            ended = connection => match ended {
                Ok(()) => Err(Refused::passing("the collector closed the connection")),
                Err(error) => Err(Refused::passing(error)),
            },
        }
    }
}

/// A request that is bytes already, and its answer.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encode for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.len());
        out.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let message = input.copy_to_bytes(input.remaining());
        let decoded = ExportTraceServiceResponse::decode(message);
        decoded
            .map(Some)
            .map_err(|e| Status::internal(e.to_string()))
    }
}

/// A batch was refused for good; the next one should wait.
#[derive(Debug)]
struct Refusing;

fn gave_up(refused: &Refused, spans: u64) -> Refusing {
    tracing::warn!(reason = refused.reason, spans, "spans not exported");
    dropped("export_failed", spans);
    Refusing
}

fn dropped(reason: &'static str, count: u64) {
    if count > 0 {
        counter!("postern_spans_dropped_total", "reason" => reason).increment(count);
    }
}

/// Opens connections to the collector.
#[derive(Clone)]
struct Dialer {
    tls: Option<Arc<rustls::ClientConfig>>,
    mark: Option<u32>,
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dialer {
    fn channel(&self, endpoint: &Uri) -> Channel {
        let target = endpoint.clone();
        let dialer = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (dialer, target) = (dialer.clone(), target.clone());
            async move { dialer.open(&target).await.map(TokioIo::new) }
        });
        // TLS is the dialer's business: to tonic every endpoint is http, and its origin says what it is.
        let authority = endpoint.authority().map_or("localhost", |a| a.as_str());
        let plain = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| Uri::from_static("http://localhost"));
        Endpoint::from(plain)
            .origin(endpoint.clone())
            .connect_with_connector_lazy(connector)
    }

    async fn open(&self, endpoint: &Uri) -> io::Result<Box<dyn Stream>> {
        let host = endpoint.host().unwrap_or("localhost");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let default = if self.tls.is_some() { 443 } else { 80 };
        let port = endpoint.port_u16().unwrap_or(default);
        let tcp = self.dial(host, port).await?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await?;
        Ok(Box::new(stream))
    }

    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((host, port)).await? {
            let socket = match address {
                std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            if let Some(mark) = self.mark {
                socket2::SockRef::from(&socket).set_mark(mark)?;
            }
            match socket.connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn tls(settings: &Settings) -> Result<Arc<rustls::ClientConfig>, ExportError> {
    let file = |file: &std::path::Path, reason: String| ExportError::File {
        file: file.to_owned(),
        reason,
    };
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| file(path, e.to_string()))
    };
    let Some(roots_file) = &settings.certificate else {
        return Err(ExportError::Tls(
            "an https collector needs its roots: give OTEL_EXPORTER_OTLP_CERTIFICATE".into(),
        ));
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(roots_file)? {
        roots
            .add(root)
            .map_err(|e| file(roots_file, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |e: rustls::Error| ExportError::Tls(e.to_string());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((chain, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| file(key_file, e.to_string()))?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(failed)?
        }
    };
    config.alpn_protocols = match settings.protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
