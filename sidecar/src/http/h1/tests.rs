//! What a connection reads and writes, call by call.

use std::task::Waker;

use tokio::io::ReadBuf;

use std::cell::RefCell;

use mesh_http1::BodyLength;

use super::super::body::BodySink as _;
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
    assert_eq!((BULK_READ + crate::http::h2::FRAME_HEAD) % (16 * 1024), 0);
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
