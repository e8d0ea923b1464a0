//! Response heads: framing by method and status, status lines, and what is written back to clients.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use mesh_http1::{BodyLength, Limits, ParseError, ResponseHead, encode_response, parse_response};

fn parse(method: &Method, text: &str) -> Result<ResponseHead, ParseError> {
    parse_response(&mut BytesMut::from(text), method, &Limits::default())
        .map(|head| head.unwrap_or_else(|| panic!("incomplete: {text:?}")))
}

#[test]
fn method_status_and_fields_frame_the_body() {
    use BodyLength::{Chunked, Empty, Length, UntilClose};
    #[rustfmt::skip]
    let cases: &[(&Method, &str, &str, BodyLength, bool, &str)] = &[
        (&Method::GET, "200", "Content-Length: 5\r\n", Length(5), true, "length"),
        (&Method::GET, "200", "Content-Length: 0\r\n", Length(0), true, "no bytes"),
        (&Method::GET, "200", "Transfer-Encoding: chunked\r\n", Chunked, true, "chunks"),
        (&Method::GET, "200", "", UntilClose, false, "until the connection ends"),
        (&Method::GET, "200", "Connection: keep-alive\r\n", UntilClose, false, "whatever it says"),
        (&Method::GET, "200", "Content-Length: 5\r\nConnection: close\r\n", Length(5), false, "close"),
        (&Method::GET, "404", "", UntilClose, false, "errors are framed alike"),
        (&Method::HEAD, "200", "Content-Length: 5\r\n", Empty, true, "HEAD has no body"),
        (&Method::HEAD, "200", "Transfer-Encoding: chunked\r\n", Empty, true, "HEAD has no body"),
        (&Method::HEAD, "200", "", Empty, true, "HEAD has no body"),
        (&Method::GET, "304", "Content-Length: 5\r\n", Empty, true, "304 has no body"),
        (&Method::GET, "304", "", Empty, true, "304 has no body"),
        (&Method::GET, "204", "", Empty, true, "204 has no body"),
        (&Method::GET, "204", "Content-Length: 0\r\n", Empty, true, "as some servers say it"),
        (&Method::GET, "204", "Content-Length: 5\r\n", Empty, false, "no body, but the server may send one"),
        (&Method::GET, "204", "Transfer-Encoding: chunked\r\n", Empty, false, "no body, but the server may send one"),
        (&Method::GET, "100", "", Empty, true, "1xx has no body"),
        (&Method::GET, "103", "Link: a\r\n", Empty, true, "1xx has no body"),
        (&Method::GET, "101", "Connection: upgrade\r\nUpgrade: x\r\n", Empty, false, "another protocol follows"),
        (&Method::CONNECT, "200", "", Empty, false, "a tunnel follows"),
        (&Method::CONNECT, "200", "Content-Length: 5\r\n", Empty, false, "a tunnel follows"),
        (&Method::CONNECT, "403", "Content-Length: 5\r\n", Length(5), true, "no tunnel"),
    ];
    for (method, status, fields, body, keep_alive, why) in cases {
        let text = format!("HTTP/1.1 {status} Reason\r\n{fields}\r\n");
        let head = parse(method, &text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(
            (head.body, head.keep_alive),
            (*body, *keep_alive),
            "{method} {text:?}: {why}"
        );
    }

    let length = |method, status: &str| {
        let head = parse(
            method,
            &format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n"),
        )
        .unwrap();
        head.headers.get(header::CONTENT_LENGTH).cloned()
    };
    let five = Some(HeaderValue::from_static("5"));
    assert_eq!(
        length(&Method::HEAD, "200"),
        five,
        "HEAD says the length of what GET would get"
    );
    assert_eq!(length(&Method::GET, "304"), five);
    assert_eq!(length(&Method::GET, "200"), five);
    assert_eq!(
        length(&Method::GET, "204"),
        None,
        "204 and 1xx cannot have one"
    );
    assert_eq!(length(&Method::GET, "103"), None);
}

#[test]
fn ambiguous_framing_is_refused_for_every_method_and_status() {
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
    for method in [Method::GET, Method::HEAD] {
        for status in ["200", "204", "304", "100"] {
            let text = |fields: &str| format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
            assert_eq!(
                parse(&method, &text(both)).unwrap_err(),
                ParseError::LengthAndEncoding
            );
            assert_eq!(
                parse(&method, &text(twice)).unwrap_err(),
                ParseError::DuplicateContentLength
            );
        }
    }
}

#[test]
fn status_lines_have_one_form() {
    use ParseError::{LineEnd, StatusLine, Version};
    #[rustfmt::skip]
    let cases: &[(&str, Option<ParseError>, &str)] = &[
        ("HTTP/1.1 200 OK", None, "the usual form"),
        ("HTTP/1.0 200 OK", None, "HTTP/1.0"),
        ("HTTP/1.1 200 ", None, "empty reason"),
        ("HTTP/1.1 200", None, "many servers leave the space out with the reason"),
        ("HTTP/1.1 200 Very  good\t\u{e4}", None, "text"),
        ("HTTP/1.1 599 x", None, "unknown status"),
        ("HTTP/1.1 999 x", None, "seen in the wild"),
        ("HTTP/1.1 099 x", Some(StatusLine), "below 100"),
        ("HTTP/1.1 20 OK", Some(StatusLine), "two digits"),
        ("HTTP/1.1 2000 OK", Some(StatusLine), "four digits"),
        ("HTTP/1.1 +20 OK", Some(StatusLine), "sign"),
        ("HTTP/1.1  200 OK", Some(StatusLine), "two spaces"),
        ("HTTP/1.1\t200 OK", Some(StatusLine), "tab"),
        ("HTTP/1.1 200\tOK", Some(StatusLine), "tab"),
        ("HTTP/1.1 200 O\0K", Some(StatusLine), "NUL"),
        ("HTTP/1.1 200 O\rK", Some(StatusLine), "bare CR"),
        ("HTTP/1.1 200 OK\nX: y", Some(LineEnd), "bare LF"),
        ("HTTP/1.1", Some(StatusLine), "no status"),
        ("HTTP/1.2 200 OK", Some(Version), "unknown minor version"),
        ("HTTP/2.0 200 OK", Some(Version), "major version"),
        ("HTTP/2 200", Some(Version), "major version"),
        ("http/1.1 200 OK", Some(StatusLine), "small letters"),
        ("ICY 200 OK", Some(StatusLine), "another protocol"),
        ("\r\nHTTP/1.1 200 OK", Some(StatusLine), "an empty line before it"),
        ("200 OK", Some(StatusLine), "no version"),
    ];
    for (line, expected, why) in cases {
        let got = parse(
            &Method::GET,
            &format!("{line}\r\nContent-Length: 0\r\n\r\n"),
        )
        .err();
        assert_eq!(got, *expected, "{line:?}: {why}");
    }
    let garbage = parse_response(
        &mut BytesMut::from("-ERR"),
        &Method::GET,
        &Limits::default(),
    );
    assert_eq!(
        garbage.unwrap_err(),
        StatusLine,
        "no need to wait for a line"
    );
}

#[test]
fn only_101_carries_an_upgrade() {
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let head = parse(
        &Method::GET,
        &format!("HTTP/1.1 101 Switching Protocols\r\n{fields}"),
    )
    .unwrap();
    assert_eq!(head.upgrade, Some(HeaderValue::from_static("websocket")));
    assert!(!head.headers.contains_key("upgrade") && !head.headers.contains_key("connection"));
    assert_eq!(head.headers["sec-websocket-accept"], "x");
    let head = parse(
        &Method::GET,
        &format!("HTTP/1.1 426 Upgrade Required\r\n{fields}"),
    )
    .unwrap();
    assert_eq!(head.upgrade, None);
}

#[test]
fn a_thousand_interim_heads_are_parsed_one_by_one() {
    let mut buf = BytesMut::new();
    for _ in 0..1000 {
        buf.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }
    buf.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut interim = 0;
    let last = loop {
        let head = parse_response(&mut buf, &Method::GET, &Limits::default())
            .unwrap()
            .unwrap();
        if !head.status.is_informational() {
            break head;
        }
        interim += 1;
    };
    assert_eq!(
        (interim, last.body, &buf[..]),
        (1000, BodyLength::Length(2), &b"ok"[..])
    );
}

fn encode(
    version: Version,
    status: u16,
    fields: &[(&'static str, &str)],
    body: BodyLength,
    keep_alive: bool,
) -> String {
    let headers: HeaderMap = fields
        .iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect();
    let mut dst = BytesMut::new();
    encode_response(
        &mut dst,
        version,
        StatusCode::from_u16(status).unwrap(),
        &headers,
        body,
        keep_alive,
        None,
    );
    String::from_utf8(dst.to_vec()).unwrap()
}

#[test]
fn responses_are_written_with_one_framing() {
    use BodyLength::{Chunked, Empty, Length, UntilClose};
    const OLD: Version = Version::HTTP_10;
    const NEW: Version = Version::HTTP_11;
    let length: &[(&'static str, &str)] = &[("content-length", "5")];
    #[rustfmt::skip]
    let hop: &[(&'static str, &str)] = &[
        ("connection", "x"),
        ("keep-alive", "x"),
        ("transfer-encoding", "gzip"),
        ("upgrade", "x"),
        ("proxy-connection", "x"),
        ("te", "x"),
        ("host", "x"),
        ("trailer", "x"),
        ("content_length", "7"),
        ("x-a", "b"),
    ];
    let bad_length: &[(&'static str, &str)] = &[("content-length", "5, 5")];
    type Case<'a> = (
        Version,
        u16,
        &'a [(&'static str, &'a str)],
        BodyLength,
        bool,
        &'a str,
    );
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        (NEW, 200, &[], Length(5), true, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (NEW, 200, length, Length(7), true, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        (NEW, 200, length, Chunked, true, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (NEW, 200, hop, Length(0), true, "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 0\r\n\r\n"),
        (NEW, 200, &[], Length(5), false, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"),
        (NEW, 200, length, UntilClose, true, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
        (NEW, 200, length, Empty, true, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (NEW, 200, bad_length, Empty, true, "HTTP/1.1 200 OK\r\n\r\n"),
        (NEW, 304, length, Empty, true, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        (NEW, 304, &[], Empty, true, "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (NEW, 204, length, Empty, true, "HTTP/1.1 204 No Content\r\n\r\n"),
        (NEW, 204, &[], Length(0), true, "HTTP/1.1 204 No Content\r\n\r\n"),
        (NEW, 103, length, Empty, false, "HTTP/1.1 103 Early Hints\r\n\r\n"),
        (NEW, 100, &[], Empty, true, "HTTP/1.1 100 Continue\r\n\r\n"),
        (NEW, 299, &[], Length(0), true, "HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"),
        (OLD, 200, &[], Length(5), true, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n"),
        (OLD, 200, &[], Length(5), false, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"),
        (OLD, 200, &[], Chunked, true, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
    ];
    for (version, status, fields, body, keep_alive, expected) in cases {
        let got = encode(*version, *status, fields, *body, *keep_alive);
        assert_eq!(got, *expected, "{version:?} {status} {fields:?} {body:?}");
    }
    assert_eq!(Chunked.for_client(OLD), UntilClose);
    assert_eq!(Chunked.for_client(NEW), Chunked);
    assert_eq!(Length(1).for_client(OLD), Length(1));
}

#[test]
fn switching_protocols_names_the_protocol() {
    let mut dst = BytesMut::new();
    encode_response(
        &mut dst,
        Version::HTTP_11,
        StatusCode::SWITCHING_PROTOCOLS,
        &HeaderMap::new(),
        BodyLength::Empty,
        true,
        Some(&HeaderValue::from_static("websocket")),
    );
    assert_eq!(
        dst,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}
