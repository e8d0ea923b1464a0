//! Listening sockets, asked for a connection only when there is one.
//!
//! The runtime tells that somebody came, not how many, so that after each connection the next has to be tried for. Linux makes
//! a socket, an inode and a file before it looks whether anybody waits, and throws them away if nobody does: 3.0 µs, where
//! asking first takes 0.2. Of a connection that came alone that is what a third of accepting it costs.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::accepted::Accepted;

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A listening socket of one worker.
#[derive(Debug)]
pub(super) struct Listener {
    /// The runtime's own type for a listener accepts in its own way; that for streams waits for any socket.
    socket: TcpStream,
    /// One was accepted since the runtime told last: whether another waits is not known.
    is_asked: Cell<bool>,
}

impl Listener {
    /// Hands a listening socket that does not block to the current runtime.
    ///
    /// # Errors
    /// The socket cannot be registered.
    pub(super) fn register(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self {
            socket: TcpStream::from_std(OwnedFd::from(listener).into())?,
            is_asked: Cell::new(false),
        })
    }

    /// Has what comes on its connections acknowledged together with what is answered, from the first bytes on (tcp(7),
    /// `TCP_QUICKACK`; accepted connections inherit it). For protocols whose every message is answered, or followed by another
    /// without waiting: who waits for the acknowledgement (RFC 896) waits up to 40 ms. Where the option is refused, a segment
    /// more is sent.
    pub(super) fn acknowledge_with_answers(&self) {
        if let Err(error) = rustix::net::sockopt::set_tcp_quickack(&self.socket, false) {
            tracing::debug!(%error, "acknowledgements are not put off");
        }
    }

    /// The next connection, which the runtime hears of when it has to wait.
    ///
    /// # Errors
    /// The operating system has none to give, out of descriptors for example.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        let accept = |flags| Ok(rustix::net::accept_with(&self.socket, flags)?);
        Ok(Accepted::new(self.next(accept).await?.into()))
    }

    /// The next connection, and who makes it.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub(super) async fn accept_from(&self) -> io::Result<(Accepted, SocketAddr)> {
        let accept = |flags| Ok(rustix::net::acceptfrom_with(&self.socket, flags)?);
        let (socket, address) = self.next(accept).await?;
        let address = address.ok_or(io::ErrorKind::NotConnected)?.try_into()?;
        Ok((Accepted::new(socket.into()), address))
    }

    async fn next<T>(&self, accept: impl Fn(SocketFlags) -> io::Result<T>) -> io::Result<T> {
        let attempt = || {
            if self.is_asked.replace(false) && !self.has_waiting() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let accepted = accept(SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
            self.is_asked.set(true);
            Ok(accepted)
        };
        self.socket.async_io(Interest::READABLE, attempt).await
    }

    /// Whether there is something to accept, were it an error. Who could not be asked may have something.
    fn has_waiting(&self) -> bool {
        let asked = poll(
            &mut [PollFd::new(&self.socket, PollFlags::IN)],
            Some(&AT_ONCE),
        );
        asked != Ok(0)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::task::Poll;

    use super::super::dial;
    use super::*;

    /// A listener, and where.
    pub(crate) fn at_loopback() -> (Listener, SocketAddr) {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, mut listeners) = dial::listen(at, 1).unwrap();
        (Listener::register(listeners.remove(0)).unwrap(), address)
    }

    /// Whether a future is not done when it is looked at.
    pub(crate) async fn waits<F: Future>(mut future: Pin<&mut F>) -> bool {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{at_loopback, waits};
    use super::*;

    #[tokio::test]
    async fn all_that_came_at_once_are_accepted_and_then_it_waits() {
        let (listener, address) = at_loopback();
        for together in [1, 3, 1, 2, 7] {
            let mut clients = Vec::new();
            for _ in 0..together {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
            for client in &clients {
                let (_, from) = listener.accept_from().await.unwrap();
                assert_eq!(from, client.local_addr().unwrap());
            }
            assert!(!listener.has_waiting());
            let mut next = std::pin::pin!(listener.accept_from());
            assert!(waits(next.as_mut()).await);
            let (accepted, client) = tokio::join!(next, TcpStream::connect(address));
            assert_eq!(accepted.unwrap().1, client.unwrap().local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn one_that_comes_after_another_was_accepted_is_seen() {
        let (listener, address) = at_loopback();
        for _ in 0..50 {
            let _first = TcpStream::connect(address).await.unwrap();
            listener.accept().await.unwrap();
            assert!(!listener.has_waiting());
            let _second = TcpStream::connect(address).await.unwrap();
            listener.accept().await.unwrap();
        }
    }

    /// What it is for: none of the calls finds nobody.
    #[tokio::test]
    async fn nothing_is_accepted_in_vain() {
        let (listener, address) = at_loopback();
        let attempts = Cell::new(0);
        let accept = |flags| {
            attempts.set(attempts.get() + 1);
            Ok(rustix::net::accept_with(&listener.socket, flags)?)
        };
        for accepted in 1..=20 {
            let _client = TcpStream::connect(address).await.unwrap();
            listener.next(accept).await.unwrap();
            let mut next = std::pin::pin!(listener.next(accept));
            assert!(waits(next.as_mut()).await);
            assert_eq!(attempts.get(), accepted);
        }
    }

    #[tokio::test]
    async fn only_where_it_was_said_acknowledgements_wait_for_answers() {
        for waits in [false, true] {
            let (listener, address) = at_loopback();
            if waits {
                listener.acknowledge_with_answers();
            }
            let _client = TcpStream::connect(address).await.unwrap();
            let accept = |flags| Ok(rustix::net::accept_with(&listener.socket, flags)?);
            let accepted = listener.next(accept).await.unwrap();
            let at_once = rustix::net::sockopt::tcp_quickack(&accepted).unwrap();
            assert_eq!(at_once, !waits);
        }
    }
}
