//! One inbound HTTP request: through the gate, to the application and back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, request};
use mesh_auth::Reason;
use mesh_http1::{BodyLength, RequestHead};
use tokio::io::{AsyncRead, AsyncWrite};

use super::gate::{self, AppProtocol, Passed};
use super::lifetime::Lifetime;
use super::mesh::flush;
use super::source::Source;
use crate::http::answer::{Answer, Refused};
use crate::http::body::{BodySink as _, BodySource, Pump};
use crate::http::forward::{
    Downstream, Exchanged, ForwardError, Head, Response as _, Upstream as _, forward,
};
use crate::http::h1::{self, Connection};
use crate::http::h1_server::{self, HeadError, Responder as H1Responder, Watchdog};
use crate::http::h2_server::Responder;
use crate::http::upstream::{Http1, Http2};
use crate::http::{admit, h2 as stream};
use crate::tunnel::{self, Speech};
use crate::worker::Worker;
use crate::worker::drain::Live;
use crate::worker::metrics::Direction;

/// Serves one HTTP/2 request (plain or extended CONNECT) from an authenticated connection.
pub async fn serve_http2(
    worker: &Rc<Worker>,
    source: &Source,
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
) {
    let (mut head, body) = request.into_parts();
    let mut responder = Responder::new(response, &head.method);
    let upgrade = head.extensions.remove::<h2::ext::Protocol>();
    let passed = match gate::http2(worker, source, &mut head).await {
        Ok(passed) => passed,
        Err(refused) => return answer(worker, &mut responder, &head.headers, refused).await,
    };
    let Passed { port, protocol, .. } = passed;
    if upgrade.is_some() {
        head.method = Method::GET;
    }
    let mut lifetime = Lifetime::new(worker, source, &head, &passed);
    if let Some(protocol) = upgrade {
        let opened = (responder, body);
        return serve_upgrade(
            worker,
            source,
            &head,
            &protocol,
            opened,
            port,
            &mut lifetime,
        )
        .await;
    }
    let length = admit::http2_length(&head, body.is_end_stream());
    let mut body = stream::Body::new(body);
    let result = to_app(
        worker,
        source,
        &head,
        &mut body,
        length,
        &mut responder,
        port,
        protocol,
        &mut lifetime,
    )
    .await;
    let ended = lifetime.refused();
    finish(
        worker,
        source,
        result,
        ended,
        &mut responder,
        &head.headers,
        port,
    )
    .await;
}

/// Serves HTTP/1.1 on an inbound connection to application port `port` until it ends.
pub async fn serve_http1<S>(
    worker: &Rc<Worker>,
    source: &Source,
    connection: Connection<S>,
    port: u16,
    live: &Live,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = RefCell::new(connection);
    let mut watchdog = Watchdog::new();
    let mut drain = live.watch();
    let limits = &worker.settings.limits;
    loop {
        let parsed =
            match h1_server::read_head(&connection, limits, &mut watchdog, &mut drain).await {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(error) => {
                    refuse_head(worker, &connection, &error, Direction::Inbound).await;
                    break;
                }
            };
        let keep_alive = parsed.keep_alive && !drain.is_draining();
        let mut responder =
            H1Responder::new(&connection, &parsed.method, parsed.version, keep_alive);
        let length = parsed.body;
        let upgrade = parsed.upgrade.clone();
        let mut head = into_parts(parsed);
        let passed = match gate::http1(worker, source, &mut head, port).await {
            Ok(passed) => passed,
            Err(refused) => {
                responder.close_after();
                let _ = Answer::of(&refused).send(&mut responder, &head.headers);
                let _ = responder.flush().await;
                break;
            }
        };
        let mut lifetime = Lifetime::new(worker, source, &head, &passed);
        if let Some(token) = upgrade {
            let opened = (&connection, responder);
            upgrade_http1(worker, source, opened, &head, &token, port, &mut lifetime).await;
            break;
        }
        let mut body = h1::Body::new(&connection, length, limits);
        let result = to_app(
            worker,
            source,
            &head,
            &mut body,
            length,
            &mut responder,
            port,
            AppProtocol::Http1,
            &mut lifetime,
        )
        .await;
        let go_on = matches!(&result, Ok(done) if done.request_read) && responder.keeps_alive();
        match result {
            Ok(done) => {
                worker
                    .counters
                    .request(Direction::Inbound, done.status, done.sent, done.received);
            }
            Err(error) => {
                responder.close_after();
                if let Some(answer) = failure(worker, source, &error, lifetime.refused(), port) {
                    let _ = answer.send(&mut responder, &head.headers);
                }
            }
        }
        if responder.flush().await.is_err() || !go_on {
            break;
        }
    }
    let _ = poll_fn(|cx| connection.borrow_mut().poll_shutdown(cx)).await;
}

