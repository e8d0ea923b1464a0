//! Message heads, written: one framing, no hop-by-hop field that was not decided here.
//!
//! The types already keep CR, LF and NUL out of methods, names and values. The target and the host arrive as text and are
//! made safe here once more.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use crate::ascii::decimal;
use crate::fields::{Field, classify};
use crate::message::BodyLength;

/// Room for a typical head, so that it is written without growing the buffer twice.
const TYPICAL_HEAD: usize = 512;

/// Writes the head of an HTTP/1.1 request.
///
/// `target` is written as it is, with control characters, spaces and non-ASCII bytes percent-encoded. A missing or
/// malformed `host` is written as an empty one, which origins refuse. Of `headers`, framing and hop-by-hop fields are
/// left out, except `te: trailers`. `content-length: 0` is written for an empty POST, PUT or PATCH.
///
/// A request cannot end with the connection: [`BodyLength::UntilClose`] is announced as chunked, and its body must be
/// written as [`BodyLength::Chunked`].
pub fn encode_request(
    dst: &mut BytesMut,
    method: &Method,
    target: &str,
    host: Option<&str>,
    headers: &HeaderMap,
    body: BodyLength,
    upgrade: Option<&HeaderValue>,
) {
    dst.reserve(TYPICAL_HEAD + target.len());
    put(dst, method.as_str().as_bytes());
    put(dst, b" ");
    put_target(dst, target);
    put(dst, b" HTTP/1.1\r\nhost: ");
    let host = host.filter(|host| host.bytes().all(|b| b.is_ascii_graphic()));
    put(dst, host.unwrap_or_default().as_bytes());
    put(dst, b"\r\n");

    let te = put_headers(dst, headers, body);
    let anticipates_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match body {
        BodyLength::Empty if anticipates_body => put_length(dst, 0),
        BodyLength::Empty => {}
        BodyLength::Length(length) => put_length(dst, length),
        BodyLength::Chunked | BodyLength::UntilClose => put(dst, b"transfer-encoding: chunked\r\n"),
    }
    match (upgrade, te) {
        (Some(upgrade), te) => {
            put(
                dst,
                if te {
                    b"connection: upgrade, te\r\n"
                } else {
                    b"connection: upgrade\r\n"
                },
            );
            put_header(dst, &http::header::UPGRADE, upgrade);
        }
        (None, true) => put(dst, b"connection: te\r\n"),
        (None, false) => {}
    }
    put(dst, b"\r\n");
}

/// Writes the head of a response to a client that spoke `client_version`.
///
/// [`BodyLength::Empty`] means that there is no body by definition (HEAD, 1xx, 204, 304): a `content-length` among
/// `headers` is then kept, and none is made up. A body of no bytes is `Length(0)`. Chunks become the end of the
/// connection for HTTP/1.0 clients, see [`BodyLength::for_client`]; `connection: close` is written whenever the
/// connection has to end, whatever `keep_alive` says.
pub fn encode_response(
    dst: &mut BytesMut,
    client_version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    body: BodyLength,
    keep_alive: bool,
    upgrade: Option<&HeaderValue>,
) {
    dst.reserve(TYPICAL_HEAD);
    put(dst, b"HTTP/1.1 ");
    put(dst, status.as_str().as_bytes());
    put(dst, b" ");
    put(
        dst,
        status.canonical_reason().unwrap_or_default().as_bytes(),
    );
    put(dst, b"\r\n");

    let body = body.for_client(client_version);
    put_headers(dst, headers, body);
    let never_framed = status.is_informational() || status == StatusCode::NO_CONTENT;
    match body {
        _ if never_framed => {}
        BodyLength::Length(length) if status != StatusCode::NOT_MODIFIED => put_length(dst, length),
        BodyLength::Empty | BodyLength::Length(_) => put_own_length(dst, headers),
        BodyLength::Chunked => put(dst, b"transfer-encoding: chunked\r\n"),
        BodyLength::UntilClose => {}
    }
    if let Some(upgrade) = upgrade {
        put(dst, b"connection: upgrade\r\n");
        put_header(dst, &http::header::UPGRADE, upgrade);
    } else if status.is_informational() {
        // Interim responses say nothing about the connection.
    } else if !keep_alive || body == BodyLength::UntilClose {
        put(dst, b"connection: close\r\n");
    } else if client_version < Version::HTTP_11 {
        put(dst, b"connection: keep-alive\r\n");
    }
    put(dst, b"\r\n");
}

/// Writes the fields that go end to end; true when `te: trailers` was among them.
fn put_headers(dst: &mut BytesMut, headers: &HeaderMap, body: BodyLength) -> bool {
    let mut te = false;
    for (name, value) in headers {
        match classify(name.as_str().as_bytes()) {
            Field::Other | Field::Expect => put_header(dst, name, value),
            // Announces fields of a section that only chunks have.
            Field::Trailer if body == BodyLength::Chunked => put_header(dst, name, value),
            Field::Te if !te && value.as_bytes().eq_ignore_ascii_case(b"trailers") => {
                te = true;
                put_header(dst, name, value);
            }
            _ => {}
        }
    }
    te
}

fn put(dst: &mut BytesMut, bytes: &[u8]) {
    dst.extend_from_slice(bytes);
}

pub(crate) fn put_header(dst: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    dst.reserve(name.len() + value.len() + 4);
    put(dst, name);
    put(dst, b": ");
    put(dst, value);
    put(dst, b"\r\n");
}

/// `content-length` as the headers have it, when that is one number.
fn put_own_length(dst: &mut BytesMut, headers: &HeaderMap) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(value), None) = (values.next(), values.next())
        && let Some(length) = decimal(value.as_bytes())
    {
        put_length(dst, length);
    }
}

fn put_length(dst: &mut BytesMut, length: u64) {
    put(dst, b"content-length: ");
    put_number(dst, length, 10);
    put(dst, b"\r\n");
}

/// Writes a number in base 10 or 16.
pub(crate) fn put_number(dst: &mut BytesMut, mut number: u64, base: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder below 16 indexes the table.
        digits[at] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    put(dst, &digits[at..]);
}

fn put_target(dst: &mut BytesMut, target: &str) {
    if target.bytes().all(|b| b.is_ascii_graphic()) {
        return put(dst, target.as_bytes());
    }
    for byte in target.bytes() {
        if byte.is_ascii_graphic() {
            dst.put_u8(byte);
        } else {
            let hex = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            put(dst, &[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
}
