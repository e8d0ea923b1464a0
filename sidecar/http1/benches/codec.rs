//! What one message costs: `cargo bench -p mesh-http1 --bench codec`.
//!
//! Parsing is measured as a connection does it, with the allocator of the sidecar: bytes are appended to the buffer that
//! the last message left, parsed, and what was parsed is freed.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use divan::{Bencher, black_box};
use http::Method;
use mesh_http1::{
    BodyDecoder, BodyLength, Limits, encode_request, encode_response, parse_request, parse_response,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Room that a connection makes before it reads.
const READ: usize = 4096;

fn main() {
    divan::main();
}

/// Has `parse` take `message` off a buffer that lives on.
fn bench_parse<T>(bencher: Bencher<'_, '_>, message: &[u8], parse: impl Fn(&mut BytesMut) -> T) {
    let mut buf = BytesMut::new();
    bencher.bench_local(|| {
        if buf.capacity() - buf.len() < READ / 2 {
            buf.reserve(READ);
        }
        buf.extend_from_slice(message);
        drop(black_box(parse(&mut buf)));
        buf.clear();
    });
}

const GET: &[u8] = b"GET /api/v1/orders/12345?expand=items HTTP/1.1\r\n\
Host: orders.example\r\n\
User-Agent: curl/8.5.0\r\n\
Accept: application/json\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\n\
X-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e\r\n\
Connection: keep-alive\r\n\r\n";

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: nginx/1.22.1\r\n\
Date: Mon, 02 Mar 2026 10:00:00 GMT\r\n\
Content-Type: application/json\r\n\
Content-Length: 1024\r\n\
Last-Modified: Mon, 02 Mar 2026 09:00:00 GMT\r\n\
Connection: keep-alive\r\n\
ETag: \"65e2f1a0-400\"\r\n\
Accept-Ranges: bytes\r\n\r\n";

#[divan::bench(sample_size = 1000)]
fn parse_get(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bench_parse(bencher, GET, |buf| parse_request(buf, &limits));
}

#[divan::bench(sample_size = 1000)]
fn parse_ok(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bench_parse(bencher, OK, |buf| {
        parse_response(buf, &Method::GET, &limits)
    });
}

#[divan::bench(sample_size = 1000)]
fn parse_incomplete_get(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    bench_parse(bencher, &GET[..GET.len() - 1], |buf| {
        parse_request(buf, &limits)
    });
}

#[divan::bench(sample_size = 1000)]
fn encode_get(bencher: Bencher<'_, '_>) {
    let head = parse_request(&mut BytesMut::from(GET), &Limits::default())
        .unwrap()
        .unwrap();
    let mut dst = BytesMut::with_capacity(1 << 16);
    bencher.bench_local(|| {
        dst.clear();
        let target = head.uri.path_and_query().unwrap().as_str();
        encode_request(
            &mut dst,
            &head.method,
            target,
            Some("orders.example"),
            &head.headers,
            head.body,
            None,
        );
        dst.len()
    });
}

#[divan::bench(sample_size = 1000)]
fn encode_ok(bencher: Bencher<'_, '_>) {
    let head = parse_response(&mut BytesMut::from(OK), &Method::GET, &Limits::default())
        .unwrap()
        .unwrap();
    let mut dst = BytesMut::with_capacity(1 << 16);
    bencher.bench_local(|| {
        dst.clear();
        encode_response(
            &mut dst,
            head.version,
            head.status,
            &head.headers,
            head.body,
            true,
            None,
        );
        dst.len()
    });
}

#[divan::bench(sample_size = 1000)]
fn decode_chunk(bencher: Bencher<'_, '_>) {
    let limits = Limits::default();
    let body = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n0\r\n\r\n"].concat();
    bencher
        .with_inputs(|| {
            (
                BytesMut::from(&body[..]),
                BodyDecoder::new(BodyLength::Chunked, &limits),
            )
        })
        .bench_values(|(mut buf, mut decoder)| {
            while !decoder.is_end() {
                black_box(decoder.decode(&mut buf)).unwrap();
            }
        });
}
