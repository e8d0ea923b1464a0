//! The bodies of messages on a connection: the one that is read and the one that is written.

use std::cell::{RefCell, RefMut};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use mesh_http1::{BodyDecoder, BodyEncoder, BodyLength, Decoded, Limits};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::body::{BodyError, BodySink, BodySource, Frame};
use super::{Connection, counted};

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

    /// The same, and nothing of it may be written any more.
    fn write_cut(&self) {
        self.write_aborted();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handle for &RefCell<Connection<S>> {
    type Io = S;

    fn connection(&self) -> RefMut<'_, Connection<S>> {
        self.borrow_mut()
    }

    fn write_cut(&self) {
        self.borrow_mut().cut();
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
    fn poll_frame(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Frame, BodyError>> {
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
                    return Poll::Ready(Ok(Frame::Data(counted(data))));
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
            let certain = self.decoder.certain();
            let n = ready!(self.handle.connection().poll_fill_body(cx, certain, most))?;
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
        connection.poll_writable(cx).map_err(BodyError::from)
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        {
            let mut connection = self.handle.connection();
            let after = self
                .encoder
                .chunk_header(&mut connection.write, data.len())?;
            connection.put(data);
            connection.write.extend_from_slice(after);
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
        let mut connection = self.handle.connection();
        let written = match self.ended {
            true => connection.poll_finish(cx),
            false => connection.poll_flush(cx),
        };
        written.map_err(BodyError::from)
    }

    fn abort(&mut self) {
        if !self.ended {
            self.ended = true;
            self.handle.write_aborted();
        }
    }

    fn cut(&mut self) {
        self.ended = true;
        self.handle.write_cut();
    }
}
