//! Accepted connections, without a call that a short one does not need.
//!
//! Who connects to its own sidecar has mostly sent its request when it is accepted, and gets the answer into an empty
//! socket: such a connection never waits. Of a handshake the next message is mostly there as soon as the last is answered, where
//! the peer is near. [`Accepted`] reads and writes first and becomes known to the reactor only when it has to wait for something to
//! read; what is written is left to the reactor once the socket was full. The end of what is written goes out together with the
//! last bytes.

use std::io::{self, IoSlice, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use super::crew::{Accept, Packed};
use super::dial;

/// Most bytes that are read at once before the reactor knows a connection.
const FIRST_READ: usize = 16 * 1024;

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    /// What is written now is the last.
    ending: bool,
    /// The last look took all that had come, and nothing was written since that could be answered.
    is_drained: bool,
    /// The socket was full once: it is up to the reactor when it is not.
    has_waited_to_write: bool,
}

#[derive(Debug)]
enum Stream {
    /// Has not had to wait.
    Fresh(std::net::TcpStream),
    /// The reactor knows it.
    Watched(TcpStream),
    /// The reactor refused it.
    Lost,
}

impl Accept for Accepted {
    fn pack(self) -> io::Result<Packed> {
        let stream = match self.stream {
            Stream::Fresh(stream) => stream,
            Stream::Watched(stream) => stream.into_std()?,
            Stream::Lost => return Err(io::ErrorKind::NotConnected.into()),
        };
        let address = None;
        Ok(Packed { stream, address })
    }

    fn unpack(packed: Packed) -> io::Result<Self> {
        Ok(Self::new(packed.stream))
    }
}

impl Accepted {
    /// A connection that does not block.
    pub fn new(stream: std::net::TcpStream) -> Self {
        Self {
            stream: Stream::Fresh(stream),
            ending: false,
            is_drained: false,
            has_waited_to_write: false,
        }
    }

