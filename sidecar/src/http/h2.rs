//! HTTP/2 streams as body source and sink.
//!
//! Flow control is end to end: received bytes are released when the pump has taken them, and data is handed to the
//! stream only against capacity, so that a slow reader on one side holds back the writer on the other.

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};

use super::body::{BodyError, BodySink, BodySource, Frame};
use super::unsent::{Piece, Unsent, Wait};

/// Stream flow-control window, bytes.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Connection flow-control window, bytes; larger than a stream's: it takes 16 streams whose bytes nobody takes to stop the others.
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// Concurrent streams a peer may open on one connection.
pub const MAX_STREAMS: u32 = 128;
/// Bytes of headers accepted per message.
pub const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Largest frame accepted. What is large then takes few reads, frames and writes on its way: 64 MB in frames of 256 KB
/// cost a pair of sidecars three quarters of what they cost in frames of 64 KB.
pub const MAX_FRAME: u32 = 256 * 1024;
/// Bytes of a frame before its payload (RFC 9113 §4.1).
pub const FRAME_HEAD: usize = 9;
/// Bytes buffered per stream before the writer is held back.
const SEND_BUFFER: usize = 256 * 1024;
/// Bytes read at most while only as much is read as there is window for.
const CAREFUL_READ: usize = 32 * 1024;

/// The client side of a connection, with the limits that every one of our connections has.
pub fn client_builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(64))
        .enable_push(false);
    builder
}

/// Lets TLS take a whole frame before it writes, so that the frame is one system call.
pub fn take_frames_whole<Side>(tls: &mut rustls::ConnectionCommon<Side>) {
    tls.set_buffer_limit(Some(MAX_FRAME as usize));
}

/// The server side of a connection, with the limits that every one of our connections has.
pub fn server_builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(32)
        .max_pending_accept_reset_streams(16)
        .max_local_error_reset_streams(Some(64))
        .enable_connect_protocol();
    builder
}

/// The body of a received message.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    /// Bytes of the last frame: the peer may send as many again when another one is asked for. Until then whoever took
    /// the frame may still hold it, and it counts against the windows.
    taken: usize,
    data_ended: bool,
}

impl Body {
    /// Wraps a receiving stream.
    pub fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            taken: 0,
            data_ended: false,
        }
    }
}

