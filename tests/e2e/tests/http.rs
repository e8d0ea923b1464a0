//! What an HTTP client and an application see of the two sidecars between them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use mesh_e2e::app::{App, Arrived};
use mesh_e2e::{Mesh, http, peak_memory_kib};

const MIB: usize = 1 << 20;
const HANDSHAKES: &str = "postern_tls_handshakes_total{direction=\"outbound\"";
const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";

fn say(stream: &mut BufReader<TcpStream>, answer: &str) {
    stream.get_mut().write_all(answer.as_bytes()).ok();
}

fn ok(mut arrived: Arrived) {
    say(
        &mut arrived.stream,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    );
}

#[test]
fn what_two_parsers_could_read_differently_is_refused_before_it_travels() {
    let app = App::start(ok);
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let long = format!(
        "GET / HTTP/1.1\r\nHost: orders\r\nA: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    for (why, status, request) in [
        (
            "CL and TE",
            400,
            "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two CL",
            400,
            "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        (
            "bad CL",
            400,
            "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: +1\r\n\r\na",
        ),
        (
            "obs-fold",
            400,
            "GET / HTTP/1.1\r\nHost: orders\r\nA: b\r\n c\r\n\r\n",
        ),
        (
            "space before colon",
            400,
            "GET / HTTP/1.1\r\nHost : orders\r\n\r\n",
        ),
        ("no host", 400, "GET / HTTP/1.1\r\n\r\n"),
        (
            "two hosts",
            400,
            "GET / HTTP/1.1\r\nHost: orders\r\nHost: payments\r\n\r\n",
        ),
        (
            "host mismatch",
            400,
            "GET http://payments/ HTTP/1.1\r\nHost: orders\r\n\r\n",
        ),
        ("bare LF", 400, "GET / HTTP/1.1\nHost: orders\n\n"),
        (
            "bad chunk",
            400,
            "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: gzip, chunked, identity\r\n\r\n",
        ),
        ("long header", 431, &long),
    ] {
        let answer = http::exchange(outbound, request.as_bytes());
        assert_eq!(answer.status, status, "{why}: {}", answer.head);
    }
    assert!(
        app.heads.try_recv().is_err(),
        "one of them reached the application"
    );
    assert_eq!(mesh.call_orders().status, 200);
}

#[test]
fn identity_comes_from_the_certificate_and_hop_by_hop_fields_stay_behind() {
    let app = App::start(ok);
    let mesh = Mesh::with_orders(&app);
    let answer = http::get(
        mesh.address("web", "outbound"),
        "orders",
        "/a?b=c",
        "X-Forwarded-Client-Cert: URI=spiffe://demo.postern.internal/ns/demo/sa/admin\r\n\
         x_forwarded_client_cert: forged\r\nPostern-Port: 22\r\nConnection: X-Once\r\nX-Once: 1\r\nKeep-Alive: 5\r\nX-Kept: yes\r\n",
    );
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    let head = app.heads.recv().expect("it arrived");
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    let xfcc = http::field(&head, "x-forwarded-client-cert").expect("an identity");
    assert!(
        xfcc.contains(&format!("URI={WEB}")) && xfcc.starts_with("By=spiffe://"),
        "{xfcc}"
    );
    assert!(
        !head.contains("admin") && !head.contains("forged"),
        "{head}"
    );
    assert_eq!(http::field(&head, "host"), Some("orders"));
    assert_eq!(http::field(&head, "x-kept"), Some("yes"));
    for gone in ["x-once", "keep-alive", "postern-port", "postern-protocol"] {
        assert_eq!(http::field(&head, gone), None, "{head}");
    }
    let absolute = b"GET http://orders/x HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    assert_eq!(
        http::exchange(mesh.address("web", "outbound"), absolute).status,
        200
    );
    assert!(
        app.heads
            .recv()
            .expect("it arrived")
            .starts_with("GET /x HTTP/1.1\r\n")
    );
}

#[test]
fn chunks_and_trailers_arrive_and_head_has_no_body() {
    let app = App::start(|mut arrived| {
        if arrived.head.starts_with("HEAD") {
            return say(
                &mut arrived.stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n",
            );
        }
        let mut all = String::new();
        while !all.ends_with("\r\n\r\n") {
            arrived.stream.read_line(&mut all).expect("text");
        }
        let seen = all.contains("five!") && all.to_ascii_lowercase().contains("x-sum: 7");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\nConnection: close\r\n\r\n4\r\n{seen}\r\n0\r\nX-Back: 8\r\n\r\n"
        );
        say(&mut arrived.stream, &answer);
    });
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let request = b"POST / HTTP/1.1\r\nHost: orders\r\nTE: trailers\r\nConnection: close, TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nfive!\r\n0\r\nX-Sum: 7\r\n\r\n";
    let answer = http::exchange(outbound, request);
    let text = answer.text().to_ascii_lowercase();
    assert!(text.starts_with("true"), "{} {text}", answer.head);
    assert!(text.contains("x-back: 8"), "{text}");

    let head = b"HEAD / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answer = http::exchange(outbound, head);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(http::field(&answer.head, "content-length"), Some("99"));
}

