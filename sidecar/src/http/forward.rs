//! One request from a downstream to an upstream and its response back.
//!
//! Both bodies move at the same time, informational responses are relayed as they come, and the exchange ends when the
//! response has been passed on. It runs inside the task of its caller and spawns nothing.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, request, response};
use mesh_http1::BodyLength;

use mesh_auth::Reason;

use super::body::{BodyError, BodySink, BodySource, Pump, PumpError};
use super::ending::{Ending, GRPC_STATUS, Patience, grpc_trailers, is_grpc};

/// A response head.
#[derive(Debug)]
pub enum Head {
    /// A 1xx response; another head follows.
    Informational(response::Parts),
    /// The final response and how its body is to be framed onwards.
    Final(response::Parts, BodyLength),
}

/// Where a request came from: takes the response.
pub trait Downstream {
    /// Takes the response body.
    type Sink: BodySink;

    /// Passes on a 1xx response.
    fn informational(&mut self, head: response::Parts) -> Result<(), BodyError>;

    /// Passes on the final head.
    fn respond(
        &mut self,
        head: response::Parts,
        length: BodyLength,
    ) -> Result<Self::Sink, BodyError>;

    /// Writes out what is buffered.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;
}

/// The receiving half of an exchange with an upstream.
pub trait Response {
    /// The response body.
    type Body: BodySource;

    /// The next head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, BodyError>>;

    /// The body, once the final head was returned.
    fn into_body(self) -> Self::Body;
}

/// Where a request goes.
pub trait Upstream {
    /// Takes the request body.
    type Sink: BodySink;
    /// Yields the response.
    type Response: Response;

    /// Sends the head.
    ///
    /// # Errors
    /// Nothing of the request has been sent: it can go elsewhere.
    fn start(
        self,
        head: &request::Parts,
        length: BodyLength,
    ) -> Result<(Self::Sink, Self::Response), BodyError>;
}

/// How an exchange that produced a response ended.
#[derive(Debug, Clone, Copy)]
pub struct Exchanged {
    /// Status of the response.
    pub status: http::StatusCode,
    /// The request body was read to its end: the downstream connection is at a message boundary.
    pub request_read: bool,
    /// Bytes of request body.
    pub sent: u64,
    /// Bytes of response body.
    pub received: u64,
    /// When the head of the response was there.
    pub answered_at: Instant,
    /// The gRPC status of the response, from its trailers or, without a body, its head.
    pub grpc_status: Option<u32>,
}

/// The gRPC status among headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No response was passed on and the upstream saw nothing of the body: may be tried elsewhere if it is safe.
    #[error("upstream did not answer: {error}")]
    NoResponse {
        /// What happened.
        error: BodyError,
        /// Some of the request body had been taken from the downstream.
        body_taken: bool,
    },
    /// The request body could not be read.
    #[error("request body: {0}")]
    Request(BodyError),
    /// The response was cut short; the downstream was made to see that.
    #[error("response body: {0}")]
    Response(BodyError),
    /// The downstream went away.
    #[error("downstream: {0}")]
    Downstream(BodyError),
    /// It had to end before it was done.
    #[error("ended: {}", .reason.code())]
    Ended {
        /// Why.
        reason: Reason,
        /// True: a response was under way; it was ended with gRPC trailers, or visibly incomplete.
        answered: bool,
    },
}

/// Runs one exchange, unless `ending` ends it. `body` is polled only when `length` says there is one.
///
/// # Errors
/// See [`ForwardError`]; after `NoResponse`, `Request` and `Ended` with `answered: false`, `downstream` has not been
/// answered.
pub async fn forward<B, D, U, E>(
    head: &request::Parts,
    body: &mut B,
    length: BodyLength,
    downstream: &mut D,
    upstream: U,
    ending: &mut E,
) -> Result<Exchanged, ForwardError>
where
    B: BodySource,
    D: Downstream,
    U: Upstream,
    E: Ending,
{
    let (sink, mut response) =
        upstream
            .start(head, length)
            .map_err(|error| ForwardError::NoResponse {
                error,
                body_taken: false,
            })?;
    let has_body = has_body(length);
    let mut upload = Upload {
        pump: Pump::new(Borrowed(body), sink),
        done: false,
        read: !has_body,
        has_body,
    };

    let (head, length) = poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = upload.poll(cx) {
            return Poll::Ready(Err(ForwardError::Request(error)));
        }
        loop {
            match response.poll_head(cx) {
                Poll::Ready(Ok(Head::Informational(head))) => {
                    downstream
                        .informational(head)
                        .map_err(ForwardError::Downstream)?;
                    let _ = downstream
                        .poll_flush(cx)
                        .map_err(ForwardError::Downstream)?;
                }
                Poll::Ready(Ok(Head::Final(head, length))) => {
                    return Poll::Ready(Ok((head, length)));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(ForwardError::NoResponse {
                        error,
                        body_taken: upload.pump.bytes() > 0,
                    }));
                }
                Poll::Pending => {
                    return ending.poll_end(cx).map(|reason| {
                        upload.pump.abort();
                        Err(ForwardError::Ended {
                            reason,
                            answered: false,
                        })
                    });
                }
            }
        }
    })
    .await?;

    let answered_at = Instant::now();
    let status = head.status;
    let early_status = grpc_status(&head.headers);
    let is_grpc = is_grpc(&head.headers);
    let sink = downstream
        .respond(head, length)
        .map_err(ForwardError::Downstream)?;
    let mut download = Download::new(response.into_body(), sink);
    download.is_grpc = is_grpc;
    poll_fn(|cx| {
        if download.last_word.is_none()
            && let Poll::Ready(Err(error)) = upload.poll(cx)
        {
            // The response is under way: its abrupt end is all that can still be said.
            download.pump.abort();
            return Poll::Ready(Err(ForwardError::Downstream(error)));
        }
        let polled = download.poll(ending, cx);
        if download.is_ended {
            upload.pump.abort();
        }
        polled
    })
    .await?;
    if !upload.done && has_body {
        // The upstream answered without waiting for the rest of the request.
        upload.pump.abort();
    }
    Ok(Exchanged {
        status,
        request_read: upload.read,
        sent: upload.pump.bytes(),
        received: download.pump.bytes(),
        answered_at,
        grpc_status: download.pump.grpc_status().or(early_status),
    })
}

