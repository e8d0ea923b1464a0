//! Gathers what an HTTP/2 connection writes in one turn of its task.
//!
//! The h2 crate writes and flushes every DATA frame of 256 bytes or more by itself, so that each of many small bodies
//! would be a TLS record and a system call of its own. [`Gather`] keeps small writes, and answers flushes, until the
//! connection has nothing more to do; the task then ends the [`Turn`], which writes them together. Nothing waits: a turn ends
//! before the task yields. Large writes are not copied.
//!
//! A turn also ends after much was read, so that what was read is passed on while it is in the processor's cache, and what
//! is small does not wait for all that is large.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most; two TLS records.
const ROOM: usize = 32 * 1024;
/// Writes from here on are handed through: copying them would cost more than the system call that it saves.
const LARGE: usize = 8 * 1024;
/// Bytes read in one turn, to within one read.
const TURN_READ: usize = 256 * 1024;
/// Bytes of a write that only bulk makes.
const MUCH: usize = 128 * 1024;
/// Empty buffers that a worker keeps, so that connections hold none while they are idle.
const SPARE: usize = 8;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The stream that an HTTP/2 connection is given.
#[derive(Debug)]
pub struct Gather<S>(Rc<RefCell<Gathered<S>>>);

/// Ends turns of a [`Gather`]'s connection.
#[derive(Debug)]
pub struct Turn<S>(Rc<RefCell<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    buffer: Vec<u8>,
    written: usize,
    /// Bytes read in this turn.
    read: usize,
    /// Since somebody asked, a turn read as much as it may, or a frame of bulk was written.
    carried_much: bool,
    /// Something was handed to the stream that it may not have sent yet.
    unflushed: bool,
    /// Met while a turn ended; the connection is told at its next call.
    error: Option<io::Error>,
}

/// Puts a gathering stream before `stream`.
pub fn gather<S>(stream: S) -> (Gather<S>, Turn<S>) {
    let gathered = Rc::new(RefCell::new(Gathered {
        stream,
        buffer: Vec::new(),
        written: 0,
        read: 0,
        carried_much: false,
        unflushed: false,
        error: None,
    }));
    (Gather(Rc::clone(&gathered)), Turn(gathered))
}

