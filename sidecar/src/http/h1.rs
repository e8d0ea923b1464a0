//! HTTP/1.1 connections: buffers, the request and response halves, and the bodies on them.
//!
//! A connection has one owner task; its two directions are polled in turn by that task and share the connection through
//! a `RefCell` that is never borrowed across an await. Reads and writes are whole buffers, large pieces of bodies are
//! written from where they lie; a response is flushed when its source has nothing more at hand.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use mesh_http1::{BodyDecoder, BodyEncoder, BodyLength, Decoded, Limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::body::{BodyError, BodySink, BodySource, Frame};
use super::bulk;
use crate::worker::accepted::Accepted;

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

    /// Writes nothing any more, not even what was taken: whoever reads sees that something is missing.
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// Gives what is there and takes what it has room for; notes what each call asked or brought.
    #[derive(Default)]
    struct Wire {
        there: usize,
        asked: Vec<usize>,
        room: usize,
        written: Vec<u8>,
        calls: Vec<usize>,
        /// What was written when it was told that the next bytes are the last.
        told_at: Option<usize>,
        shut: usize,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = self.there.min(buf.remaining());
            if n == 0 {
                return Poll::Pending;
            }
            self.asked.push(buf.remaining());
            self.there -= n;
            buf.put_slice(&vec![7; n]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let n = all.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.written.extend_from_slice(&all[..n]);
            self.calls.push(n);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut += 1;
            Poll::Ready(Ok(()))
        }
    }

    fn connection(wire: Wire) -> RefCell<Connection<Wire>> {
        RefCell::new(Connection::new(wire, BytesMut::new()))
    }

    #[test]
    fn a_chunked_body_is_written_in_order_however_it_is_cut() {
        let large: Bytes = (0..=255).cycle().take(LARGE).collect();
        let pieces = [
            large.slice(..3),
            large.clone(),
            large.slice(..LARGE - 1),
            large.clone(),
            large.slice(5..9),
        ];
        let mut expected = b"HEAD".to_vec();
        for piece in &pieces {
            expected.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            expected.extend_from_slice(piece);
            expected.extend_from_slice(b"\r\n");
        }
        expected.extend_from_slice(b"0\r\n\r\n");
        let mut cx = Context::from_waker(Waker::noop());
        for room in [1, 2, 1_000, LARGE, 5_000, usize::MAX] {
            let connection = connection(Wire::default());
            connection.borrow_mut().write.extend_from_slice(b"HEAD");
            let mut sink = Sink::new(&connection, BodyLength::Chunked);
            for piece in &pieces {
                sink.send(piece.clone(), false).unwrap();
            }
            sink.finish(None).unwrap();
            while !connection.borrow().is_written() {
                connection.borrow_mut().io.room = room;
                let _ = sink.poll_flush(&mut cx).map(Result::unwrap);
            }
            let wire = &connection.borrow().io;
            assert_eq!(wire.written, expected, "{room} bytes at a time");
            if room == usize::MAX {
                assert_eq!(wire.calls.len(), 1, "all in one call");
            }
        }
    }

    #[test]
    fn a_sink_is_full_when_much_is_unwritten_and_copies_nothing_large() {
        let connection = connection(Wire::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut sink = Sink::new(&connection, BodyLength::UntilClose);
        let piece = Bytes::from(vec![1; 16 * 1024]);
        for _ in 0..WRITE_HIGH_WATER / piece.len() {
            assert!(sink.poll_ready(&mut cx).is_ready());
            sink.send(piece.clone(), false).unwrap();
        }
        assert!(sink.poll_ready(&mut cx).is_pending());
        assert_eq!(connection.borrow().write.capacity(), 0);
        connection.borrow_mut().io.room = usize::MAX;
        assert!(sink.poll_ready(&mut cx).is_ready());
        assert_eq!(connection.borrow().io.calls, [WRITE_HIGH_WATER]);
    }

    #[test]
    fn a_small_read_holds_no_large_block() {
        let connection = connection(Wire::default());
        let mut connection = connection.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        let mut held = Vec::new();
        for length in [7, 7, 4_000, 9_000, 7] {
            connection.io.there = length;
            assert!(
                connection
                    .poll_fill_body(&mut cx, u64::MAX, usize::MAX)
                    .is_ready()
            );
            held.push(connection.read.split().freeze());
            assert!(
                connection
                    .poll_fill_body(&mut cx, u64::MAX, usize::MAX)
                    .is_pending()
            );
            assert_eq!(connection.read.capacity(), 0);
        }
        for bytes in held {
            let length = bytes.len();
            let block = bytes.try_into_mut().unwrap().capacity();
            assert!(block <= 4 * length, "{length} bytes hold {block}");
        }
    }

    #[test]
    fn bulk_is_read_in_small_pieces_while_much_of_it_is_held_or_its_end_is_near() {
        let connection = connection(Wire::default());
        let mut connection = connection.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        connection.io.there = usize::MAX;
        let mut read = |certain| {
            assert!(
                connection
                    .poll_fill_body(&mut cx, certain, usize::MAX)
                    .is_ready()
            );
            counted(connection.read.split().freeze())
        };
        assert_eq!(read(u64::MAX).len(), BODY_READ);
        let mut held = Vec::new();
        while bulk::has_room() {
            held.push(read(u64::MAX));
        }
        assert!(held.iter().all(|bytes| bytes.len() == BULK_READ));
        assert_eq!(read(u64::MAX).len(), BODY_READ);
        held.pop();
        assert_eq!(read(u64::MAX).len(), BULK_READ);
        assert_eq!(read(BULK_READ as u64 - 1).len(), BODY_READ);
    }

    #[test]
    fn the_last_message_goes_out_with_the_end_and_others_before_it() {
        let connection = connection(Wire {
            room: usize::MAX,
            ..Wire::default()
        });
        connection.borrow_mut().end_with_next = |wire| wire.told_at = Some(wire.written.len());
        let mut cx = Context::from_waker(Waker::noop());
        let send = |cx: &mut Context<'_>| {
            let mut sink = Sink::new(&connection, BodyLength::UntilClose);
            sink.send(Bytes::from_static(b"body"), true).unwrap();
            assert!(sink.poll_flush(cx).is_ready());
        };
        send(&mut cx);
        let wire = |of: &RefCell<Connection<Wire>>| (of.borrow().io.shut, of.borrow().io.told_at);
        assert_eq!(connection.borrow().io.written, b"body");
        assert_eq!(wire(&connection), (0, None));
        connection.borrow_mut().end_after();
        send(&mut cx);
        // Whoever ends it a second time changes nothing.
        for _ in 0..2 {
            assert!(connection.borrow_mut().poll_finish(&mut cx).is_ready());
        }
        let wire = &connection.borrow().io;
        assert_eq!((&wire.written[..], wire.shut), (&b"bodybody"[..], 1));
        assert_eq!(wire.told_at, Some(4), "before the last bytes");
    }

    #[test]
    fn much_is_read_in_frames_and_an_idle_connection_holds_no_buffer() {
        assert_eq!((BULK_READ + super::super::h2::FRAME_HEAD) % (16 * 1024), 0);
        let connection = connection(Wire::default());
        let mut connection = connection.borrow_mut();
        connection.io.there = BODY_READ + BULK_READ + 10;
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = 0;
        while let Poll::Ready(n) = connection.poll_fill_body(&mut cx, u64::MAX, usize::MAX) {
            read += n.unwrap();
            connection.read.clear();
        }
        assert_eq!(read, BODY_READ + BULK_READ + 10);
        assert_eq!(connection.io.asked, [BODY_READ, BULK_READ, BULK_READ]);
        assert_eq!(connection.read.capacity(), 0);
        // Little is asked for again once little came.
        connection.io.there = 10;
        assert!(
            connection
                .poll_fill_body(&mut cx, u64::MAX, usize::MAX)
                .is_ready()
        );
        assert_eq!(connection.io.asked[3], BODY_READ);
    }
}
