//! A stream that holds back what TLS writes while hands are shaken, until the peer is waited for.
//!
//! The last thing of a handshake to be written (a server's session ticket, a client's certificates) and the first of what
//! follows it (HTTP/2's preface) are written one after the other with nothing in between. [`HoldBack`] has them go out
//! together: one system call and one segment, and one wake-up of the peer. While hands are shaken what is held goes out
//! before the stream is read, which is how a handshake waits; after [`HoldBack::release`], with the next write or flush:
//! who releases it and has nothing to write flushes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::gather::poll_write_all;

/// Bytes held at most. A handshake of certificates of usual size writes about one.
const ROOM: usize = 16 * 1024;

/// The stream that TLS is given.
#[derive(Debug)]
pub struct HoldBack<S> {
    stream: S,
    held: Vec<u8>,
    /// Of these, written.
    written: usize,
    /// Hands are being shaken.
    holds: bool,
    /// What is held is to go out before anything else is written.
    is_due: bool,
}

impl<S> HoldBack<S> {
    /// Puts a holding stream before `stream`.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            held: Vec::new(),
            written: 0,
            holds: true,
            is_due: false,
        }
    }

    /// The handshake is done: what is held goes with the next bytes.
    pub fn release(&mut self) {
        self.holds = false;
    }

    fn keep(&mut self, bufs: &[IoSlice<'_>]) {
        for buf in bufs {
            self.held.extend_from_slice(buf);
        }
    }
}

impl<S: AsyncWrite + Unpin> HoldBack<S> {
    /// Writes what is held, the alert of a failed handshake say. An error says nothing that is not known.
    pub async fn finish(mut self) {
        let _ = std::future::poll_fn(|cx| {
            ready!(self.poll_drain(cx))?;
            Pin::new(&mut self.stream).poll_flush(cx)
        })
        .await;
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(poll_write_all(
            &mut self.stream,
            cx,
            &self.held,
            &mut self.written
        ))?;
        self.written = 0;
        self.is_due = false;
        // An idle connection holds no buffer.
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HoldBack<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A peer that does not read may still write: what it wrote is not kept waiting.
        if self.holds
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HoldBack<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.holds && self.held.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let has_room = self.held.len() + length <= ROOM;
        let joins = has_room && !self.is_due;
        if !joins {
            ready!(self.poll_drain(cx))?;
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        self.keep(bufs);
        if !self.holds {
            self.is_due = true;
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Notes each write; takes `room` bytes, then none.
    struct Wire {
        writes: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(b"r");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.writes.push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wire(room: usize) -> HoldBack<Wire> {
        HoldBack::new(Wire {
            writes: Vec::new(),
            room,
        })
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(stream: &mut HoldBack<Wire>, bytes: &[u8]) -> Poll<usize> {
        let written = Pin::new(&mut *stream).poll_write(&mut cx(), bytes);
        written.map(|n| n.expect("no error"))
    }

    fn flush(stream: &mut HoldBack<Wire>) -> bool {
        Pin::new(&mut *stream).poll_flush(&mut cx()).is_ready()
    }

    fn read(stream: &mut HoldBack<Wire>) {
        let mut bytes = [0; 8];
        let read = Pin::new(&mut *stream).poll_read(&mut cx(), &mut ReadBuf::new(&mut bytes));
        assert!(matches!(read, Poll::Ready(Ok(()))));
        assert_eq!(bytes[0], b'r', "read whether or not what is held went out");
    }

    #[test]
    fn the_end_of_a_handshake_goes_out_with_what_follows_it() {
        let mut stream = wire(usize::MAX);
        assert_eq!(write(&mut stream, b"hello"), Poll::Ready(5));
        assert_eq!(write(&mut stream, b"finished"), Poll::Ready(8));
        assert!(flush(&mut stream));
        assert!(stream.stream.writes.is_empty(), "nobody waits yet");
        read(&mut stream);
        assert_eq!(
            stream.stream.writes,
            [b"hellofinished"],
            "now somebody does"
        );
        assert_eq!(write(&mut stream, b"ticket"), Poll::Ready(6));
        assert!(flush(&mut stream));
        stream.release();
        assert_eq!(write(&mut stream, b"settings"), Poll::Ready(8));
        assert_eq!(stream.stream.writes[1..], [b"ticketsettings"]);
        assert_eq!(stream.held.capacity(), 0, "and nothing is kept");
        assert_eq!(write(&mut stream, b"data"), Poll::Ready(4));
        assert_eq!(stream.stream.writes[2..], [b"data"]);
    }

    #[test]
    fn what_is_held_goes_out_when_nothing_follows_it() {
        let ways: [fn(&mut HoldBack<Wire>); 2] = [
            |stream| assert!(flush(stream)),
            |stream| {
                let shut = Pin::new(&mut *stream).poll_shutdown(&mut cx());
                assert!(shut.is_ready());
            },
        ];
        for way in ways {
            let mut stream = wire(usize::MAX);
            assert_eq!(write(&mut stream, b"ticket"), Poll::Ready(6));
            stream.release();
            // HTTP/2 reads before it has written all that it has to say.
            read(&mut stream);
            assert!(stream.stream.writes.is_empty());
            way(&mut stream);
            assert_eq!(stream.stream.writes, [b"ticket"]);
        }
    }

    #[test]
    fn a_full_socket_loses_nothing_and_keeps_the_order() {
        let mut stream = wire(3);
        assert_eq!(write(&mut stream, b"ticket"), Poll::Ready(6));
        stream.release();
        assert_eq!(write(&mut stream, b"one"), Poll::Ready(3), "kept");
        assert_eq!(write(&mut stream, b"two"), Poll::Pending, "no more is");
        assert!(!flush(&mut stream));
        read(&mut stream);
        stream.stream.room = usize::MAX;
        assert_eq!(write(&mut stream, b"two"), Poll::Ready(3));
        assert_eq!(stream.stream.writes.concat(), b"ticketonetwo");
    }

    #[test]
    fn more_than_there_is_room_for_is_not_held() {
        let mut stream = wire(usize::MAX);
        assert_eq!(write(&mut stream, b"hello"), Poll::Ready(5));
        let large = vec![7; ROOM];
        assert_eq!(write(&mut stream, &large), Poll::Ready(ROOM));
        assert_eq!(stream.stream.writes, [b"hello".to_vec(), large]);
    }

    #[tokio::test]
    async fn a_failed_handshake_still_says_why() {
        let mut stream = wire(usize::MAX);
        assert_eq!(write(&mut stream, b"alert"), Poll::Ready(5));
        let (near, mut far) = tokio::io::duplex(64);
        let held = HoldBack {
            stream: near,
            held: std::mem::take(&mut stream.held),
            written: 0,
            holds: true,
            is_due: false,
        };
        held.finish().await;
        let mut said = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut said)
            .await
            .expect("the end");
        assert_eq!(said, b"alert");
    }
}
