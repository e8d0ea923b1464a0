//! What the demo's clients say: plain HTTP, gRPC, an Upgrade; none of it knows of a mesh.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::place::Place;
use crate::connect::with_causes;

/// A header that carries a text to look for on the wire.
pub(super) const MARKER: &str = "x-demo-marker";
/// RFC 6455 section 1.3's example key.
pub(super) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to it.
pub(super) const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const MOST_BODY: usize = 1 << 20;

/// Where a client connects and whom it asks for.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) place: Place,
    pub(super) address: SocketAddr,
    /// `Host`.
    pub(super) authority: String,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header's text; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// One line of the body, for people.
    pub(super) fn gist(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(120)
            .collect()
    }
}

/// A request for a path.
pub(super) fn request(route: &Route, method: Method, path: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    if let Ok(host) = route.authority.parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

/// An open HTTP/1.1 connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Opens one.
    pub(super) async fn open(route: &Route) -> Result<Self, String> {
        let stream = route
            .place
            .connect(route.address)
            .await
            .map_err(|error| format!("no connection to {}: {error}", route.address))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| with_causes(&error))?;
        let driver = tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, driver })
    }

    /// Sends one request and reads the whole answer.
    pub(super) async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Answer, String> {
        let exchange = async {
            let response = self.exchange(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MOST_BODY)
                .collect()
                .await
                .map_err(|error| format!("the answer broke off: {error}"))?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        within(exchange).await
    }

    async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        self.sender
            .ready()
            .await
            .map_err(|error| with_causes(&error))?;
        self.sender
            .send_request(request)
            .await
            .map_err(|error| with_causes(&error))
    }
}

/// One request on a connection of its own.
pub(super) async fn send(route: &Route, request: Request<Empty<Bytes>>) -> Result<Answer, String> {
    Connection::open(route).await?.send(request).await
}

/// A connection that was upgraded to a WebSocket.
pub(super) struct Upgraded {
    pub(super) stream: TokioIo<hyper::upgrade::Upgraded>,
    /// Drives it.
    _connection: Connection,
}

impl Upgraded {
    /// Upgrades a new connection.
    pub(super) async fn open(
        route: &Route,
        path: &str,
        marker: &str,
        extra: &[(&'static str, &str)],
    ) -> Result<Self, String> {
        let mut request = request(route, Method::GET, path);
        let own = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", WEBSOCKET_KEY),
            (MARKER, marker),
        ];
        for (name, value) in own.iter().chain(extra) {
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(*name, value);
            }
        }
        within(async {
            let mut connection = Connection::open(route).await?;
            let response = connection.exchange(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(format!("answered {} instead of 101", response.status()));
            }
            if response
                .headers()
                .get("sec-websocket-accept")
                .is_none_or(|a| a != WEBSOCKET_ACCEPT)
            {
                return Err("the answer to the WebSocket key was lost on the way".to_owned());
            }
            let upgraded = hyper::upgrade::on(response)
                .await
                .map_err(|error| with_causes(&error))?;
            Ok(Self {
                stream: TokioIo::new(upgraded),
                _connection: connection,
            })
        })
        .await
    }

    /// Sends bytes; returns as many that came back.
    pub(super) async fn echo(&mut self, message: &[u8]) -> Result<Vec<u8>, String> {
        let broke = |error: std::io::Error| format!("the upgraded connection broke: {error}");
        within(async {
            self.stream.write_all(message).await.map_err(broke)?;
            let mut back = vec![0; message.len()];
            self.stream.read_exact(&mut back).await.map_err(broke)?;
            Ok(back)
        })
        .await
    }
}

/// Puts a deadline on an exchange.
pub(super) async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

/// gRPC's standard health service, both sides. The two messages are written out: a `.proto` for them would be longer.
pub(super) mod health {
    use http::uri::PathAndQuery;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tonic::body::Body;
    use tonic::transport::Channel;
    use tonic_prost::ProstCodec;

    /// Path of the one method used.
    pub(in super::super) const PATH: &str = "/grpc.health.v1.Health/Check";

    /// `grpc.health.v1.HealthCheckRequest`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub(in super::super) struct Question {
        /// Whose health.
        #[prost(string, tag = "1")]
        pub(in super::super) service: String,
    }

    /// `grpc.health.v1.HealthCheckResponse`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub(in super::super) struct Verdict {
        /// 1 is serving.
        #[prost(int32, tag = "1")]
        pub(in super::super) status: i32,
    }

    /// Answers "serving".
    pub(in super::super) async fn serve(request: Request<Incoming>) -> Response<Body> {
        let service = tower::service_fn(|_: tonic::Request<Question>| async {
            Ok::<_, tonic::Status>(tonic::Response::new(Verdict { status: 1 }))
        });
        tonic::server::Grpc::new(ProstCodec::<Verdict, Question>::default())
            .unary(service, request)
            .await
    }

    /// Asks.
    pub(in super::super) async fn ask(
        channel: Channel,
        marker: &str,
    ) -> Result<Verdict, tonic::Status> {
        let mut client = tonic::client::Grpc::new(channel);
        client
            .ready()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let mut request = tonic::Request::new(Question {
            service: marker.to_owned(),
        });
        if let Ok(value) = marker.parse() {
            request.metadata_mut().insert(super::MARKER, value);
        }
        let codec = ProstCodec::<Question, Verdict>::default();
        client
            .unary(request, PathAndQuery::from_static(PATH), codec)
            .await
            .map(tonic::Response::into_inner)
    }
}
