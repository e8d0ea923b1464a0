//! How message bodies move: a source that yields frames, a sink that takes them, and the pump between.
//!
//! Bounded by construction: the pump holds no data of its own, asks the sink for room before it asks the source for a
//! frame, and flushes only when the source has nothing more at hand, so that what arrives together is written together.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use mesh_auth::Reason;

/// A piece of a message body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes; never empty.
    Data(Bytes),
    /// The trailer section, which ends the body.
    Trailers(HeaderMap),
    /// The end of the body.
    End,
}

/// Why a body could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The connection ended inside a message.
    #[error("connection ended inside a message")]
    Truncated,
    /// HTTP/1.1 framing was violated.
    #[error("HTTP/1.1: {0}")]
    Http1(#[from] mesh_http1::ParseError),
    /// More or less was written than was announced.
    #[error("body length: {0}")]
    Length(#[from] mesh_http1::EncodeError),
    /// It had to end before it was done.
    #[error("ended: {}", .0.code())]
    Ended(Reason),
    /// The HTTP/2 stream or connection failed.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

impl BodyError {
    /// Why it had to end, if that is what happened.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Ended(reason) => Some(*reason),
            _ => None,
        }
    }
}

/// Yields a body frame by frame.
pub trait BodySource {
    /// The next frame; no more than `most` bytes are read for it, of what is here already it may have more. After
    /// [`Frame::End`] or [`Frame::Trailers`] it is not called again.
    fn poll_frame(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Frame, BodyError>>;

    /// True when no data and no trailers will follow: the last data frame can carry the end.
    fn is_end(&self) -> bool;
}

/// Takes a body frame by frame.
pub trait BodySink {
    /// Ready when the sink has room for another frame.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;

    /// Bytes of the next frame that it can pass on at once, as far as that matters; never 0 when it is ready.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Takes data; `last` ends the body.
    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError>;

    /// Ends the body.
    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError>;

    /// Writes out what the sink holds. Pending means it will wake the task; nothing is lost.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;

    /// Ends the message so that the other side sees it is incomplete. What was taken before may still be written.
    fn abort(&mut self);

    /// The same at once, though its end was taken: nothing of it is written any more.
    fn cut(&mut self) {
        self.abort();
    }
}

/// Which side of a pump failed.
#[derive(Debug)]
pub enum PumpError {
    /// The body could not be read; the sink was aborted.
    Source(BodyError),
    /// The body could not be written.
    Sink(BodyError),
}

/// Moves one body from a source to a sink.
#[derive(Debug)]
pub struct Pump<S, K> {
    source: S,
    sink: K,
    ended: bool,
    bytes: u64,
    grpc_status: Option<u32>,
}

impl<S: BodySource, K: BodySink> Pump<S, K> {
    /// A pump that has moved nothing yet.
    pub fn new(source: S, sink: K) -> Self {
        Self {
            source,
            sink,
            ended: false,
            bytes: 0,
            grpc_status: None,
        }
    }

    /// The gRPC status that the trailers carried.
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// Bytes of data moved so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the body comes from.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Ends the written message visibly incomplete, unless its end was already written.
    pub fn abort(&mut self) {
        if !self.ended {
            self.sink.abort();
        }
    }

    /// Ends the written message with these trailers, whatever the source still has.
    ///
    /// # Errors
    /// It cannot be ended so: it has a declared length, for example.
    pub fn finish_with(&mut self, trailers: HeaderMap) -> Result<(), BodyError> {
        self.ended = true;
        self.sink.finish(Some(trailers))
    }

    /// Ends the written message visibly incomplete, though its end was handed to the sink, and writes no more of it.
    pub fn cut(&mut self) {
        self.sink.cut();
    }

    /// Writes out what the sink holds without reading more.
    pub fn poll_sink_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.sink.poll_flush(cx)
    }

    /// Moves what can be moved; ready when the body's end has been handed to the operating system (HTTP/1.1) or to the
    /// connection (HTTP/2).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        while !self.ended {
            if self
                .sink
                .poll_ready(cx)
                .map_err(PumpError::Sink)?
                .is_pending()
            {
                return Poll::Pending;
            }
            match self.source.poll_frame(cx, self.sink.room()) {
                Poll::Ready(Ok(frame)) => self.pass(frame).map_err(PumpError::Sink)?,
                Poll::Ready(Err(error)) => {
                    self.sink.abort();
                    return Poll::Ready(Err(PumpError::Source(error)));
                }
                Poll::Pending => {
                    // The sink wakes the task by itself if it could not write everything.
                    let _ = self.sink.poll_flush(cx).map_err(PumpError::Sink)?;
                    return Poll::Pending;
                }
            }
        }
        ready!(self.sink.poll_flush(cx)).map_err(PumpError::Sink)?;
        Poll::Ready(Ok(()))
    }

    fn pass(&mut self, frame: Frame) -> Result<(), BodyError> {
        match frame {
            Frame::Data(data) => {
                self.bytes += data.len() as u64;
                let last = self.source.is_end();
                self.sink.send(data, last)?;
                self.ended = last;
            }
            Frame::Trailers(trailers) => {
                self.grpc_status = super::forward::grpc_status(&trailers);
                self.sink.finish(Some(trailers))?;
                self.ended = true;
            }
            Frame::End => {
                self.sink.finish(None)?;
                self.ended = true;
            }
        }
        Ok(())
    }
}
