//! Response heads.

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version, header};

use crate::error::ParseError;
use crate::fields::Fields;
use crate::framing::Declared;
use crate::limits::Limits;
use crate::message::{BodyLength, ResponseHead};
use crate::scan::{Bounds, line, section};

/// Takes the head of the response to a `request_method` request off the front of `buf`; `None` when it has not arrived
/// in full, which consumes nothing. Interim responses (1xx) are heads of their own: parse again for the final one.
///
/// # Errors
/// The bytes are not an acceptable response; the connection must be closed. What `buf` holds then is unspecified.
pub fn parse_response(
    buf: &mut BytesMut,
    request_method: &Method,
    limits: &Limits,
) -> Result<Option<ResponseHead>, ParseError> {
    let expected = b"HTTP/1.";
    let known = buf.len().min(expected.len());
    if buf[..known] != expected[..known] {
        let versioned = known >= 5 && buf[..5] == expected[..5];
        return Err(if versioned {
            ParseError::Version
        } else {
            ParseError::StatusLine
        });
    }
    let bounds = Bounds {
        bytes: limits.max_head_bytes,
        lines: limits.max_headers.saturating_add(1),
    };
    let Some(section) = section(buf, 0, bounds, ParseError::HeadTooLarge)? else {
        return Ok(None);
    };
    let head = buf.split_to(section.end).freeze();
    parse_head(&head, section.lines, request_method).map(Some)
}

fn parse_head(
    head: &Bytes,
    lines: usize,
    request_method: &Method,
) -> Result<ResponseHead, ParseError> {
    let (end, fields_start) = line(head, 0).ok_or(ParseError::StatusLine)?;
    let (version, status) = parse_status_line(&head[..end])?;
    let mut fields = Fields::parse(head, fields_start, lines.saturating_sub(1))?;
    let declared = fields.framing.resolve(version)?;

    let never_framed = status.is_informational() || status == StatusCode::NO_CONTENT;
    let tunnel = request_method == Method::CONNECT && status.is_success();
    let bodyless = never_framed
        || tunnel
        || request_method == Method::HEAD
        || status == StatusCode::NOT_MODIFIED;
    let body = match declared {
        _ if bodyless => BodyLength::Empty,
        Declared::Nothing => BodyLength::UntilClose,
        Declared::Length(length) => BodyLength::Length(length),
        Declared::Chunked => BodyLength::Chunked,
    };
    // A server that frames what has no body may send one: its bytes must not be read as the next response.
    let stray_body = never_framed && !matches!(declared, Declared::Nothing | Declared::Length(0));
    if never_framed || tunnel {
        fields.headers.remove(header::CONTENT_LENGTH);
    }
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    Ok(ResponseHead {
        status,
        version,
        body,
        keep_alive: fields.connection.persists(version)
            && body != BodyLength::UntilClose
            && !stray_body
            && !switches
            && !tunnel,
        upgrade: fields.upgrade()?.filter(|_| switches),
        headers: fields.headers,
    })
}

/// `HTTP/1.x SP NNN [SP reason]`; the reason is not used and may be missing with its space, as many servers write it.
fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode), ParseError> {
    let (version, rest) = line.split_at_checked(8).ok_or(ParseError::StatusLine)?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(ParseError::Version),
    };
    let [b' ', a, b, c, reason @ ..] = rest else {
        return Err(ParseError::StatusLine);
    };
    let status = StatusCode::from_bytes(&[*a, *b, *c]).map_err(|_| ParseError::StatusLine)?;
    let text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    match reason {
        [] => Ok((version, status)),
        [b' ', reason @ ..] if reason.iter().all(text) => Ok((version, status)),
        _ => Err(ParseError::StatusLine),
    }
}