/// Passes on a response that [`forward`] did not ask for, unless `ending` ends it. Returns how many bytes of its body were, and
/// whether that is all.
///
/// # Errors
/// Not even the head was.
pub async fn pass_on<R, D>(
    response: R,
    (head, length): (response::Parts, BodyLength),
    downstream: &mut D,
    ending: &mut impl Ending,
) -> Result<(u64, Result<(), ForwardError>), BodyError>
where
    R: Response,
    D: Downstream,
{
    let sink = downstream.respond(head, length)?;
    let mut download = Download::new(response.into_body(), sink);
    let result = poll_fn(|cx| download.poll(ending, cx)).await;
    Ok((download.pump.bytes(), result))
}

/// The body of a response on its way to the downstream.
struct Download<S, K> {
    pump: Pump<S, K>,
    /// It can be ended with a status.
    is_grpc: bool,
    /// It had to end before it was done.
    is_ended: bool,
    last_word: Option<(Reason, Patience)>,
}

impl<S: BodySource, K: BodySink> Download<S, K> {
    /// A body of which nothing was passed on yet; the head was.
    fn new(body: S, sink: K) -> Self {
        Self {
            pump: Pump::new(body, sink),
            is_grpc: false,
            is_ended: false,
            last_word: None,
        }
    }

    fn poll(
        &mut self,
        ending: &mut impl Ending,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ForwardError>> {
        if self.last_word.is_some() {
            return self.poll_last_word(cx);
        }
        if let Poll::Ready(done) = self.pump.poll(cx) {
            return Poll::Ready(done.map_err(|error| match error {
                PumpError::Source(error) => ForwardError::Response(error),
                PumpError::Sink(error) => ForwardError::Downstream(error),
            }));
        }
        let reason = ready!(ending.poll_end(cx));
        self.is_ended = true;
        let trailers = || grpc_trailers(reason, ending.decision());
        if self.is_grpc && self.pump.finish_with(trailers()).is_ok() {
            self.last_word = Some((reason, Patience::default()));
            return self.poll_last_word(cx);
        }
        self.pump.cut();
        Poll::Ready(Err(ForwardError::Ended {
            reason,
            answered: true,
        }))
    }

    /// Writes the last of an ended response, for as long as that may take.
    fn poll_last_word(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ForwardError>> {
        let Some((reason, patience)) = &mut self.last_word else {
            return Poll::Pending;
        };
        if self.pump.poll_sink_flush(cx).is_pending() {
            ready!(patience.poll(cx));
            self.pump.cut();
        }
        Poll::Ready(Err(ForwardError::Ended {
            reason: *reason,
            answered: true,
        }))
    }
}

/// True when body bytes or trailers may follow a head.
pub fn has_body(length: BodyLength) -> bool {
    !matches!(length, BodyLength::Empty | BodyLength::Length(0))
}

struct Upload<'a, B, K> {
    pump: Pump<Borrowed<'a, B>, K>,
    done: bool,
    read: bool,
    has_body: bool,
}

impl<B: BodySource, K: BodySink> Upload<'_, B, K> {
    /// Only a failure to read the request is an error: an upstream that stops reading may still answer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if !self.has_body {
            // The head carried the end; it may still have to be written out.
            return match self.pump.poll_sink_flush(cx) {
                Poll::Ready(_) => {
                    self.done = true;
                    Poll::Ready(Ok(()))
                }
                Poll::Pending => Poll::Pending,
            };
        }
        match self.pump.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.done = true;
                self.read = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(PumpError::Source(error))) => {
                self.done = true;
                Poll::Ready(Err(error))
            }
            Poll::Ready(Err(PumpError::Sink(_))) => {
                self.done = true;
                Poll::Ready(Ok(()))
            }
        }
    }
}

struct Borrowed<'a, B>(&'a mut B);

impl<B: BodySource> BodySource for Borrowed<'_, B> {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<super::body::Frame, BodyError>> {
        self.0.poll_frame(cx, most)
    }

    fn is_end(&self) -> bool {
        self.0.is_end()
    }
}

#[cfg(test)]
mod tests;
