//! How responses end on an HTTP/1.1 connection whose client reads slowly.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response as HttpResponse, Version};
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::oneshot;

use super::super::body::Frame;
use super::super::ending::Endless;
use super::super::h1::Connection;
use super::super::h1_server::Responder;
use super::*;
use crate::testing::When;

/// Bytes of every body here; much more than is on its way to the client.
const LENGTH: usize = 10_000;

/// An application that answers at once.
struct App {
    frames: VecDeque<Frame>,
    length: BodyLength,
}

impl App {
    fn new(length: BodyLength, end: Option<Frame>) -> Self {
        let data = Frame::Data(Bytes::from(vec![b'x'; LENGTH]));
        Self {
            frames: [data].into_iter().chain(end).collect(),
            length,
        }
    }
}

impl Upstream for App {
    type Sink = Nowhere;
    type Response = Self;

    fn start(self, _: &request::Parts, _: BodyLength) -> Result<(Nowhere, Self), BodyError> {
        Ok((Nowhere, self))
    }
}

impl Response for App {
    type Body = Self;

    fn poll_head(&mut self, _: &mut Context<'_>) -> Poll<Result<Head, BodyError>> {
        let (head, ()) = HttpResponse::new(()).into_parts();
        Poll::Ready(Ok(Head::Final(head, self.length)))
    }

    fn into_body(self) -> Self {
        self
    }
}

/// Breaks off where no end is left.
impl BodySource for App {
    fn poll_frame(&mut self, _: &mut Context<'_>, _: usize) -> Poll<Result<Frame, BodyError>> {
        Poll::Ready(self.frames.pop_front().ok_or(BodyError::Truncated))
    }

    fn is_end(&self) -> bool {
        false
    }
}

struct Nowhere;

impl BodySink for Nowhere {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, _: Bytes, _: bool) -> Result<(), BodyError> {
        Ok(())
    }

    fn finish(&mut self, _: Option<HeaderMap>) -> Result<(), BodyError> {
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {}
}

fn client() -> (RefCell<Connection<DuplexStream>>, DuplexStream) {
    let (near, far) = tokio::io::duplex(64);
    (RefCell::new(Connection::new(near, BytesMut::new())), far)
}

async fn exchange(
    app: App,
    responder: &mut Responder<'_, DuplexStream>,
    ending: &mut impl Ending,
) -> Result<Exchanged, ForwardError> {
    let (head, ()) = Request::get("http://a/").body(()).unwrap().into_parts();
    let mut none = App::new(BodyLength::Empty, None);
    forward(&head, &mut none, BodyLength::Empty, responder, app, ending).await
}

fn is_body(byte: &&u8) -> bool {
    **byte == b'x'
}

#[tokio::test(start_paused = true)]
async fn the_last_part_of_a_response_ends_with_what_forbids_it() {
    for (keep_alive, length) in [
        (true, BodyLength::Length(LENGTH as u64)),
        (false, BodyLength::Length(LENGTH as u64)),
        (false, BodyLength::Chunked),
    ] {
        let (connection, mut far) = client();
        let (end, when) = oneshot::channel();
        let mut ending = When(when);
        let serve = async {
            let mut responder =
                Responder::new(&connection, &Method::GET, Version::HTTP_11, keep_alive);
            let app = App::new(length, Some(Frame::End));
            let ended = exchange(app, &mut responder, &mut ending).await;
            responder.close_after();
            responder.finish(&mut Endless).await.unwrap();
            drop(connection);
            ended
        };
        let read = async {
            let mut seen = vec![0; 200];
            far.read_exact(&mut seen).await.unwrap();
            end.send(Reason::TokenRevoked).unwrap();
            far.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let (ended, seen) = tokio::join!(serve, read);
        assert!(
            matches!(
                ended,
                Err(ForwardError::Ended {
                    reason: Reason::TokenRevoked,
                    answered: true
                })
            ),
            "{keep_alive} {length:?}: {ended:?}"
        );
        assert!(seen.iter().filter(is_body).count() < LENGTH);
        assert!(!seen.ends_with(b"0\r\n\r\n"), "it looks complete");
    }
}

#[tokio::test]
async fn a_response_whose_last_bytes_cannot_be_written_is_no_success() {
    for keep_alive in [true, false] {
        let (connection, far) = client();
        drop(far);
        let mut responder = Responder::new(&connection, &Method::GET, Version::HTTP_11, keep_alive);
        let app = App::new(BodyLength::Length(LENGTH as u64), Some(Frame::End));
        let ended = exchange(app, &mut responder, &mut Endless).await;
        assert!(
            matches!(ended, Err(ForwardError::Downstream(_))),
            "{keep_alive}: {ended:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_application_sent_before_it_broke_off_goes_out_unless_that_must_end_too() {
    for must_end in [false, true] {
        let (connection, mut far) = client();
        let (end, when) = oneshot::channel();
        let serve = async {
            let mut responder = Responder::new(&connection, &Method::GET, Version::HTTP_11, true);
            let app = App::new(BodyLength::Chunked, None);
            let ended = exchange(app, &mut responder, &mut Endless).await;
            assert!(matches!(ended, Err(ForwardError::Response(_))), "{ended:?}");
            responder.close_after();
            let finished = match must_end {
                true => responder.finish(&mut When(when)).await,
                false => responder.finish(&mut Endless).await,
            };
            drop(connection);
            finished.map_err(|error| error.reason())
        };
        let read = async {
            let mut seen = vec![0; 200];
            far.read_exact(&mut seen).await.unwrap();
            let _ = end.send(Reason::TokenRevoked);
            far.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let (finished, seen) = tokio::join!(serve, read);
        let body = seen.iter().filter(is_body).count();
        match must_end {
            true => assert_eq!(
                (finished, body < LENGTH),
                (Err(Some(Reason::TokenRevoked)), true)
            ),
            false => assert_eq!((finished, body), (Ok(()), LENGTH)),
        }
        assert!(!seen.ends_with(b"0\r\n\r\n"), "it looks complete");
    }
}