#[test]
fn a_client_that_expects_100_hears_it_before_it_sends() {
    let app = App::start(|mut arrived| {
        say(&mut arrived.stream, "HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 4];
        arrived.stream.read_exact(&mut body).expect("the body");
        assert_eq!(&body, b"body");
        ok(arrived);
    });
    let mesh = Mesh::with_orders(&app);
    let mut stream = BufReader::new(http::connect(mesh.address("web", "outbound")));
    say(
        &mut stream,
        "POST / HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
    );
    assert!(http::read_head(&mut stream).starts_with("HTTP/1.1 100"));
    say(&mut stream, "body");
    assert!(http::read_head(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let app = App::start(|mut arrived| {
        assert_eq!(arrived.field("upgrade"), Some("custom"));
        say(
            &mut arrived.stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\nfirst\n",
        );
        let mut line = String::new();
        arrived.stream.read_line(&mut line).expect("text");
        say(&mut arrived.stream, &line);
    });
    let mesh = Mesh::with_orders(&app);
    let mut stream = BufReader::new(http::connect(mesh.address("web", "outbound")));
    say(
        &mut stream,
        "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n",
    );
    let head = http::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    say(&mut stream, "hello\n");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "first\nhello\n");
}

#[test]
fn large_bodies_stream_both_ways_in_bounded_memory_and_a_slow_reader_slows_the_writer() {
    const SIZE: usize = 96 * MIB;
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let app = App::start(move |mut arrived| {
        gate.lock().expect("one request").recv().ok();
        let size: usize = arrived
            .field("content-length")
            .expect("a length")
            .parse()
            .expect("a number");
        let taken = std::io::copy(
            &mut (&mut arrived.stream).take(size as u64),
            &mut std::io::sink(),
        );
        assert_eq!(taken.expect("a body"), size as u64);
        say(
            &mut arrived.stream,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"),
        );
        let block = vec![b'd'; MIB];
        for _ in 0..SIZE / MIB {
            arrived.stream.get_mut().write_all(&block).expect("taken");
        }
    });
    let mesh = Mesh::with_orders(&app);
    let sidecars = [mesh.sidecar("web"), mesh.sidecar("orders")];
    let before = sidecars.map(peak_memory_kib);

    let mut stream = http::connect(mesh.address("web", "outbound"));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("taken");
    // The application does not read: after the buffers on the way are full, no more is taken.
    stream
        .set_write_timeout(Some(std::time::Duration::from_millis(700)))
        .expect("a timeout");
    let block = vec![b'u'; MIB];
    let mut sent = 0;
    while sent < SIZE {
        match stream.write(&block[..MIB.min(SIZE - sent)]) {
            Ok(taken) => sent += taken,
            Err(_) => break,
        }
    }
    assert!(
        sent < SIZE / 2,
        "{sent} bytes were taken for a reader that reads none"
    );
    release.send(()).expect("the application waits");
    stream
        .set_write_timeout(Some(mesh_e2e::PATIENCE))
        .expect("a timeout");
    while sent < SIZE {
        sent += stream.write(&block[..MIB.min(SIZE - sent)]).expect("taken");
    }
    let mut stream = BufReader::new(stream);
    assert!(http::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    let got = std::io::copy(&mut stream, &mut std::io::sink()).expect("a body");
    assert_eq!(got, SIZE as u64);
    for (pid, before) in sidecars.into_iter().zip(before) {
        let grown = peak_memory_kib(pid).saturating_sub(before);
        assert!(grown < 24 * 1024, "a sidecar grew by {grown} KiB");
    }
}

#[test]
fn requests_beside_a_large_body_get_a_connection_that_does_not_carry_it() {
    let app = App::start(|mut arrived| {
        if !arrived.head.starts_with("GET /large ") {
            return ok(arrived);
        }
        say(
            &mut arrived.stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        );
        let block = vec![b'd'; MIB];
        // Until the reader has gone.
        while arrived.stream.get_mut().write_all(&block).is_ok() {}
    });
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let ask = || assert_eq!(http::get(outbound, "orders", "/", "").status, 200);
    let handshakes = || mesh.counted("web", HANDSHAKES);
    // Each of the workers has its connection.
    for _ in 0..50 {
        ask();
    }
    let before = handshakes();
    let mut large = http::connect(outbound);
    large
        .write_all(b"GET /large HTTP/1.1\r\nHost: orders\r\n\r\n")
        .expect("taken");
    let (enough, stop) = mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let mut block = vec![0; MIB];
        while stop.try_recv().is_err() {
            assert_ne!(large.read(&mut block).expect("a body"), 0);
        }
    });
    mesh_e2e::eventually("another connection to the peer", || {
        ask();
        handshakes() > before
    });
    enough.send(()).expect("the reader reads");
    reader.join().expect("it read");
}