/// An admitted HTTP/1.1 head as request parts.
pub fn into_parts(parsed: RequestHead) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parsed.method;
    head.uri = parsed.uri;
    head.version = parsed.version;
    head.headers = parsed.headers;
    if let Some(authority) = parsed.authority {
        admit::set_authority(&mut head, authority);
    }
    head
}

/// Answers a head that could not be read, and says so in the log.
pub async fn refuse_head<S>(
    worker: &Worker,
    connection: &RefCell<Connection<S>>,
    error: &HeadError,
    direction: Direction,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (status, reason) = match error {
        HeadError::Parse(error) => (error.status(), Reason::BadRequest),
        HeadError::Timeout => (StatusCode::REQUEST_TIMEOUT, Reason::BadRequest),
        HeadError::Io(_) => return,
    };
    let id = worker.decision_id();
    worker.counters.denial(direction, reason);
    tracing::info!(decision = format_args!("{id:016x}"), %error, "request refused");
    let mut responder = H1Responder::new(connection, &Method::GET, http::Version::HTTP_11, false);
    let _ = Answer::new(reason, id)
        .with_status(status)
        .send(&mut responder, &HeaderMap::new());
    let _ = responder.flush().await;
}

#[allow(clippy::too_many_arguments)]
async fn to_app<B, D>(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    body: &mut B,
    length: BodyLength,
    responder: &mut D,
    port: u16,
    protocol: AppProtocol,
    lifetime: &mut Lifetime<'_>,
) -> Result<Exchanged, ForwardError>
where
    B: BodySource,
    D: Downstream,
{
    let address = worker.app_address(port, source.own);
    let unreachable = |error: String| ForwardError::NoResponse {
        error: std::io::Error::other(error).into(),
        body_taken: false,
    };
    if protocol == AppProtocol::Http2 {
        let sender = worker
            .clear
            .sender(address)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let result = forward(head, body, length, responder, Http2(sender), lifetime).await;
        if matches!(&result, Err(ForwardError::NoResponse { .. })) {
            worker.clear.forget(address);
        }
        return result;
    }
    let mut lease = worker
        .apps
        .lease(address)
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    loop {
        let reused = lease.reused();
        let upstream = Http1 {
            lease,
            limits: worker.settings.limits.clone(),
            upgrade: None,
        };
        match forward(head, body, length, responder, upstream, lifetime).await {
            // The application closed the kept connection at the moment it was used again.
            Err(ForwardError::NoResponse {
                body_taken: false, ..
            }) if reused && head.method.is_idempotent() => {
                lease = worker
                    .apps
                    .fresh(address)
                    .await
                    .map_err(|e| unreachable(e.to_string()))?;
            }
            result => return result,
        }
    }
}

