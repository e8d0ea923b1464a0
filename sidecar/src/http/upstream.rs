//! Where requests go: a stream on an HTTP/2 connection, or an HTTP/1.1 connection to the application.

use std::task::{Context, Poll, ready};

use h2::client::ResponseFuture;
use http::{HeaderMap, Method, Request, StatusCode, header, request, response};
use mesh_http1::{BodyLength, Limits};
use std::future::Future as _;
use std::pin::Pin;

use super::body::BodyError;
use super::forward::{Head, Response, Upstream, has_body};
use super::{h1, h2 as stream};
use crate::pool::app::Lease;

/// The declared length of a message, for framing it onwards.
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
}

/// A new stream on an HTTP/2 connection.
pub struct Http2(pub stream::Sender);

impl Upstream for Http2 {
    type Sink = stream::Sink;
    type Response = Http2Response;

    fn start(
        mut self,
        head: &request::Parts,
        length: BodyLength,
    ) -> Result<(stream::Sink, Http2Response), BodyError> {
        let ends = !has_body(length);
        let is_head = head.method == Method::HEAD;
        let request = Request::from_parts(head.clone(), ());
        let (response, sink) = self.0.send_request(request, ends)?;
        Ok((
            sink,
            Http2Response {
                response,
                body: None,
                is_head,
            },
        ))
    }
}

/// The receiving half of a stream.
pub struct Http2Response {
    response: ResponseFuture,
    body: Option<::h2::RecvStream>,
    is_head: bool,
}

impl Http2Response {
    /// Wraps the response of a request that was sent.
    pub fn new(response: ResponseFuture, is_head: bool) -> Self {
        Self {
            response,
            body: None,
            is_head,
        }
    }

    /// The receiving stream, once the final head was returned.
    pub fn into_stream(self) -> Option<::h2::RecvStream> {
        self.body
    }
}

impl Response for Http2Response {
    type Body = stream::Body;

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, BodyError>> {
        if let Poll::Ready(Some(informational)) = self.response.poll_informational(cx) {
            let (head, ()) = informational?.into_parts();
            return Poll::Ready(Ok(Head::Informational(head)));
        }
        let (head, body) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
        let length = response_length(&head, self.is_head, body.is_end_stream());
        self.body = Some(body);
        Poll::Ready(Ok(Head::Final(head, length)))
    }

    #[allow(clippy::expect_used)]
    fn into_body(self) -> stream::Body {
        stream::Body::new(
            self.body
                .expect("called after the final head, which set the body"),
        )
    }
}

fn response_length(head: &response::Parts, is_head: bool, ended: bool) -> BodyLength {
    if is_head
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
    {
        return BodyLength::Empty;
    }
    match declared_length(&head.headers) {
        Some(length) => BodyLength::Length(length),
        None if ended => BodyLength::Length(0),
        None => BodyLength::Chunked,
    }
}

/// A request on a leased HTTP/1.1 connection.
pub struct Http1 {
    /// The connection.
    pub lease: Lease,
    /// Limits of what the application may send.
    pub limits: Limits,
    /// Upgrade token to ask for.
    pub upgrade: Option<http::HeaderValue>,
}

impl Upstream for Http1 {
    type Sink = h1::Sink<Lease>;
    type Response = Http1Response;

    fn start(
        self,
        head: &request::Parts,
        length: BodyLength,
    ) -> Result<(Self::Sink, Http1Response), BodyError> {
        let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let host = head.uri.authority().map(http::uri::Authority::as_str);
        {
            let mut connection = h1::Handle::connection(&self.lease);
            mesh_http1::encode_request(
                &mut connection.write,
                &head.method,
                target,
                host,
                &head.headers,
                length,
                self.upgrade.as_ref(),
            );
        }
        let sink = h1::Sink::new(self.lease.clone(), length);
        if !has_body(length) {
            h1::Handle::write_ended(&self.lease);
        }
        Ok((
            sink,
            Http1Response {
                lease: self.lease,
                limits: self.limits,
                method: head.method.clone(),
                length: BodyLength::Empty,
                upgrade: None,
            },
        ))
    }
}

/// The receiving half of an exchange on an HTTP/1.1 connection.
pub struct Http1Response {
    lease: Lease,
    limits: Limits,
    method: Method,
    length: BodyLength,
    upgrade: Option<http::HeaderValue>,
}

impl Http1Response {
    /// The protocol that a 101 switched to.
    pub fn upgrade(&self) -> Option<&http::HeaderValue> {
        self.upgrade.as_ref()
    }

    /// The connection.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Response for Http1Response {
    type Body = h1::Body<Lease>;

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, BodyError>> {
        loop {
            let parsed = {
                let mut connection = h1::Handle::connection(&self.lease);
                if connection.read.is_empty() {
                    None
                } else {
                    mesh_http1::parse_response(&mut connection.read, &self.method, &self.limits)?
                }
            };
            if let Some(parsed) = parsed {
                let (mut head, ()) = http::Response::new(()).into_parts();
                head.status = parsed.status;
                head.headers = parsed.headers;
                if parsed.status.is_informational()
                    && parsed.status != StatusCode::SWITCHING_PROTOCOLS
                {
                    return Poll::Ready(Ok(Head::Informational(head)));
                }
                self.lease.keep_alive(parsed.keep_alive);
                self.length = parsed.body;
                self.upgrade = parsed.upgrade;
                let onwards = match parsed.body {
                    // The end of the connection is not a framing that can be passed on.
                    BodyLength::UntilClose => BodyLength::Chunked,
                    BodyLength::Empty
                        if self.method != Method::HEAD
                            && declared_length(&head.headers).is_none() =>
                    {
                        BodyLength::Length(0)
                    }
                    length => length,
                };
                return Poll::Ready(Ok(Head::Final(head, onwards)));
            }
            let n = ready!(h1::Handle::connection(&self.lease).poll_fill_head(cx))?;
            if n == 0 {
                return Poll::Ready(Err(BodyError::Truncated));
            }
        }
    }

    fn into_body(self) -> h1::Body<Lease> {
        h1::Body::new(self.lease, self.length, &self.limits)
    }
}
