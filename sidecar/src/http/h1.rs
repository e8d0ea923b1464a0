//! HTTP/1.1 connections: buffers, the request and response halves, and the bodies on them.
//!
//! A connection has one owner task; its two directions are polled in turn by that task and share the connection through
//! a `RefCell` that is never borrowed across an await. Reads and writes are whole buffers; a response is flushed when
//! its source has nothing more at hand.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use mesh_http1::{BodyDecoder, BodyEncoder, BodyLength, Decoded, Limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::body::{BodyError, BodySink, BodySource, Frame};

/// Bytes asked of the socket at a time while a head is awaited.
const HEAD_READ: usize = 4 * 1024;
/// Bytes asked of the socket at a time inside a body.
const BODY_READ: usize = 32 * 1024;
/// Unwritten bytes at which a sink stops taking more.
const WRITE_HIGH_WATER: usize = 64 * 1024;

/// One HTTP/1.1 connection with its buffers.
#[derive(Debug)]
pub struct Connection<S> {
    io: S,
    /// Read, not yet parsed.
    pub read: BytesMut,
    /// Encoded, not yet written.
    pub write: BytesMut,
    eof: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Wraps a stream; `prefix` was already read from it.
    pub fn new(io: S, prefix: BytesMut) -> Self {
        Self {
            io,
            read: prefix,
            write: BytesMut::new(),
            eof: false,
        }
    }

    /// The stream and what was read from it but not parsed.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.read)
    }

    /// The stream.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// Reads more into the buffer; 0 at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, hint: usize) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.read.capacity() - self.read.len() < hint / 2 {
            self.read.reserve(hint);
        }
        let n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))?;
        self.eof = n == 0;
        Poll::Ready(Ok(n))
    }

    /// Reads more while a message head is awaited.
    pub fn poll_fill_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, HEAD_READ)
    }

    /// Writes the buffer out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.write))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.write.advance(n);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends the write direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A handle to a connection that one task polls from two places.
pub trait Handle {
    /// The stream type.
    type Io: AsyncRead + AsyncWrite + Unpin;

    /// The connection, for the duration of one poll.
    fn connection(&self) -> RefMut<'_, Connection<Self::Io>>;

    /// The body of the message being read ended.
    fn read_ended(&self) {}

    /// The body of the message being written ended.
    fn write_ended(&self) {}

    /// The message being written was cut short: the connection must not be used for another.
    fn write_aborted(&self) {}
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handle for &RefCell<Connection<S>> {
    type Io = S;

    fn connection(&self) -> RefMut<'_, Connection<S>> {
        self.borrow_mut()
    }
}

/// The body of the message being read from a connection.
#[derive(Debug)]
pub struct Body<H> {
    handle: H,
    decoder: BodyDecoder,
    ended: bool,
}

impl<H: Handle> Body<H> {
    /// A body framed by `length`.
    pub fn new(handle: H, length: BodyLength, limits: &Limits) -> Self {
        let ended = length == BodyLength::Empty || length == BodyLength::Length(0);
        if ended {
            handle.read_ended();
        }
        Self {
            handle,
            decoder: BodyDecoder::new(length, limits),
            ended,
        }
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.handle.read_ended();
        }
    }
}

impl<H: Handle> BodySource for Body<H> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        if self.ended {
            return Poll::Ready(Ok(Frame::End));
        }
        loop {
            let decoded = {
                let mut connection = self.handle.connection();
                self.decoder.decode(&mut connection.read)?
            };
            match decoded {
                Decoded::Data(data) => {
                    if self.decoder.is_end() {
                        self.end();
                    }
                    return Poll::Ready(Ok(Frame::Data(data)));
                }
                Decoded::Trailers(trailers) => {
                    self.end();
                    return Poll::Ready(Ok(Frame::Trailers(trailers)));
                }
                Decoded::End => {
                    self.end();
                    return Poll::Ready(Ok(Frame::End));
                }
                Decoded::NeedMore => {}
            }
            let n = ready!(self.handle.connection().poll_fill(cx, BODY_READ))?;
            if n == 0 {
                self.decoder.eof().map_err(|_| BodyError::Truncated)?;
                self.end();
                return Poll::Ready(Ok(Frame::End));
            }
        }
    }

    fn is_end(&self) -> bool {
        self.ended
    }
}

/// The body of the message being written to a connection.
#[derive(Debug)]
pub struct Sink<H> {
    handle: H,
    encoder: BodyEncoder,
    ended: bool,
}

impl<H: Handle> Sink<H> {
    /// A body framed by `length`; the head is in the write buffer already.
    pub fn new(handle: H, length: BodyLength) -> Self {
        Self {
            handle,
            encoder: BodyEncoder::new(length),
            ended: false,
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.handle.write_ended();
    }
}

impl<H: Handle> BodySink for Sink<H> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut connection = self.handle.connection();
        if connection.write.len() < WRITE_HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        connection.poll_flush(cx).map_err(BodyError::from)
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        {
            let mut connection = self.handle.connection();
            self.encoder.data(&mut connection.write, &data)?;
            if last {
                self.encoder.end(&mut connection.write, None)?;
            }
        }
        if last {
            self.end();
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        self.encoder
            .end(&mut self.handle.connection().write, trailers.as_ref())?;
        self.end();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.handle
            .connection()
            .poll_flush(cx)
            .map_err(BodyError::from)
    }

    fn abort(&mut self) {
        if !self.ended {
            self.ended = true;
            self.handle.write_aborted();
        }
    }
}
