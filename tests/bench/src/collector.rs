//! Collectors of spans: a real one (OTLP over gRPC), and three that nobody wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use mesh_proto::opentelemetry::proto::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use mesh_proto::opentelemetry::proto::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use mesh_proto::opentelemetry::proto::common::v1::any_value::Value;
use mesh_proto::opentelemetry::proto::trace::v1::Span;
use mesh_proto::opentelemetry::proto::trace::v1::span::SpanKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

/// Most bytes of one export.
const MOST: usize = 64 << 20;

/// A collector, for as long as it is held.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<Received>,
    /// A port that is ours, and on which nobody listens.
    _held: Option<TcpSocket>,
    _tasks: JoinSet<()>,
}

/// A span and the service whose sidecar made it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) service: String,
    pub(crate) span: Span,
}

#[derive(Default)]
struct Received {
    /// Server and client spans, which are those of requests; the others are their phases.
    requests: AtomicU64,
    spans: Option<Mutex<Vec<Told>>>,
}

/// What is wrong with a collector.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Nobody listens.
    Dead,
    /// Takes connections and what is sent, and never says a word.
    Slow,
    /// Answers at once, with an endless stream of what is no HTTP/2.
    Hostile,
}

impl Collector {
    /// Counts spans.
    pub(crate) async fn counting() -> anyhow::Result<Self> {
        Self::start(Received::default()).await
    }

    /// Keeps every span.
    pub(crate) async fn keeping() -> anyhow::Result<Self> {
        let received = Received {
            spans: Some(Mutex::default()),
            ..Received::default()
        };
        Self::start(received).await
    }

    async fn start(received: Received) -> anyhow::Result<Self> {
        let (listener, address) = listen().await?;
        let received = Arc::new(received);
        let service = TraceServiceServer::from_arc(Arc::new(Service(Arc::clone(&received))))
            .max_decoding_message_size(MOST);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            let _ = server.serve_with_incoming(incoming).await;
        });
        Ok(Self {
            address,
            received,
            _held: None,
            _tasks: tasks,
        })
    }

    /// A collector that does not do its work.
    pub(crate) async fn faulty(fault: Fault) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let mut held = None;
        let address = match fault {
            Fault::Dead => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
                let address = socket.local_addr()?;
                held = Some(socket);
                address
            }
            Fault::Slow | Fault::Hostile => {
                let (listener, address) = listen().await?;
                tasks.spawn(async move {
                    let mut open = JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        open.spawn(async move {
                            let _ = misbehave(stream, fault).await;
                        });
                    }
                });
                address
            }
        };
        Ok(Self {
            address,
            received: Arc::default(),
            _held: held,
            _tasks: tasks,
        })
    }

    /// As `OTEL_EXPORTER_OTLP_ENDPOINT` wants it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Spans of requests that came so far.
    pub(crate) fn requests(&self) -> u64 {
        self.received.requests.load(Ordering::Relaxed)
    }

    /// The kept spans by trace.
    pub(crate) fn traces(&self) -> BTreeMap<Vec<u8>, Vec<Told>> {
        let mut traces = BTreeMap::<_, Vec<_>>::new();
        if let Some(spans) = &self.received.spans {
            let spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
            for told in spans.iter() {
                let trace = traces.entry(told.span.trace_id.clone()).or_default();
                trace.push(told.clone());
            }
        }
        traces
    }
}

async fn listen() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.context("no port for a collector")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn misbehave(mut stream: TcpStream, fault: Fault) -> std::io::Result<()> {
    if matches!(fault, Fault::Hostile) {
        let noise = [0xAA; 16 << 10];
        loop {
            stream.write_all(&noise).await?;
        }
    }
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

struct Service(Arc<Received>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            let service = service_name(resource.resource.as_ref());
            let spans = resource.scope_spans.into_iter().flat_map(|s| s.spans);
            for span in spans {
                if matches!(span.kind(), SpanKind::Server | SpanKind::Client) {
                    self.0.requests.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(kept) = &self.0.spans {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push(Told {
                        service: service.clone(),
                        span,
                    });
                }
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn service_name(
    resource: Option<&mesh_proto::opentelemetry::proto::resource::v1::Resource>,
) -> String {
    let attributes = resource.map_or(&[][..], |r| &r.attributes);
    let name = attributes.iter().find(|a| a.key == "service.name");
    match name.and_then(|a| a.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}
