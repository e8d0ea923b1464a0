//! An Upgrade to the application: HTTP/1.1 on a connection of its own, then bytes both ways.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use h2::RecvStream;
use http::{HeaderMap, HeaderValue, StatusCode, request, response};
use mesh_auth::Reason;
use mesh_http1::BodyLength;
use tokio::io::{AsyncRead, AsyncWrite};

use super::lifetime::Lifetime;
use super::request::{answer, answered};
use super::source::Source;
use crate::http::answer::Answer;
use crate::http::body::BodySink as _;
use crate::http::ending::Endless;
use crate::http::forward::{Downstream, Head, Response as _, Upstream as _, pass_on};
use crate::http::h1::Connection;
use crate::http::h1_server::Responder as H1Responder;
use crate::http::h2_server::Responder;
use crate::http::upstream::{Http1, Http1Response};
use crate::telemetry::observe::Outcome;
use crate::tunnel::{self, Carried, Speech};
use crate::worker::Worker;
use crate::worker::metrics::Direction;

/// An Upgrade that came as extended CONNECT (RFC 8441): HTTP/1.1 to the application, then bytes.
pub(super) async fn serve_http2(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    protocol: &h2::ext::Protocol,
    (mut responder, body): (Responder, RecvStream),
    port: u16,
    lifetime: &mut Lifetime<'_>,
) -> Outcome {
    let speech = Speech::of_upgrade(protocol.as_str().as_bytes());
    let failed = async |responder: &mut Responder, reason| {
        let refused = source.refuse(worker, port, reason, None);
        Outcome {
            error: Some(reason.code()),
            ..answer(worker, responder, &HeaderMap::new(), refused).await
        }
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
                return Outcome::failed(Reason::ConnectFailed);
            };
            head.status = StatusCode::OK;
            let Ok(send) = responder.open(head) else {
                return Outcome::failed(Reason::ProtocolError);
            };
            let app = RefCell::new(app);
            let carried = Carried::default();
            let result = tunnel::with_stream(&app, send, body, speech, lifetime, &carried).await;
            if let Err(error) = &result {
                tracing::debug!(peer = source.peer_name(), %error, "upgraded connection cut");
            }
            Outcome::tunnel_from_app(&carried, &result)
                .switched()
                .counted(&worker.counters, Direction::Inbound)
        }
        Ok(answer) => declined(worker, response, answer, &mut responder, lifetime).await,
        Err(error) => {
            tracing::debug!(%error, "application did not answer the upgrade");
            failed(&mut responder, Reason::ConnectFailed).await
        }
    }
}

/// An Upgrade on inbound plaintext.
pub(super) async fn serve_http1<S>(
    worker: &Rc<Worker>,
    source: &Source,
    (connection, mut responder): (&RefCell<Connection<S>>, H1Responder<'_, S>),
    head: &request::Parts,
    token: &HeaderValue,
    port: u16,
    lifetime: &mut Lifetime<'_>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    responder.close_after();
    let opened = open_upgrade(worker, source, head, token.clone(), port).await;
    let answer = match opened {
        Ok(mut response) => poll_fn(|cx| response.poll_final(cx))
            .await
            .map(|(head, length)| (response, head, length)),
        Err(error) => Err(error),
    };
    match answer {
        Ok((response, head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            responder.switch_protocols(&head, response.upgrade().unwrap_or(token));
            let Some(app) = response.lease().take() else {
                return Outcome::failed(Reason::ConnectFailed);
            };
            let app = RefCell::new(app);
            let speech = Speech::of_upgrade(token.as_bytes());
            let carried = Carried::default();
            let result = tunnel::between(connection, &app, speech, lifetime, &carried).await;
            Outcome::tunnel(&carried, &result)
                .switched()
                .counted(&worker.counters, Direction::Inbound)
        }
        Ok((response, head, length)) => {
            declined(worker, response, (head, length), &mut responder, lifetime).await
        }
        Err(error) => {
            tracing::debug!(%error, "application did not answer the upgrade");
            let refused = source.refuse(worker, port, Reason::ConnectFailed, None);
            let answer = Answer::new(refused.reason, refused.id);
            let _ = answer.send(&mut responder, &head.headers);
            let _ = responder.finish(&mut Endless).await;
            Outcome {
                error: Some(Reason::ConnectFailed.code()),
                ..answered(worker, &answer, &head.headers)
            }
        }
    }
}

/// Passes on the response with which the application declined.
async fn declined(
    worker: &Worker,
    response: Http1Response,
    answer: (response::Parts, BodyLength),
    responder: &mut impl Downstream,
    lifetime: &mut Lifetime<'_>,
) -> Outcome {
    let status = answer.0.status;
    match pass_on(response, answer, responder, lifetime).await {
        Ok((bytes, result)) => {
            Outcome::declined(status, bytes, &result).counted(&worker.counters, Direction::Inbound)
        }
        Err(_) => Outcome::failed(Reason::ProtocolError),
    }
}

async fn open_upgrade(
    worker: &Rc<Worker>,
    source: &Source,
    head: &request::Parts,
    token: HeaderValue,
    port: u16,
) -> Result<Http1Response, crate::http::body::BodyError> {
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
