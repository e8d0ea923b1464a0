//! The server side of an HTTP/1.1 connection: reads request heads, writes responses.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Version, response};
use mesh_http1::{BodyLength, Limits, ParseError, RequestHead};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::body::BodyError;
use super::ending::Ending;
use super::forward::Downstream;
use super::h1::{Connection, Handle as _, Sink};
use crate::worker::drain::DrainWatch;

/// Period of the watchdog; deadlines below are in whole periods and met to within one.
const TICK: Duration = Duration::from_secs(5);
/// Periods for which a connection may stay between requests.
const IDLE_TICKS: u32 = 60;
/// Periods for which a request head may stay incomplete.
const HEAD_TICKS: u32 = 2;

/// One timer per connection, never re-armed by a request: it fires each period and counts.
#[derive(Debug)]
pub struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    ticks: u32,
}

impl Watchdog {
    /// A watchdog whose first period starts now.
    pub fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(TICK)),
            ticks: 0,
        }
    }

    fn reset(&mut self) {
        self.ticks = 0;
    }

    /// Ready once more than `limit` whole periods have passed since the last reset.
    fn poll(&mut self, cx: &mut Context<'_>, limit: u32) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            self.sleep.as_mut().reset(Instant::now() + TICK);
            self.ticks += 1;
            if self.ticks > limit {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

/// Why no further request can be read.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The bytes are not an acceptable request.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The connection failed or ended inside a head.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The head stayed incomplete for too long.
    #[error("request head incomplete after {} s", TICK.as_secs() * u64::from(HEAD_TICKS))]
    Timeout,
}

/// Reads the next request head; `None` when the connection ended, idled out, or draining began, between requests.
///
/// # Errors
/// See [`HeadError`].
pub async fn read_head<S>(
    connection: &RefCell<Connection<S>>,
    limits: &Limits,
    watchdog: &mut Watchdog,
    drain: &mut DrainWatch,
) -> Result<Option<RequestHead>, HeadError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    watchdog.reset();
    poll_fn(|cx| {
        let mut connection = connection.borrow_mut();
        loop {
            if !connection.read.is_empty()
                && let Some(head) = mesh_http1::parse_request(&mut connection.read, limits)?
            {
                return Poll::Ready(Ok(Some(head)));
            }
            let between = connection.read.is_empty();
            if between && drain.is_draining() {
                return Poll::Ready(Ok(None));
            }
            match connection.poll_fill_head(cx) {
                Poll::Ready(Ok(0)) if between => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(std::io::Error::from(
                        std::io::ErrorKind::UnexpectedEof,
                    )
                    .into()));
                }
                Poll::Ready(Ok(_)) => {
                    if between {
                        watchdog.reset();
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    if between && drain.poll(cx).is_ready() {
                        return Poll::Ready(Ok(None));
                    }
                    let limit = if between { IDLE_TICKS } else { HEAD_TICKS };
                    if watchdog.poll(cx, limit).is_ready() {
                        return Poll::Ready(if between {
                            Ok(None)
                        } else {
                            Err(HeadError::Timeout)
                        });
                    }
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Answers one request on a connection.
pub struct Responder<'a, S> {
    connection: &'a RefCell<Connection<S>>,
    version: Version,
    is_head: bool,
    keep_alive: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Responder<'a, S> {
    /// Answers the request with this method and version; `keep_alive` as the request and the drain state allow.
    pub fn new(
        connection: &'a RefCell<Connection<S>>,
        method: &Method,
        version: Version,
        keep_alive: bool,
    ) -> Self {
        Self {
            connection,
            version,
            is_head: method == Method::HEAD,
            keep_alive,
        }
    }

    /// True when another request may follow the answer.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Closes the connection after the answer.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Writes a `101 Switching Protocols` head.
    pub fn switch_protocols(&mut self, head: &response::Parts, upgrade: &http::HeaderValue) {
        mesh_http1::encode_response(
            &mut self.connection.borrow_mut().write,
            self.version,
            http::StatusCode::SWITCHING_PROTOCOLS,
            &head.headers,
            BodyLength::Empty,
            true,
            Some(upgrade),
        );
    }

    /// Writes everything out, and ends the connection's writing if the answer was to be the last, unless `ending` ends that:
    /// then what is left is not written.
    ///
    /// # Errors
    /// The connection failed, or [`BodyError::Ended`].
    pub async fn finish(&mut self, ending: &mut impl Ending) -> Result<(), BodyError> {
        poll_fn(|cx| {
            let written = self.connection.borrow_mut().poll_finish(cx);
            if written.is_ready() {
                return written.map_err(BodyError::from);
            }
            let reason = ready!(ending.poll_end(cx));
            self.connection.write_cut();
            Poll::Ready(Err(BodyError::Ended(reason)))
        })
        .await
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Downstream for Responder<'a, S> {
    type Sink = Sink<&'a RefCell<Connection<S>>>;

    fn informational(&mut self, head: response::Parts) -> Result<(), BodyError> {
        // HTTP/1.0 has no interim responses (RFC 9110 §15.2).
        if self.version >= Version::HTTP_11 {
            mesh_http1::encode_response(
                &mut self.connection.borrow_mut().write,
                self.version,
                head.status,
                &head.headers,
                BodyLength::Empty,
                true,
                None,
            );
        }
        Ok(())
    }

    fn respond(
        &mut self,
        head: response::Parts,
        length: BodyLength,
    ) -> Result<Self::Sink, BodyError> {
        let length = if self.is_head || matches!(head.status.as_u16(), 204 | 304) {
            BodyLength::Empty
        } else {
            length
        };
        if length == BodyLength::UntilClose
            || (length == BodyLength::Chunked && self.version < Version::HTTP_11)
        {
            self.keep_alive = false;
        }
        let mut connection = self.connection.borrow_mut();
        mesh_http1::encode_response(
            &mut connection.write,
            self.version,
            head.status,
            &head.headers,
            length,
            self.keep_alive,
            None,
        );
        if !self.keep_alive {
            connection.end_after();
        }
        drop(connection);
        let framing = if length == BodyLength::Chunked && self.version < Version::HTTP_11 {
            BodyLength::UntilClose
        } else {
            length
        };
        Ok(Sink::new(self.connection, framing))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        ready!(self.connection.borrow_mut().poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }
}
