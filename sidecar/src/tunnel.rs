//! Opaque bytes: between two sockets, or between a socket and an HBONE CONNECT stream (RFC 9113 §8.5).
//!
//! Half-close travels both ways: the end of one direction ends that direction only. A failure of one direction resets
//! the other, so that neither side mistakes a cut for an end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use mesh_auth::Reason;

use crate::http::body::{BodyError, BodySink, BodySource, Frame, Pump, PumpError};
use crate::http::ending::{Ending, Patience};
use crate::http::h1::{Connection, counted};
use crate::http::h2 as stream;
use crate::http::websocket::{self, Boundaries};

/// The bytes of a socket as frames.
struct RawSource<'a, S>(&'a RefCell<Connection<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> BodySource for RawSource<'_, S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Frame, BodyError>> {
        let mut connection = self.0.borrow_mut();
        if connection.read.is_empty() && ready!(connection.poll_fill_body(cx, u64::MAX, most))? == 0
        {
            return Poll::Ready(Ok(Frame::End));
        }
        Poll::Ready(Ok(Frame::Data(counted(connection.read.split().freeze()))))
    }

    fn is_end(&self) -> bool {
        false
    }
}

/// Frames as the bytes of a socket.
struct RawSink<'a, S> {
    connection: &'a RefCell<Connection<S>>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BodySink for RawSink<'_, S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut connection = self.connection.borrow_mut();
        connection.poll_writable(cx).map_err(BodyError::from)
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        self.connection.borrow_mut().put(data);
        self.ended = last;
        Ok(())
    }

    fn finish(&mut self, _: Option<HeaderMap>) -> Result<(), BodyError> {
        self.ended = true;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut connection = self.connection.borrow_mut();
        if self.ended {
            connection.poll_shutdown(cx)
        } else {
            connection.poll_flush(cx)
        }
        .map_err(BodyError::from)
    }

    fn abort(&mut self) {
        self.ended = true;
    }
}

/// What is spoken in a tunnel: what can still be said when it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Bytes that mean nothing here.
    Opaque,
    /// WebSocket frames: a close frame is sent between two of them.
    WebSocket,
}

impl Speech {
    /// By the token of the Upgrade.
    pub fn of_upgrade(token: &[u8]) -> Self {
        if token.eq_ignore_ascii_case(b"websocket") {
            Self::WebSocket
        } else {
            Self::Opaque
        }
    }
}

/// A source towards the client that can be closed from outside, at the end of a frame.
struct Closable<S> {
    source: S,
    frames: Option<Boundaries>,
    closing: Option<Reason>,
    said: bool,
}

impl<S> Closable<S> {
    fn new(source: S, speech: Speech) -> Self {
        Self {
            source,
            frames: (speech == Speech::WebSocket).then(Boundaries::default),
            closing: None,
            said: false,
        }
    }

    /// Ends after the frame under way and a close frame; false if what is spoken has no such thing.
    fn close(&mut self, reason: Reason) -> bool {
        self.closing = Some(reason);
        self.frames.is_some()
    }
}

impl<S: BodySource> BodySource for Closable<S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<Frame, BodyError>> {
        let (Some(frames), closing) = (&mut self.frames, self.closing) else {
            return self.source.poll_frame(cx, most);
        };
        if let Some(reason) = closing
            && frames.is_between()
        {
            if std::mem::replace(&mut self.said, true) {
                return Poll::Ready(Ok(Frame::End));
            }
            return Poll::Ready(Ok(Frame::Data(websocket::close_frame(reason.code()))));
        }
        let mut frame = ready!(self.source.poll_frame(cx, most))?;
        if let Frame::Data(data) = &mut frame {
            if closing.is_some() {
                data.truncate(frames.take_rest(data));
            } else {
                frames.advance(data);
            }
        }
        Poll::Ready(Ok(frame))
    }

    fn is_end(&self) -> bool {
        self.source.is_end()
    }
}

/// How much a tunnel carried, from its beginning to whatever ends it: also when it is cut or dropped.
#[derive(Debug, Default)]
pub struct Carried {
    forward: Cell<u64>,
    backward: Cell<u64>,
}

impl Carried {
    /// Bytes from the first side to the second.
    pub fn forward(&self) -> u64 {
        self.forward.get()
    }

    /// Bytes from the second side to the first.
    pub fn backward(&self) -> u64 {
        self.backward.get()
    }
}

/// Copies both ways between a socket and an open stream until both directions ended, or `ending` ends them.
///
/// # Errors
/// The first failure of either direction.
pub async fn with_stream<S>(
    socket: &RefCell<Connection<S>>,
    send: stream::Sink,
    receive: h2::RecvStream,
    speech: Speech,
    ending: &mut impl Ending,
    carried: &Carried,
) -> Result<(), BodyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let there = Pump::new(Closable::new(RawSource(socket), speech), send);
    let back = Pump::new(
        stream::Body::new(receive),
        RawSink {
            connection: socket,
            ended: false,
        },
    );
    both(there, back, ending, (&carried.forward, &carried.backward)).await
}