/// An Upgrade that came as extended CONNECT (RFC 8441): HTTP/1.1 to the application, then bytes.
async fn serve_upgrade(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    protocol: &h2::ext::Protocol,
    (mut responder, body): (Responder, RecvStream),
    port: u16,
    lifetime: &mut Lifetime<'_>,
) {
    let speech = Speech::of_upgrade(protocol.as_str().as_bytes());
    let failed = async |responder: &mut Responder, reason| {
        let refused = source.refuse(worker, port, reason, None);
        answer(worker, responder, &HeaderMap::new(), refused).await;
    };
    let Ok(token) = HeaderValue::from_str(protocol.as_str()) else {
        return failed(&mut responder, Reason::BadRequest).await;
    };
    let Ok(mut response) = open_upgrade(worker, source, head, token, port).await else {
        return failed(&mut responder, Reason::ConnectFailed).await;
    };
    match poll_fn(|cx| response.poll_final(cx)).await {
        Ok((mut head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            let Some(app) = response.lease().take() else {
                return;
            };
            head.status = StatusCode::OK;
            let Ok(send) = responder.open(head) else {
                return;
            };
            let app = RefCell::new(app);
            if let Err(error) = tunnel::with_stream(&app, send, body, speech, lifetime).await {
                tracing::debug!(peer = source.peer_name(), %error, "upgraded connection cut");
            }
        }
        Ok((head, length)) => {
            let status = head.status;
            if let Ok(sink) = responder.respond(head, length) {
                let mut pump = Pump::new(response.into_body(), sink);
                let _ = poll_fn(|cx| pump.poll(cx)).await;
                worker
                    .counters
                    .request(Direction::Inbound, status, 0, pump.bytes());
            }
        }
        Err(error) => {
            tracing::debug!(%error, "application did not answer the upgrade");
            failed(&mut responder, Reason::ConnectFailed).await;
        }
    }
}

/// An Upgrade on inbound plaintext.
async fn upgrade_http1<S>(
    worker: &Rc<Worker>,
    source: &Source,
    (connection, mut responder): (&RefCell<Connection<S>>, H1Responder<'_, S>),
    head: &request::Parts,
    token: &HeaderValue,
    port: u16,
    lifetime: &mut Lifetime<'_>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    responder.close_after();
    let opened = open_upgrade(worker, source, head, token.clone(), port).await;
    let answered = match opened {
        Ok(mut response) => poll_fn(|cx| response.poll_final(cx))
            .await
            .map(|(head, length)| (response, head, length)),
        Err(error) => Err(error),
    };
    match answered {
        Ok((response, head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            responder.switch_protocols(&head, response.upgrade().unwrap_or(token));
            if let Some(app) = response.lease().take() {
                let app = RefCell::new(app);
                let _ = tunnel::between(
                    connection,
                    &app,
                    Speech::of_upgrade(token.as_bytes()),
                    lifetime,
                )
                .await;
            }
        }
        Ok((response, head, length)) => {
            if let Ok(sink) = responder.respond(head, length) {
                let mut pump = Pump::new(response.into_body(), sink);
                let _ = poll_fn(|cx| pump.poll(cx)).await;
            }
        }
        Err(error) => {
            tracing::debug!(%error, "application did not answer the upgrade");
            let refused = source.refuse(worker, port, Reason::ConnectFailed, None);
            let _ = Answer::new(refused.reason, refused.id).send(&mut responder, &head.headers);
            let _ = responder.flush().await;
        }
    }
}

async fn open_upgrade(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    token: HeaderValue,
    port: u16,
) -> Result<crate::http::upstream::Http1Response, crate::http::body::BodyError> {
    let lease = worker
        .apps
        .fresh(worker.app_address(port, source.own))
        .await
        .map_err(|e| std::io::Error::other(e.to_string()))?;
    let upstream = Http1 {
        lease,
        limits: worker.settings.limits.clone(),
        upgrade: Some(token),
    };
    let (mut sink, response) = upstream.start(head, BodyLength::Empty)?;
    poll_fn(|cx| sink.poll_flush(cx)).await?;
    Ok(response)
}

impl crate::http::upstream::Http1Response {
    /// The final head, passing over informational ones other than 101.
    pub fn poll_final(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(http::response::Parts, BodyLength), crate::http::body::BodyError>>
    {
        loop {
            if let Head::Final(head, length) = std::task::ready!(self.poll_head(cx))? {
                return std::task::Poll::Ready(Ok((head, length)));
            }
        }
    }
}

async fn finish(
    worker: &Worker,
    source: &Source,
    result: Result<Exchanged, ForwardError>,
    ended: Option<&Refused>,
    responder: &mut Responder,
    request: &HeaderMap,
    port: u16,
) {
    match result {
        Ok(done) => {
            worker
                .counters
                .request(Direction::Inbound, done.status, done.sent, done.received);
        }
        // Its last word is still to be written: a reset would take it back.
        Err(ForwardError::Ended { answered: true, .. }) => {}
        Err(error) => match failure(worker, source, &error, ended, port) {
            Some(problem) => {
                worker
                    .counters
                    .request(Direction::Inbound, problem.status, 0, 0);
                if let Ok(mut sink) = problem.send(responder, request) {
                    flush(&mut sink).await;
                }
            }
            None => responder.reset(h2::Reason::CANCEL),
        },
    }
}

/// The answer to a failed exchange, which a decision may have `ended`; `None` when a response was already under way.
fn failure(
    worker: &Worker,
    source: &Source,
    error: &ForwardError,
    ended: Option<&Refused>,
    port: u16,
) -> Option<Answer> {
    let (reason, status) = match error {
        ForwardError::NoResponse { .. } => (Reason::ConnectFailed, StatusCode::BAD_GATEWAY),
        ForwardError::Request(_) => (Reason::BadRequest, StatusCode::BAD_REQUEST),
        ForwardError::Ended {
            reason,
            answered: false,
        } => match ended {
            Some(refused) => return Some(Answer::of(refused)),
            None => (*reason, StatusCode::UNAUTHORIZED),
        },
        ForwardError::Response(_) | ForwardError::Downstream(_) | ForwardError::Ended { .. } => {
            tracing::debug!(peer = source.peer_name(), %error, "exchange cut");
            return None;
        }
    };
    tracing::debug!(%error, "exchange failed");
    let refused = source.refuse(worker, port, reason, None);
    Some(Answer::new(refused.reason, refused.id).with_status(status))
}

async fn answer(worker: &Worker, responder: &mut Responder, request: &HeaderMap, refused: Refused) {
    let problem = Answer::of(&refused);
    worker
        .counters
        .request(Direction::Inbound, problem.status, 0, 0);
    if let Ok(mut sink) = problem.send(responder, request) {
        flush(&mut sink).await;
    }
}