impl BodySource for Body {
    /// What came is here, however much can be passed on.
    fn poll_frame(&mut self, cx: &mut Context<'_>, _: usize) -> Poll<Result<Frame, BodyError>> {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.stream.flow_control().release_capacity(taken)?;
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.taken = data.len();
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Frame::Data(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Ok(Frame::Trailers(trailers))),
            Ok(None) => Poll::Ready(Ok(Frame::End)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// Where the streams of a connection that the other side accepts begin.
#[derive(Debug, Clone)]
pub struct Sender {
    send: SendRequest<Piece>,
    unsent: Rc<Unsent>,
}

impl Sender {
    /// Of a connection of which nothing was sent yet.
    pub fn new(send: SendRequest<Piece>) -> Self {
        Self {
            send,
            unsent: Rc::default(),
        }
    }

    /// Begins a stream; `ends`: its head is all.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn send_request(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, Sink), h2::Error> {
        let (response, stream) = self.send.send_request(request, ends)?;
        Ok((response, Sink::new(stream, &self.unsent, ends)))
    }
}

/// The body of a message being sent.
#[derive(Debug)]
pub struct Sink {
    stream: SendStream<Piece>,
    unsent: Rc<Unsent>,
    /// Its place among those that wait for room, once it had to.
    wait: Option<Wait>,
    /// Taken, waiting for capacity.
    pending: Bytes,
    pending_last: bool,
    /// Boxed: most bodies have none, or need not wait.
    trailers: Option<Box<HeaderMap>>,
    /// What may be read, where it matters: so much is reserved.
    room: Option<NonZeroUsize>,
    ended: bool,
}

impl Sink {
    /// Wraps a sending stream of a connection that holds `unsent`; `ended` when its head carried the end.
    pub fn new(stream: SendStream<Piece>, unsent: &Rc<Unsent>, ended: bool) -> Self {
        Self {
            stream,
            unsent: Rc::clone(unsent),
            wait: None,
            room: None,
            pending: Bytes::new(),
            pending_last: false,
            trailers: None,
            ended,
        }
    }

    /// Ready with the reason when the peer reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.ended = true;
        self.take_pending(self.pending.len());
        self.stream.send_reset(reason);
    }

    /// The first bytes of what waits for capacity.
    fn take_pending(&mut self, bytes: usize) -> Bytes {
        self.unsent.go_on(bytes);
        self.pending.split_to(bytes)
    }

    fn send_piece(&mut self, data: Bytes, last: bool) -> Result<(), h2::Error> {
        self.stream.send_data(Piece::new(data, &self.unsent), last)
    }

    /// Waits until the connection may take more. Nobody waits on a stream that is gone.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.unsent.has_room(&mut self.wait, cx) {
            return Poll::Ready(Ok(()));
        }
        let reason = ready!(self.stream.poll_reset(cx))?;
        Poll::Ready(Err(h2::Error::from(reason).into()))
    }

    /// Waits for capacity, with `wanted` bytes of it reserved.
    fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, BodyError>> {
        let mut capacity = self.stream.capacity();
        if capacity == 0 {
            self.stream.reserve_capacity(wanted);
            capacity = self.stream.capacity();
        }
        if capacity > 0 {
            return Poll::Ready(Ok(capacity));
        }
        match ready!(self.stream.poll_capacity(cx)) {
            Some(capacity) => Poll::Ready(Ok(capacity?)),
            // The stream is closed: the reason comes from the reset.
            None => {
                let reason = ready!(self.stream.poll_reset(cx))?;
                Poll::Ready(Err(h2::Error::from(reason).into()))
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while !self.pending.is_empty() {
            ready!(self.poll_room(cx))?;
            let capacity = ready!(self.poll_capacity(cx, self.pending.len()))?;
            let piece = self.take_pending(capacity.min(self.pending.len()));
            let last = self.pending.is_empty() && self.pending_last;
            self.send_piece(piece, last)?;
        }
        if let Some(trailers) = self.trailers.take() {
            self.stream.send_trailers(*trailers)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl BodySink for Sink {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        ready!(self.poll_drain(cx))?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_room(cx))?;
        self.room = None;
        if !self.unsent.may_stall() {
            self.stream.reserve_capacity(CAREFUL_READ);
            self.room = NonZeroUsize::new(ready!(self.poll_capacity(cx, CAREFUL_READ))?);
        }
        Poll::Ready(Ok(()))
    }

    fn room(&self) -> usize {
        self.room.map_or(usize::MAX, NonZeroUsize::get)
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), BodyError> {
        self.ended = last;
        self.stream.reserve_capacity(data.len());
        if self.stream.capacity() >= data.len() {
            self.send_piece(data, last)?;
        } else {
            self.unsent.stall(data.len());
            self.pending = data;
            self.pending_last = last;
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        match trailers {
            Some(trailers) if self.pending.is_empty() => self.stream.send_trailers(trailers)?,
            Some(trailers) => self.trailers = Some(Box::new(trailers)),
            None if self.pending.is_empty() => self.send_piece(Bytes::new(), true)?,
            None => self.pending_last = true,
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.room.take().is_some() && self.pending.is_empty() {
            // There was nothing to read: others may have the window meanwhile.
            self.stream.reserve_capacity(0);
        }
        self.poll_drain(cx)
    }

    fn abort(&mut self) {
        if !self.ended || !self.pending.is_empty() {
            self.reset(Reason::CANCEL);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.unsent.go_on(self.pending.len());
        if let Some(wait) = &self.wait {
            self.unsent.leave(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::Response;

    use super::*;

    #[tokio::test]
    async fn a_frame_counts_against_the_windows_until_another_is_asked_for() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let server = async {
            let mut connection = server_builder().handshake::<_, Bytes>(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            for last in [false, true] {
                stream.send_data(Bytes::from(vec![1; 9_000]), last).unwrap();
            }
            while connection.accept().await.is_some() {}
        };
        let client = async {
            let handshake = client_builder().handshake::<_, Bytes>(near);
            let (mut send, connection) = handshake.await.unwrap();
            let exchange = async {
                let request = Request::get("http://a/").body(()).unwrap();
                let (response, _) = send.send_request(request, true).unwrap();
                let mut body = Body::new(response.await.unwrap().into_body());
                for _ in 0..2 {
                    let frame = poll_fn(|cx| body.poll_frame(cx, usize::MAX)).await.unwrap();
                    assert!(matches!(frame, Frame::Data(data) if data.len() == 9_000));
                }
                // All of it has come; of the last frame nobody said that it is gone.
                assert_eq!(body.stream.flow_control().used_capacity(), 9_000);
                let end = poll_fn(|cx| body.poll_frame(cx, usize::MAX)).await.unwrap();
                assert!(matches!(end, Frame::End));
                assert_eq!(body.stream.flow_control().used_capacity(), 0);
                drop(send);
            };
            let (connection, ()) = tokio::join!(connection, exchange);
            connection.unwrap();
        };
        tokio::join!(server, client);
    }
}
