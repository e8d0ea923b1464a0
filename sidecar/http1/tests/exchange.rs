//! The calls of the crate in the order a proxy makes them.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use http::{Method, StatusCode, Version};
use mesh_http1::{
    BodyDecoder, BodyEncoder, BodyLength, Decoded, Limits, encode_request, encode_response,
    parse_request, parse_response,
};

#[test]
fn a_request_and_its_response_pass_through() {
    let limits = Limits::default();
    let mut buf = BytesMut::from(
        "POST /a?b=c HTTP/1.1\r\nHost: Orders.Example:8080\r\nTransfer-Encoding: chunked\r\nConnection: x-drop, \
         keep-alive\r\nX-Drop: 1\r\nX-Keep: 2\r\nTE: trailers\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\nGET",
    );
    let head = parse_request(&mut buf, &limits).unwrap().unwrap();
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.uri, "/a?b=c");
    assert_eq!(head.authority.unwrap(), "orders.example:8080");
    assert_eq!(head.body, BodyLength::Chunked);
    assert!(head.keep_alive);
    assert_eq!(head.headers.len(), 2, "{:?}", head.headers);
    assert_eq!(head.headers["te"], "trailers");

    let mut decoder = BodyDecoder::new(head.body, &limits);
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::Data("hello".into())));
    let Ok(Decoded::Trailers(trailers)) = decoder.decode(&mut buf) else {
        panic!("no trailers")
    };
    assert_eq!(trailers["x-sum"], "7");
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::End));
    assert_eq!(buf, "GET");

    let mut out = BytesMut::new();
    encode_request(
        &mut out,
        &head.method,
        "/a?b=c",
        Some("orders"),
        &head.headers,
        head.body,
        None,
    );
    let mut encoder = BodyEncoder::new(head.body);
    encoder.data(&mut out, b"hello").unwrap();
    encoder.end(&mut out, Some(&trailers)).unwrap();
    assert_eq!(
        out,
        "POST /a?b=c HTTP/1.1\r\nhost: orders\r\nte: trailers\r\nx-keep: 2\r\ntransfer-encoding: chunked\r\n\
         connection: te\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"
    );

    let mut buf = BytesMut::from("HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nServer: x\r\n\r\nok");
    let head = parse_response(&mut buf, &Method::POST, &limits)
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.status, head.body, head.keep_alive),
        (StatusCode::OK, BodyLength::Length(2), true)
    );
    let mut out = BytesMut::new();
    encode_response(
        &mut out,
        Version::HTTP_11,
        head.status,
        &head.headers,
        head.body,
        true,
        None,
    );
    assert_eq!(
        out,
        "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\n\r\n"
    );
}