    /// The address it was made to.
    ///
    /// # Errors
    /// The operating system does not know it any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Fresh(stream) => stream.local_addr(),
            Stream::Watched(stream) => stream.local_addr(),
            Stream::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Where it was going before it was redirected here.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        dial::original_destination(&self.socket()?)
    }

    /// None once it is lost.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.stream {
            Stream::Fresh(stream) => Some(stream.as_fd()),
            Stream::Watched(stream) => Some(stream.as_fd()),
            Stream::Lost => None,
        }
    }

    /// Says that the writing ends with the next bytes: they may wait for it, and must not have to for long.
    pub fn end_with_next(&mut self) {
        self.ending = true;
    }

    /// What is read without waiting. None if it would have to wait: nothing is there, or nothing can have come since the last
    /// look took all, or others look after that already.
    fn read_at_once(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<usize>> {
        let Stream::Fresh(stream) = &mut self.stream else {
            return None;
        };
        if self.is_drained {
            return None;
        }
        // What a buffer has room for may have to be zeroed first.
        let room = buf.remaining().min(FIRST_READ);
        let read = at_once(stream.read(buf.initialize_unfilled_to(room)))?;
        self.is_drained = read.as_ref().is_ok_and(|read| *read < room);
        Some(read)
    }

    /// What `attempt` writes without waiting. None if it would have to wait, or something had to before.
    fn write_at_once(
        &mut self,
        attempt: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        if self.has_waited_to_write {
            return None;
        }
        let written = at_once(attempt(self.socket()?).map_err(io::Error::from));
        self.has_waited_to_write = written.is_none();
        // Whoever reads it may answer before the next look.
        self.is_drained = false;
        written
    }

    /// The stream with whoever wakes those that wait for it.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Stream::Fresh(_) = self.stream
            && let Stream::Fresh(stream) = std::mem::replace(&mut self.stream, Stream::Lost)
        {
            self.stream = Stream::Watched(TcpStream::from_std(stream)?);
        }
        match &mut self.stream {
            Stream::Watched(stream) => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// None for what would have to wait.
fn at_once<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

/// Sends what leaves with the end of the stream, in one segment and with one wake-up of the reader.
fn send_last(stream: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::net::send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(coop::poll_proceed(cx));
        if let Some(read) = self.read_at_once(buf) {
            turn.made_progress();
            buf.advance(read?);
            return Poll::Ready(Ok(()));
        }
        drop(turn);
        self.watched()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let turn = ready!(coop::poll_proceed(cx));
        let ending = self.ending;
        let written = self.write_at_once(|socket| match ending {
            true => send_last(socket, bytes),
            false => rustix::net::send(socket, bytes, SendFlags::NOSIGNAL),
        });
        if let Some(written) = written {
            turn.made_progress();
            return Poll::Ready(written);
        }
        drop(turn);
        let stream = self.watched()?;
        if !ending {
            return stream.poll_write(cx, bytes);
        }
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || Ok(send_last(&*stream, bytes)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let turn = ready!(coop::poll_proceed(cx));
        if let Some(written) = self.write_at_once(|socket| rustix::io::writev(socket, bufs)) {
            turn.made_progress();
            return Poll::Ready(written);
        }
        drop(turn);
        self.watched()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Stream::Fresh(stream) = &self.stream {
            return Poll::Ready(match stream.shutdown(std::net::Shutdown::Write) {
                // Whoever is gone needs to be told nothing.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                result => result,
            });
        }
        self.watched()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::listener::testing::{at_loopback, waits};
    use super::*;

    /// A connection and its client, which sent `first` before it was accepted.
    async fn pair(first: &[u8]) -> (Accepted, TcpStream) {
        let (listener, address) = at_loopback();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(first).await.unwrap();
        (listener.accept().await.unwrap(), client)
    }

    /// Waits until the kernel has something to read.
    fn arrived(stream: &Accepted) {
        use rustix::event::{PollFd, PollFlags, poll};
        let socket = stream.socket().unwrap();
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], None).unwrap();
    }

    fn is_watched(stream: &Accepted) -> bool {
        matches!(stream.stream, Stream::Watched(_))
    }

    #[tokio::test]
    async fn a_connection_that_never_waits_is_not_watched() {
        let (mut accepted, mut client) = pair(b"question").await;
        let mut question = [0; 8];
        accepted.read_exact(&mut question).await.unwrap();
        accepted.write_all(b"an").await.unwrap();
        accepted.end_with_next();
        accepted.write_all(b"swer").await.unwrap();
        accepted.shutdown().await.unwrap();
        assert!(!is_watched(&accepted));
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&question, &answer[..]), (b"question", &b"answer"[..]));
    }

    #[tokio::test]
    async fn an_answer_to_what_was_written_is_looked_for_and_nothing_else_is() {
        let (mut accepted, mut client) = pair(b"hello").await;
        let mut read = [0; 16];
        let mut answer = [0; 16];
        for _ in 0..3 {
            arrived(&accepted);
            assert_eq!(accepted.read(&mut read).await.unwrap(), 5);
            accepted.write_all(b"who?").await.unwrap();
            client.read_exact(&mut answer[..4]).await.unwrap();
            client.write_all(b"it is").await.unwrap();
        }
        arrived(&accepted);
        assert_eq!(accepted.read(&mut read).await.unwrap(), 5);
        assert!(!is_watched(&accepted));
        client.write_all(b"more").await.unwrap();
        assert_eq!(accepted.read(&mut read).await.unwrap(), 4);
        assert!(is_watched(&accepted), "nothing was asked");
    }

    #[tokio::test]
    async fn who_waits_to_read_still_writes_at_once_until_the_socket_is_full() {
        let (mut accepted, mut client) = pair(b"").await;
        let mut accepted = Pin::new(&mut accepted);
        poll_fn(|cx| {
            let mut room = [0; 8];
            let read = accepted
                .as_mut()
                .poll_read(cx, &mut ReadBuf::new(&mut room));
            assert!(read.is_pending() && is_watched(&accepted));
            let written = accepted.as_mut().poll_write(cx, b"an");
            assert!(matches!(written, Poll::Ready(Ok(2))), "{written:?}");
            let last = [IoSlice::new(b"sw"), IoSlice::new(b"er")];
            let written = accepted.as_mut().poll_write_vectored(cx, &last);
            assert!(matches!(written, Poll::Ready(Ok(4))), "{written:?}");
            Poll::Ready(())
        })
        .await;
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        assert!(!accepted.has_waited_to_write);
        let bulk = vec![1; 8 << 20];
        let mut taken = vec![0; bulk.len()];
        let (written, read) =
            tokio::join!(accepted.write_all(&bulk), client.read_exact(&mut taken));
        written.unwrap();
        read.unwrap();
        assert!(accepted.has_waited_to_write && taken == bulk);
    }

    #[tokio::test]
    async fn nobody_writes_or_reads_for_ever_while_others_wait() {
        let (mut accepted, client) = pair(b"").await;
        client.set_nodelay(true).unwrap();
        let mut accepted = Pin::new(&mut accepted);
        let turns = poll_fn(|cx| {
            let mut written = |cx: &mut _| accepted.as_mut().poll_write(cx, b"x").is_ready();
            Poll::Ready((0..2_000).take_while(|_| written(cx)).count())
        });
        let turns = turns.await;
        assert!((1..2_000).contains(&turns), "{turns}");
        assert!(!accepted.has_waited_to_write, "there was room");
    }

    #[tokio::test]
    async fn who_is_gone_can_be_told_that_it_is_over() {
        let (mut accepted, client) = pair(b"never read").await;
        client.set_zero_linger().unwrap();
        drop(client);
        arrived(&accepted);
        accepted.shutdown().await.unwrap();
        assert!(!is_watched(&accepted));
    }

    #[tokio::test]
    async fn one_that_has_to_wait_is_woken() {
        let (mut accepted, mut client) = pair(b"").await;
        let ask = async {
            client.write_all(b"late").await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answer = async {
            let mut question = [0; 4];
            accepted.read_exact(&mut question).await.unwrap();
            // More than a socket takes at once.
            accepted.write_all(&vec![1; 8 << 20]).await.unwrap();
            accepted.end_with_next();
            accepted.write_all(&vec![2; 8 << 20]).await.unwrap();
            accepted.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask, answer);
        assert!(is_watched(&accepted));
        assert_eq!(answer.len(), 16 << 20);
        assert_eq!((answer[0], answer[(16 << 20) - 1]), (1, 2));
    }

    #[tokio::test]
    async fn a_listener_waits_for_the_next_connection_and_small_answers_go_out_at_once() {
        let (listener, address) = at_loopback();
        let mut accept = std::pin::pin!(listener.accept());
        assert!(waits(accept.as_mut()).await);
        let (accepted, client) = tokio::join!(accept, TcpStream::connect(address));
        let accepted = accepted.unwrap();
        assert_eq!(accepted.local_addr().unwrap(), address);
        let Stream::Fresh(stream) = &accepted.stream else {
            panic!("nobody waited for it");
        };
        assert!(stream.nodelay().unwrap(), "taken over from the listener");
        drop(client);
    }
}
