//! Opaque bytes: between two sockets, or between a socket and an HBONE CONNECT stream (RFC 9113 §8.5).
//!
//! Half-close travels both ways: the end of one direction ends that direction only. A failure of one direction resets
//! the other, so that neither side mistakes a cut for an end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::body::{BodyError, BodySink, BodySource, Frame, Pump, PumpError};
use crate::http::h1::Connection;
use crate::http::h2 as stream;

/// Bytes asked of a socket at a time.
const READ: usize = 64 * 1024;
const WRITE_HIGH_WATER: usize = 256 * 1024;

/// The bytes of a socket as frames.
struct RawSource<'a, S>(&'a RefCell<Connection<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> BodySource for RawSource<'_, S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let mut connection = self.0.borrow_mut();
        if connection.read.is_empty() && ready!(connection.poll_fill(cx, READ))? == 0 {
            return Poll::Ready(Ok(Frame::End));
        }
        Poll::Ready(Ok(Frame::Data(connection.read.split().freeze())))
    }

    fn is_end(&self) -> bool {
        false
    }
}

/// Frames as the bytes of a socket.
struct RawSink<'a, S> {
    connection: &'a RefCell<Connection<S>>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BodySink for RawSink<'_, S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut connection = self.connection.borrow_mut();
        if connection.write.len() < WRITE_HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        connection.poll_flush(cx).map_err(BodyError::from)
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        self.connection.borrow_mut().write.extend_from_slice(&data);
        self.ended = last;
        Ok(())
    }

    fn finish(&mut self, _: Option<HeaderMap>) -> Result<(), BodyError> {
        self.ended = true;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut connection = self.connection.borrow_mut();
        if self.ended {
            connection.poll_shutdown(cx)
        } else {
            connection.poll_flush(cx)
        }
        .map_err(BodyError::from)
    }

    fn abort(&mut self) {
        self.ended = true;
    }
}

/// How much a tunnel carried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    /// Bytes from the first side to the second.
    pub forward: u64,
    /// Bytes from the second side to the first.
    pub backward: u64,
}

/// Copies both ways between a socket and an open stream until both directions ended.
///
/// # Errors
/// The first failure of either direction.
pub async fn with_stream<S>(
    socket: &RefCell<Connection<S>>,
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
) -> Result<Carried, BodyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let there = Pump::new(RawSource(socket), stream::Sink::new(send, false));
    let back = Pump::new(
        stream::Body::new(receive),
        RawSink {
            connection: socket,
            ended: false,
        },
    );
    both(there, back).await
}

/// Copies both ways between two sockets until both directions ended.
///
/// # Errors
/// The first failure of either direction.
pub async fn between<A, B>(
    a: &RefCell<Connection<A>>,
    b: &RefCell<Connection<B>>,
) -> Result<Carried, BodyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let there = Pump::new(
        RawSource(a),
        RawSink {
            connection: b,
            ended: false,
        },
    );
    let back = Pump::new(
        RawSource(b),
        RawSink {
            connection: a,
            ended: false,
        },
    );
    both(there, back).await
}

async fn both<S1, K1, S2, K2>(
    mut there: Pump<S1, K1>,
    mut back: Pump<S2, K2>,
) -> Result<Carried, BodyError>
where
    S1: BodySource,
    K1: BodySink,
    S2: BodySource,
    K2: BodySink,
{
    let (mut there_done, mut back_done) = (false, false);
    let result = poll_fn(|cx| {
        if !there_done {
            there_done = there.poll(cx).map_err(side)?.is_ready();
        }
        if !back_done {
            back_done = back.poll(cx).map_err(side)?.is_ready();
        }
        if there_done && back_done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    if let Err(error) = result {
        there.abort();
        back.abort();
        return Err(error);
    }
    Ok(Carried {
        forward: there.bytes(),
        backward: back.bytes(),
    })
}

fn side(error: PumpError) -> BodyError {
    match error {
        PumpError::Source(error) | PumpError::Sink(error) => error,
    }
}
