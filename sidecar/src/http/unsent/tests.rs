//! Real connections whose peers do not take what they asked for.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use h2::RecvStream;
use h2::client::{Connection as Client, ResponseFuture, SendRequest};
use http::{Method, Request, Response};
use mesh_http1::{BodyLength, Limits};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use super::super::body::Pump;
use super::super::forward::Downstream as _;
use super::super::h1::{Body, Connection};
use super::super::h2::server_builder;
use super::super::h2_server::Responder;
use super::*;

/// Streams that stand still.
const STREAMS: usize = 100;
/// Bytes of each response.
const LENGTH: usize = 4 << 20;
/// What one read of an application may bring beyond a bound.
const ONE_READ: usize = 256 * 1024;

/// What is known of the server.
#[derive(Clone)]
struct Server {
    unsent: Rc<Unsent>,
    /// Requests that were accepted, and bytes that were read of applications.
    accepted: Rc<Cell<usize>>,
    read: Rc<Cell<usize>>,
    /// Responses that ended, in whatever way.
    ended: Rc<Cell<usize>>,
    /// Responses begin when this is true.
    go: watch::Sender<bool>,
}

/// An application whose whole response is there at once.
struct App {
    left: usize,
    read: Rc<Cell<usize>>,
}

impl AsyncRead for App {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.left.min(buf.remaining());
        buf.initialize_unfilled_to(n);
        buf.advance(n);
        self.left -= n;
        self.read.set(self.read.get() + n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for App {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Server {
    fn start(io: DuplexStream) -> Self {
        let server = Self {
            unsent: Rc::default(),
            accepted: Rc::default(),
            read: Rc::default(),
            ended: Rc::default(),
            go: watch::Sender::new(false),
        };
        let this = server.clone();
        spawn_local(async move {
            let handshake = server_builder().handshake::<_, Piece>(io);
            let mut connection = handshake.await.unwrap();
            while let Some(Ok((_, respond))) = connection.accept().await {
                this.accepted.set(this.accepted.get() + 1);
                let respond = Responder::new((respond, Rc::clone(&this.unsent)), &Method::GET);
                spawn_local(this.clone().respond(respond));
            }
        });
        server
    }

    async fn respond(self, mut responder: Responder) {
        self.go.subscribe().wait_for(|go| *go).await.unwrap();
        let app = App {
            left: LENGTH,
            read: Rc::clone(&self.read),
        };
        let app = RefCell::new(Connection::new(app, BytesMut::new()));
        let (head, ()) = Response::new(()).into_parts();
        let sink = responder.respond(head, BodyLength::Chunked).unwrap();
        let body = Body::new(&app, BodyLength::UntilClose, &Limits::default());
        let mut pump = Pump::new(body, sink);
        let _ = poll_fn(|cx| pump.poll(cx)).await;
        self.ended.set(self.ended.get() + 1);
    }
}

type Connected = (SendRequest<Bytes>, Client<DuplexStream>);

async fn connect(io: DuplexStream, window: u32) -> Connected {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30);
    builder.handshake(io).await.unwrap()
}

fn request(send: &mut SendRequest<Bytes>) -> ResponseFuture {
    let request = Request::get("http://a/").body(()).unwrap();
    send.send_request(request, true).unwrap().0
}

/// Takes all of a response.
async fn take(body: &mut RecvStream) -> usize {
    let mut taken = 0;
    while let Some(data) = body.data().await {
        let n = data.unwrap().len();
        body.flow_control().release_capacity(n).unwrap();
        taken += n;
    }
    taken
}

/// Everybody has done what he can.
async fn quiet() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_get_no_window_hold_little_and_stop_no_others() {
    const WINDOW: usize = 65_535;
    let story = async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = Server::start(far);
        server.go.send_replace(true);
        let (mut send, connection) = connect(near, WINDOW as u32).await;
        spawn_local(connection);
        let mut still = Vec::new();
        for _ in 0..STREAMS {
            let response = request(&mut send);
            still.push(response.await.unwrap().into_body());
        }
        quiet().await;
        let held = server.read.get() - STREAMS * WINDOW;
        assert_eq!(server.unsent.held(), held, "all is counted");
        assert!(held <= MAX_STALLED + ONE_READ, "{held} bytes");
        let mut other = request(&mut send).await.unwrap().into_body();
        assert_eq!(take(&mut other).await, LENGTH);
        // What stood still goes on when there is window, with nothing missing.
        for body in &mut still {
            assert_eq!(take(body).await, LENGTH);
        }
        assert_eq!(server.unsent.held(), 0);
    };
    LocalSet::new().run_until(story).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_read_holds_little_and_goes_on_when_it_is() {
    let story = async {
        let pipe = 16 * 1024;
        let (near, far) = tokio::io::duplex(pipe);
        let server = Server::start(far);
        let (mut send, mut connection) = connect(near, 1 << 20).await;
        let responses: Vec<_> = (0..STREAMS).map(|_| request(&mut send)).collect();
        while server.accepted.get() < STREAMS {
            let polled = futures_util::poll!(&mut connection);
            assert!(polled.is_pending());
            tokio::task::yield_now().await;
        }
        server.go.send_replace(true);
        quiet().await;
        let (held, read) = (server.unsent.held(), server.read.get());
        assert!(
            read <= held + pipe + ONE_READ,
            "{held} of {read} bytes are counted"
        );
        assert!(held <= MAX_QUEUED + MAX_STALLED + ONE_READ, "{held} bytes");
        spawn_local(connection);
        let all = responses.into_iter().map(|response| async {
            let mut body = response.await.unwrap().into_body();
            take(&mut body).await
        });
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(|taken| *taken == LENGTH), "{all:?}");
        assert_eq!(server.unsent.held(), 0);
    };
    LocalSet::new().run_until(story).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_on_a_connection_that_is_gone() {
    let story = async {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let server = Server::start(far);
        let (mut send, mut connection) = connect(near, 1 << 20).await;
        let responses: Vec<_> = (0..STREAMS).map(|_| request(&mut send)).collect();
        while server.accepted.get() < STREAMS {
            assert!(futures_util::poll!(&mut connection).is_pending());
            tokio::task::yield_now().await;
        }
        server.go.send_replace(true);
        quiet().await;
        assert_eq!(server.ended.get(), 0);
        drop((responses, send, connection));
        quiet().await;
        assert_eq!((server.ended.get(), server.unsent.held()), (STREAMS, 0));
    };
    LocalSet::new().run_until(story).await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_given_up_hold_nothing_any_more() {
    let story = async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = Server::start(far);
        server.go.send_replace(true);
        let (mut send, connection) = connect(near, 1_000).await;
        spawn_local(connection);
        let mut still = Vec::new();
        for _ in 0..STREAMS {
            still.push(request(&mut send).await.unwrap().into_body());
        }
        quiet().await;
        assert!(server.unsent.held() > 0);
        drop(still);
        quiet().await;
        assert_eq!(server.unsent.held(), 0);
    };
    LocalSet::new().run_until(story).await;
}

#[test]
fn a_stream_that_is_gone_waits_no_longer_and_one_waits_once() {
    let unsent = Rc::new(Unsent::default());
    let full = Piece::new(Bytes::from(vec![0; MAX_QUEUED]), &unsent);
    let cx = Context::from_waker(Waker::noop());
    let (mut one, mut other) = (None, None);
    for _ in 0..3 {
        assert!(!unsent.has_room(&mut one, &cx));
        assert!(!unsent.has_room(&mut other, &cx));
    }
    assert_eq!(unsent.waiting.borrow().len(), 2);
    unsent.leave(&one.expect("it waits"));
    assert_eq!(unsent.waiting.borrow().len(), 1);
    drop(full);
    assert!(unsent.waiting.borrow().is_empty());
    assert!(unsent.has_room(&mut other, &cx));
}
