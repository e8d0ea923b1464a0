//! The demo's own applications: small servers that know nothing of the mesh.
//!
//! `/` answers with what arrived, as JSON; `/call-payments` calls `payments` the way any application would; an `Upgrade:
//! websocket` is answered with 101 and every byte comes back. `orders` also has a gRPC health service, a TCP echo and a
//! TCP service that sends the first bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;

use super::client::{self, health};
use super::place::Place;
use crate::cli::DemoAppArgs;
use crate::failure::Failure;

/// What the service that speaks first says.
pub(super) const BANNER: &str = "220 orders ready, and first to speak\r\n";
/// What it answers to anything.
pub(super) const GOODBYE: &str = "221 bye\r\n";
/// Largest request body that is read.
const MOST_BODY: usize = 1 << 20;

/// What one application knows.
struct Role {
    name: String,
    payments: Option<(SocketAddr, String)>,
}

/// Serves until the process is ended.
pub(crate) async fn run(arguments: DemoAppArgs) -> Result<ExitCode, Failure> {
    let role: &'static Role = Box::leak(Box::new(Role {
        name: arguments.role,
        payments: arguments.payments.zip(arguments.payments_host),
    }));
    let mut ready = Map::new();
    let http = listen("http", arguments.http, &mut ready).await?;
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(serve(http, move |stream| serve_http(role, stream)));
    if let Some(address) = arguments.grpc {
        let grpc = listen("grpc", address, &mut ready).await?;
        servers.spawn(serve(grpc, move |stream| serve_http(role, stream)));
    }
    if let Some(address) = arguments.echo {
        servers.spawn(serve(listen("echo", address, &mut ready).await?, echo));
    }
    if let Some(address) = arguments.banner {
        servers.spawn(serve(listen("banner", address, &mut ready).await?, banner));
    }
    // Renamed into place: whoever sees the file sees all of it.
    let partial = arguments.ready_file.with_extension("partial");
    std::fs::write(&partial, Value::Object(ready).to_string())
        .and_then(|()| std::fs::rename(&partial, &arguments.ready_file))
        .map_err(|error| Failure::problem("cannot write the ready file").why(error))?;
    servers.join_next().await;
    Err(Failure::problem("a listener was lost"))
}

async fn listen(
    what: &str,
    address: SocketAddr,
    ready: &mut Map<String, Value>,
) -> Result<TcpListener, Failure> {
    let open = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, bound))
    };
    let (listener, bound) = open.await.map_err(|error| {
        Failure::problem(format!("cannot listen on {address} for {what}")).why(error)
    })?;
    ready.insert(what.to_owned(), json!(bound));
    Ok(listener)
}

/// Accepts for ever. A failed accept (a connection that was reset meanwhile, no descriptors left) is not the end.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    handle: impl Fn(TcpStream) -> F + Send + 'static,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                stream.set_nodelay(true).ok();
                tokio::spawn(handle(stream));
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

async fn banner(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    if stream.write_all(BANNER.as_bytes()).await.is_err() {
        return;
    }
    let mut line = String::new();
    let _ = (&mut stream).take(1024).read_line(&mut line).await;
    let _ = stream.write_all(GOODBYE.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn serve_http(role: &'static Role, stream: TcpStream) {
    let service =
        service_fn(move |request| async move { Ok::<_, Infallible>(answer(role, request).await) });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

async fn answer(role: &'static Role, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == health::PATH {
        return health::serve(request).await;
    }
    if request.headers().contains_key(header::UPGRADE) {
        return upgrade(request);
    }
    match (request.uri().path(), &role.payments) {
        ("/call-payments", Some((address, host))) => {
            call_payments(role, *address, host, request.headers()).await
        }
        _ => mirror(role, request).await,
    }
}

/// What arrived, as JSON.
async fn mirror(role: &Role, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let bytes = match Limited::new(body, MOST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return json_answer(
                StatusCode::BAD_REQUEST,
                &json!({"app": role.name, "error": error.to_string()}),
            );
        }
    };
    json_answer(
        StatusCode::OK,
        &json!({
            "app": role.name,
            "method": head.method.as_str(),
            "path": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            "version": format!("{:?}", head.version),
            "headers": headers(&head.headers),
            "body_bytes": bytes.len(),
        }),
    )
}

fn headers(map: &HeaderMap) -> Value {
    let names = map.keys().map(|name| {
        let values: Vec<String> = map
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect();
        (name.as_str().to_owned(), Value::String(values.join(", ")))
    });
    Value::Object(names.collect())
}

async fn call_payments(
    role: &Role,
    address: SocketAddr,
    host: &str,
    incoming: &HeaderMap,
) -> Response<Body> {
    let route = client::Route {
        place: Place::Here,
        address,
        authority: host.to_owned(),
    };
    let mut request = client::request(&route, Method::GET, "/from-orders");
    // What every application does that wants its calls to belong to the same trace.
    for name in [client::MARKER, "traceparent", "tracestate"] {
        if let Some(value) = incoming.get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    match client::send(&route, request).await {
        Ok(answer) => json_answer(
            StatusCode::OK,
            &json!({"app": role.name, "payments": {"status": answer.status.as_u16(), "answer": answer.json()}}),
        ),
        Err(error) => json_answer(
            StatusCode::BAD_GATEWAY,
            &json!({"app": role.name, "error": error}),
        ),
    }
}

fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgraded.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // The answer to the one key that the demo's client uses, RFC 6455's own example.
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_static(client::WEBSOCKET_ACCEPT),
    );
    response
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
