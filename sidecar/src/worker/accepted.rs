//! Connections of the application, accepted without a call that a short one does not need.
//!
//! Who connects to its own sidecar has mostly sent its request when it is accepted, and gets the answer into an empty
//! socket: such a connection never waits. [`Accepted`] reads and writes first and becomes known to the reactor only when it
//! has to wait. The end of what it writes goes out together with the last bytes.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, SocketFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use super::crew::{Accept, Packed};
use super::dial;

/// A listening socket of the application's side. The runtime's own type for one makes each connection known to the reactor
/// and has no other way to wait; that for streams waits for any socket.
#[derive(Debug)]
pub struct Listener(TcpStream);

impl Listener {
    /// Hands a listening socket that does not block to the current runtime.
    ///
    /// # Errors
    /// The socket cannot be registered.
    pub fn register(listener: std::net::TcpListener) -> io::Result<Self> {
        TcpStream::from_std(OwnedFd::from(listener).into()).map(Self)
    }

    /// The next connection.
    ///
    /// # Errors
    /// The operating system has none to give, out of descriptors for example.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = || rustix::net::accept_with(&self.0, flags).map_err(io::Error::from);
        let accepted = self.0.async_io(Interest::READABLE, accept).await?;
        Ok(Accepted {
            stream: Stream::Fresh(accepted.into()),
            ending: false,
        })
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    /// What is written now is the last.
    ending: bool,
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
        Ok(Self {
            stream: Stream::Fresh(packed.stream),
            ending: false,
        })
    }
}

impl Accepted {
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
        match &self.stream {
            Stream::Fresh(stream) => dial::original_destination(stream),
            Stream::Watched(stream) => dial::original_destination(stream),
            Stream::Lost => None,
        }
    }

    /// Says that the writing ends with the next bytes: they may wait for it, and must not have to for long.
    pub fn end_with_next(&mut self) {
        self.ending = true;
    }

    /// What `attempt` gives without waiting; none if it would have to wait, or others look after that already.
    fn at_once<T>(
        &mut self,
        attempt: impl FnOnce(&std::net::TcpStream) -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let Stream::Fresh(stream) = &self.stream else {
            return None;
        };
        match attempt(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        }
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

/// Sends what leaves with the end of the stream, in one segment and with one wake-up of the reader.
fn send_last(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(
        stream,
        bytes,
        SendFlags::MORE | SendFlags::NOSIGNAL,
    )?)
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(coop::poll_proceed(cx));
        if let Some(read) = self.at_once(|mut stream| stream.read(buf.initialize_unfilled())) {
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
        let ending = self.ending;
        let written = self.at_once(|mut stream| match ending {
            true => send_last(stream, bytes),
            false => stream.write(bytes),
        });
        if let Some(written) = written {
            return Poll::Ready(written);
        }
        let stream = self.watched()?;
        if !ending {
            return stream.poll_write(cx, bytes);
        }
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || send_last(&*stream, bytes)) {
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
        if let Some(written) = self.at_once(|mut stream| stream.write_vectored(bufs)) {
            return Poll::Ready(written);
        }
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
            return Poll::Ready(stream.shutdown(std::net::Shutdown::Write));
        }
        self.watched()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection and its client, which sent `first` before it was accepted.
    async fn pair(first: &[u8]) -> (Accepted, TcpStream) {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, mut listeners) = dial::listen(at, 1).unwrap();
        let listener = Listener::register(listeners.remove(0)).unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(first).await.unwrap();
        (listener.accept().await.unwrap(), client)
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
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, mut listeners) = dial::listen(at, 1).unwrap();
        let listener = Listener::register(listeners.remove(0)).unwrap();
        let mut accept = std::pin::pin!(listener.accept());
        poll_fn(|cx| {
            assert!(accept.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
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