impl<S: AsyncWrite + Unpin> Turn<S> {
    /// Polls the connection; when it has nothing more to do, writes what it wrote.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        connection: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let polled = connection(cx);
        if polled.is_pending() {
            self.0.borrow_mut().end(cx);
        }
        polled
    }

    /// True if bulk went over the connection since this was asked last.
    pub fn carried_much(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().carried_much)
    }

    /// [`Turn::poll`] of a future.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| self.poll(cx, |cx| future.as_mut().poll(cx))).await
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn end(&mut self, cx: &mut Context<'_>) {
        self.carried_much |= self.read >= TURN_READ;
        self.read = 0;
        if self.error.is_none()
            && let Poll::Ready(Err(error)) = self.poll_flush(cx)
        {
            self.error = Some(error);
            // The connection has to hear of it.
            cx.waker().wake_by_ref();
        }
    }

    fn failed(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Hands everything gathered to the stream.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(poll_write_all(
            &mut self.stream,
            cx,
            &self.buffer,
            &mut self.written
        ))?;
        self.written = 0;
        self.unflushed = true;
        give_back(std::mem::take(&mut self.buffer));
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Room for `more` bytes, or nothing gathered at all.
    fn poll_room(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<io::Result<()>> {
        self.failed()?;
        if more >= LARGE || self.buffer.len() + more > ROOM {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() == 0 {
            self.buffer = BUFFERS
                .with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| Vec::with_capacity(ROOM));
        }
        self.buffer.extend_from_slice(bytes);
    }
}

fn give_back(mut buffer: Vec<u8>) {
    buffer.clear();
    BUFFERS.with_borrow_mut(|spare| {
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        if let Some(error) = gathered.error.take() {
            return Poll::Ready(Err(error));
        }
        if gathered.read >= TURN_READ {
            // There may be more: the next turn comes after the tasks that wait for what was read.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut gathered.stream).poll_read(cx, buf);
        gathered.read += buf.filled().len() - before;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        ready!(gathered.poll_room(cx, length))?;
        if length >= LARGE {
            gathered.unflushed = true;
            gathered.carried_much |= length >= MUCH;
            return Pin::new(&mut gathered.stream).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            gathered.keep(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready at once: the end of the turn flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().failed())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        gathered.failed()?;
        ready!(gathered.poll_flush(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

/// Writes all of `bytes`, of which `written` are already.
pub fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bytes: &[u8],
    written: &mut usize,
) -> Poll<io::Result<()>> {
    while *written < bytes.len() {
        match ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[*written..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => *written += n,
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Takes what it has room for, and remembers each write.
    #[derive(Debug, Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        room: usize,
        broken: bool,
        flushes: usize,
        /// Bytes that can be read.
        there: usize,
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
            self.there -= n;
            buf.put_slice(&vec![0; n]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let n = buf.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.writes.push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wire(room: usize) -> (Gather<Wire>, Turn<Wire>) {
        gather(Wire {
            room,
            ..Wire::default()
        })
    }

    fn write(to: &mut Gather<Wire>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(to).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn flush(to: &mut Gather<Wire>) -> Poll<io::Result<()>> {
        Pin::new(to).poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    fn end(turn: &Turn<Wire>) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = turn.poll(&mut cx, |_| Poll::<()>::Pending);
    }

    fn writes(turn: &Turn<Wire>) -> Vec<usize> {
        turn.0.borrow().stream.writes.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_turn_ends_after_much_was_read_and_another_follows() {
        let (mut to, turn) = wire(usize::MAX);
        turn.0.borrow_mut().stream.there = TURN_READ + 20_000;
        let mut bytes = vec![0; 16 * 1024];
        let mut turns = Vec::new();
        loop {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut cx = Context::from_waker(&waker);
            let mut read = 0;
            let polled = turn.poll(&mut cx, |cx| -> Poll<()> {
                loop {
                    let mut buf = ReadBuf::new(&mut bytes);
                    ready!(Pin::new(&mut to).poll_read(cx, &mut buf)).unwrap();
                    read += buf.filled().len();
                }
            });
            assert!(polled.is_pending());
            turns.push(read);
            if !woken.0.load(Ordering::Relaxed) {
                break;
            }
        }
        assert_eq!(turns, [TURN_READ, 20_000]);
        assert!(turn.carried_much() && !turn.carried_much());
        turn.0.borrow_mut().stream.room = usize::MAX;
        assert!(write(&mut to, &[1; MUCH - 1]).is_ready() && !turn.carried_much());
        assert!(write(&mut to, &[1; MUCH]).is_ready() && turn.carried_much());
    }

    #[test]
    fn small_writes_of_a_turn_are_one() {
        let (mut to, turn) = wire(usize::MAX);
        for i in 0..20_u8 {
            assert!(write(&mut to, &[i; 1_000]).is_ready());
            assert!(flush(&mut to).is_ready());
        }
        assert!(writes(&turn).is_empty());
        end(&turn);
        assert_eq!(writes(&turn), [20_000]);
        assert_eq!(turn.0.borrow().stream.flushes, 1);
        assert_eq!(turn.0.borrow().buffer.capacity(), 0);
        end(&turn);
        assert_eq!(turn.0.borrow().stream.flushes, 1);
    }

    #[test]
    fn a_connection_with_more_to_do_is_not_interrupted() {
        let (mut to, turn) = wire(usize::MAX);
        let mut cx = Context::from_waker(Waker::noop());
        let ready = turn.poll(&mut cx, |_| {
            assert!(write(&mut to, b"some").is_ready());
            Poll::Ready(())
        });
        assert!(ready.is_ready());
        assert!(writes(&turn).is_empty());
    }

    #[test]
    fn large_writes_keep_their_place_and_are_not_copied() {
        let (mut to, turn) = wire(usize::MAX);
        assert!(write(&mut to, b"head").is_ready());
        assert!(write(&mut to, &[0; LARGE]).is_ready());
        assert_eq!(writes(&turn), [4, LARGE]);
    }

    #[test]
    fn a_full_stream_holds_the_writer_back_and_loses_nothing() {
        let (mut to, turn) = wire(10);
        let mut sent = 0;
        while let Poll::Ready(Ok(n)) = write(&mut to, &[7; 5_000]) {
            sent += n;
            assert!(sent <= ROOM);
        }
        assert_eq!(writes(&turn), [10]);
        turn.0.borrow_mut().stream.room = usize::MAX;
        end(&turn);
        assert_eq!(writes(&turn).iter().sum::<usize>(), sent);
        assert!(write(&mut to, b"more").is_ready());
    }

    #[test]
    fn an_error_at_the_end_of_a_turn_reaches_the_connection_and_wakes_it() {
        let (mut to, turn) = wire(usize::MAX);
        turn.0.borrow_mut().stream.broken = true;
        assert!(write(&mut to, b"lost").is_ready());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let _ = turn.poll(&mut Context::from_waker(&waker), |_| Poll::<()>::Pending);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(matches!(flush(&mut to), Poll::Ready(Err(_))));
    }

    #[test]
    fn what_was_gathered_goes_out_before_the_stream_is_shut_down() {
        let (mut to, turn) = wire(usize::MAX);
        assert!(write(&mut to, b"bye").is_ready());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut to).poll_shutdown(&mut cx).is_ready());
        assert_eq!(writes(&turn), [3]);
    }

    #[test]
    fn a_future_is_run_by_turns() {
        let (mut to, turn) = wire(usize::MAX);
        let mut polls = 0;
        let run = turn.run(poll_fn(|_| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            assert!(write(&mut to, b"preface").is_ready());
            Poll::Pending
        }));
        let mut run = std::pin::pin!(run);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut cx).is_pending());
        assert_eq!(writes(&turn), [7]);
        assert!(run.as_mut().poll(&mut cx).is_ready());
    }
}