/// Copies both ways between the socket of a client and that of an application until both directions ended, or `ending`
/// ends them.
///
/// # Errors
/// The first failure of either direction.
pub async fn between<A, B>(
    client: &RefCell<Connection<A>>,
    app: &RefCell<Connection<B>>,
    speech: Speech,
    ending: &mut impl Ending,
    carried: &Carried,
) -> Result<(), BodyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let there = Pump::new(
        Closable::new(RawSource(app), speech),
        RawSink {
            connection: client,
            ended: false,
        },
    );
    let back = Pump::new(
        RawSource(client),
        RawSink {
            connection: app,
            ended: false,
        },
    );
    both(there, back, ending, (&carried.backward, &carried.forward)).await
}

/// `speaking` can say a last word; the other direction is cut when it was said. What each carries is counted as it goes.
async fn both<S1, K1, S2, K2>(
    mut speaking: Pump<Closable<S1>, K1>,
    mut other: Pump<S2, K2>,
    ending: &mut impl Ending,
    (spoken, heard): (&Cell<u64>, &Cell<u64>),
) -> Result<(), BodyError>
where
    S1: BodySource,
    K1: BodySink,
    S2: BodySource,
    K2: BodySink,
{
    let (mut speaking_done, mut other_done) = (false, false);
    let mut last_word: Option<(Reason, Patience)> = None;
    let result = poll_fn(|cx| {
        if last_word.is_none()
            && let Poll::Ready(reason) = ending.poll_end(cx)
        {
            if !speaking.source_mut().close(reason) {
                return Poll::Ready(Err(BodyError::Ended(reason)));
            }
            last_word = Some((reason, Patience::default()));
        }
        if !speaking_done {
            let polled = speaking.poll(cx);
            spoken.set(speaking.bytes());
            speaking_done = polled.map_err(side)?.is_ready();
        }
        if let Some((reason, patience)) = &mut last_word {
            if !speaking_done {
                ready!(patience.poll(cx));
            }
            return Poll::Ready(Err(BodyError::Ended(*reason)));
        }
        if !other_done {
            let polled = other.poll(cx);
            heard.set(other.bytes());
            other_done = polled.map_err(side)?.is_ready();
        }
        if speaking_done && other_done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    if let Err(error) = result {
        speaking.abort();
        other.abort();
        return Err(error);
    }
    Ok(())
}

fn side(error: PumpError) -> BodyError {
    match error {
        PumpError::Source(error) | PumpError::Sink(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::testing::When;

    /// A tunnel whose application sends `first` before it has to end and `then` after it.
    async fn ended(speech: Speech, first: &[u8], then: &[u8]) -> Vec<u8> {
        let (mut client, left) = tokio::io::duplex(4096);
        let (right, mut app) = tokio::io::duplex(4096);
        let of = |io: DuplexStream| RefCell::new(Connection::new(io, BytesMut::new()));
        let (left, right) = (of(left), of(right));
        let (end, when) = oneshot::channel();
        let mut ending = When(when);
        let counted = Carried::default();
        let carried = async {
            let result = between(&left, &right, speech, &mut ending, &counted).await;
            assert!(matches!(
                result,
                Err(BodyError::Ended(Reason::TokenExpired))
            ));
            drop(left);
        };
        let talk = async {
            app.write_all(first).await.unwrap();
            let mut seen = vec![0; first.len()];
            client.read_exact(&mut seen).await.unwrap();
            end.send(Reason::TokenExpired).unwrap();
            app.write_all(then).await.unwrap();
            client.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let seen = tokio::join!(carried, talk).1;
        assert_eq!(
            (counted.forward(), counted.backward()),
            (0, seen.len() as u64),
            "also what a cut tunnel carried"
        );
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_ends_with_a_close_frame_between_two_frames() {
        let close = b"\x88\x0f\x03\xf0token_expired";
        let whole = ended(Speech::WebSocket, b"\x82\x02ab", b"").await;
        assert_eq!(whole, [&b"\x82\x02ab"[..], close].concat());
        // What belongs to the frame under way still goes through, what follows it does not.
        let half = ended(Speech::WebSocket, b"\x82\x04ab", b"cd\x82\x01x").await;
        assert_eq!(half, [&b"\x82\x04abcd"[..], close].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_whose_frame_does_not_end_is_cut() {
        assert_eq!(
            ended(Speech::WebSocket, b"\x82\x04ab", b"").await,
            b"\x82\x04ab"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_mean_nothing_are_cut() {
        assert_eq!(ended(Speech::Opaque, b"ab", b"").await, b"ab");
    }
}
