//! The server side of an HTTP/2 stream: answers one request.

use std::rc::Rc;
use std::task::{Context, Poll};

use h2::server::SendResponse;
use http::{Method, Response, response};
use mesh_http1::BodyLength;

use super::body::BodyError;
use super::forward::{Downstream, has_body};
use super::h2::Sink;
use super::unsent::{Piece, Unsent};

/// A request's stream, to be answered, and what its connection holds.
pub type Unanswered = (SendResponse<Piece>, Rc<Unsent>);

/// Answers one request on a stream.
pub struct Responder {
    stream: SendResponse<Piece>,
    unsent: Rc<Unsent>,
    is_head: bool,
}

impl Responder {
    /// Answers the request with this method.
    pub fn new((stream, unsent): Unanswered, method: &Method) -> Self {
        Self {
            stream,
            unsent,
            is_head: method == Method::HEAD,
        }
    }

    /// Resets the stream without an answer.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Sends a head whose body is a tunnel.
    ///
    /// # Errors
    /// The stream or connection failed.
    pub fn open(&mut self, head: response::Parts) -> Result<Sink, h2::Error> {
        let head = Response::from_parts(head, ());
        let stream = self.stream.send_response(head, false)?;
        Ok(Sink::new(stream, &self.unsent, false))
    }
}

impl Downstream for Responder {
    type Sink = Sink;

    fn informational(&mut self, head: response::Parts) -> Result<(), BodyError> {
        self.stream
            .send_informational(Response::from_parts(head, ()))
            .map_err(BodyError::from)
    }

    fn respond(&mut self, head: response::Parts, length: BodyLength) -> Result<Sink, BodyError> {
        let ends = self.is_head || matches!(head.status.as_u16(), 204 | 304) || !has_body(length);
        let stream = self
            .stream
            .send_response(Response::from_parts(head, ()), ends)?;
        Ok(Sink::new(stream, &self.unsent, ends))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        // The connection task writes.
        Poll::Ready(Ok(()))
    }
}
