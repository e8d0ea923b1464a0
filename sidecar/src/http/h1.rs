//! HTTP/1.1 connections: buffers, reads and writes; the bodies on them are beside it.
//!
//! A connection has one owner task; its two directions are polled in turn by that task and share the connection through
//! a `RefCell` that is never borrowed across an await. Reads and writes are whole buffers, large pieces of bodies are
//! written from where they lie; a response is flushed when its source has nothing more at hand.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::bulk;
use crate::worker::accepted::Accepted;

mod body;

pub use body::{Body, Handle, Sink};

/// Bytes asked of the socket at a time while a head is awaited.
const HEAD_READ: usize = 4 * 1024;
/// Bytes asked of the socket at a time inside a body.
const BODY_READ: usize = 32 * 1024;
/// The same while more is there than is asked for: what fills an HTTP/2 frame, and with its head whole TLS records.
const BULK_READ: usize = super::h2::MAX_FRAME as usize - super::h2::FRAME_HEAD;
/// Pieces of a body from here on are not copied.
const LARGE: usize = 4 * 1024;
/// Pieces written by one system call.
const PIECES: usize = 16;
/// Unwritten bytes at which a sink stops taking more.
const WRITE_HIGH_WATER: usize = 64 * 1024;

/// One HTTP/1.1 connection with its buffers.
#[derive(Debug)]
pub struct Connection<S> {
    io: S,
    /// Read, not yet parsed.
    pub read: BytesMut,
    /// Encoded, not yet written; goes out after `pieces`.
    pub write: BytesMut,
    /// Not yet written.
    pieces: VecDeque<Bytes>,
    /// The last read got all that it asked for.
    flowing: bool,
    eof: bool,
    /// The writing ends when the message being written does.
    ends: bool,
    /// It has ended.
    ended: bool,
    /// Tells the stream that its writing ends with the next bytes.
    end_with_next: fn(&mut S),
}

impl Connection<Accepted> {
    /// Wraps a connection that was accepted.
    pub fn accepted(io: Accepted) -> Self {
        Self {
            end_with_next: Accepted::end_with_next,
            ..Self::new(io, BytesMut::new())
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Wraps a stream; `prefix` was already read from it.
    pub fn new(io: S, prefix: BytesMut) -> Self {
        Self {
            io,
            read: prefix,
            write: BytesMut::new(),
            pieces: VecDeque::new(),
            flowing: false,
            eof: false,
            ends: false,
            ended: false,
            end_with_next: |_| {},
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

    fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.read.capacity() - self.read.len() < most / 2 {
            self.read.reserve(most);
        }
        let room = (self.read.capacity() - self.read.len()).min(most);
        let mut limited = (&mut self.read).limit(most);
        let n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut limited))?;
        self.flowing = n == room;
        self.eof = n == 0;
        Poll::Ready(Ok(n))
    }

    /// Reads more into the buffer while a message head is awaited; 0 at the end of the stream.
    pub fn poll_fill_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, HEAD_READ)
    }

    /// The same where `certain` bytes of a body, or of anything of which there may be much, are awaited, and `most` can be
    /// passed on. Nothing is held while there is nothing, and what was read holds no more than four times its size.
    pub fn poll_fill_body(
        &mut self,
        cx: &mut Context<'_>,
        certain: u64,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let is_bulk =
            self.flowing && certain >= BULK_READ as u64 && most >= BULK_READ && bulk::has_room();
        let read = if is_bulk { BULK_READ } else { BODY_READ };
        let filled = self.poll_fill(cx, read.min(most));
        if self.read.is_empty() {
            self.read = BytesMut::new();
        } else if self.read.len() < self.read.capacity() / 4 {
            // Whoever gets it may keep it for long.
            self.read = BytesMut::from(&self.read[..]);
        }
        filled
    }

    /// Takes `data` to be written after everything before it.
    pub fn put(&mut self, data: Bytes) {
        if data.len() < LARGE {
            self.write.extend_from_slice(&data);
            return;
        }
        if !self.write.is_empty() {
            self.pieces.push_back(self.write.split().freeze());
        }
        self.pieces.push_back(data);
    }

    /// True when everything was written.
    pub fn is_written(&self) -> bool {
        self.pieces.is_empty() && self.write.is_empty()
    }

    /// Ready when little enough is unwritten that more can be taken.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unwritten: usize = self.pieces.iter().map(Bytes::len).sum();
        if unwritten + self.write.len() < WRITE_HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Writes everything out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let n = match self.pieces.is_empty() {
                true => ready!(Pin::new(&mut self.io).poll_write(cx, &self.write))?,
                false => ready!(self.poll_write_pieces(cx))?,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(n);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Writes the pieces, and what follows them, as far as one call takes it.
    fn poll_write_pieces(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let all = self.pieces.iter().map(|piece| &piece[..]);
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(all.chain([&self.write[..]])) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count])
    }

    fn wrote(&mut self, mut n: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if n < piece.len() {
                piece.advance(n);
                return;
            }
            n -= piece.len();
            self.pieces.pop_front();
        }
        self.write.advance(n);
    }

    /// Says that nothing follows the message whose head was written: its last bytes are sent together with the end.
    pub fn end_after(&mut self) {
        self.ends = true;
    }

    /// Writes nothing any more, not even what was taken: whoever reads sees that something is missing, but for a client of
    /// HTTP/1.0 to whom the end of the connection is the end of the body.
    fn cut(&mut self) {
        self.pieces.clear();
        self.write.clear();
        (self.ends, self.ended) = (true, true);
    }

    /// Writes everything out, and ends the write direction if it ends here.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ends {
            self.poll_shutdown(cx)
        } else {
            self.poll_flush(cx)
        }
    }

    /// Writes everything out and ends the write direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        (self.end_with_next)(&mut self.io);
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

/// Data that was read from a connection, counted if it is bulk.
pub fn counted(data: Bytes) -> Bytes {
    if data.len() > BODY_READ {
        bulk::counted(data)
    } else {
        data
    }
}

#[cfg(test)]
mod tests;
