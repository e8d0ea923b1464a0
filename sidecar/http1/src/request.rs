//! Request heads.

use bytes::{Bytes, BytesMut};
use http::{Method, Version};
use memchr::{memchr, memchr2};

use crate::ascii::is_token;
use crate::error::ParseError;
use crate::fields::Fields;
use crate::framing::Declared;
use crate::limits::Limits;
use crate::message::{BodyLength, RequestHead};
use crate::scan::{Bounds, line, section};
use crate::target::{self, Target};

/// Empty lines before a request line that are skipped: old clients send one after a body (RFC 9112 §2.2).
const MOST_EMPTY_LINES: usize = 2;
/// Bytes of the longest method.
const LONGEST_METHOD: usize = 64;

/// Takes a request head off the front of `buf`; `None` when it has not arrived in full, which consumes nothing.
///
/// The head's field values and target share the buffer's memory. The verdict does not depend on how the bytes were cut
/// into reads.
///
/// # Errors
/// The bytes are not an acceptable request, which is known as early as possible: [`ParseError::status`] is the answer.
/// The connection cannot be read further; what `buf` holds then is unspecified.
pub fn parse_request(
    buf: &mut BytesMut,
    limits: &Limits,
) -> Result<Option<RequestHead>, ParseError> {
    let Some(start) = skip_empty_lines(buf)? else {
        return Ok(None);
    };
    check_start(&buf[start..], limits)?;
    let bounds = Bounds {
        bytes: limits.max_head_bytes,
        lines: limits.max_headers.saturating_add(1),
    };
    let Some(section) = section(buf, start, bounds, ParseError::HeadTooLarge)? else {
        return Ok(None);
    };
    let head = buf.split_to(section.end).freeze();
    parse_head(&head, start, section.lines).map(Some)
}

/// The offset of the request line; `None` when it is not known yet.
fn skip_empty_lines(buf: &[u8]) -> Result<Option<usize>, ParseError> {
    let mut at = 0;
    for _ in 0..=MOST_EMPTY_LINES {
        match &buf[at..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => at += 2,
            [b'\r' | b'\n', ..] => return Err(ParseError::LineEnd),
            _ => return Ok(Some(at)),
        }
    }
    Err(ParseError::RequestLine)
}

/// Refuses what cannot become a request line before a whole head of it was waited for.
fn check_start(bytes: &[u8], limits: &Limits) -> Result<(), ParseError> {
    let Some(method) = bytes
        .iter()
        .take(LONGEST_METHOD + 1)
        .position(|b| !is_token(*b))
    else {
        return if bytes.len() > LONGEST_METHOD {
            Err(ParseError::Method)
        } else {
            Ok(())
        };
    };
    match bytes[method] {
        b' ' if method > 0 => {}
        b' ' | b'\t' if method == 0 => return Err(ParseError::Folding),
        b'\r' | b'\n' => return Err(ParseError::RequestLine),
        _ => return Err(ParseError::Method),
    }
    let rest = &bytes[method + 1..];
    let window = &rest[..rest.len().min(limits.max_target_bytes.saturating_add(1))];
    if memchr2(b' ', b'\n', window).is_none() && window.len() > limits.max_target_bytes {
        return Err(ParseError::TargetTooLong);
    }
    Ok(())
}

fn parse_head(head: &Bytes, start: usize, lines: usize) -> Result<RequestHead, ParseError> {
    let (end, fields_start) = line(head, start).ok_or(ParseError::RequestLine)?;
    let (method, target, version) = parse_request_line(head, start, end)?;
    let mut fields = Fields::parse(head, fields_start, lines - 1)?;

    let body = match fields.framing.resolve(version)? {
        Declared::Nothing => BodyLength::Empty,
        Declared::Length(length) => BodyLength::Length(length),
        Declared::Chunked => BodyLength::Chunked,
    };
    let body = match body {
        BodyLength::Empty | BodyLength::Length(0) if method == Method::CONNECT => BodyLength::Empty,
        _ if method == Method::CONNECT => return Err(ParseError::ConnectBody),
        body => body,
    };

    if fields.more_hosts {
        return Err(ParseError::DuplicateHost);
    }
    let host = match fields.host.take() {
        Some(value) => Some(target::authority(value)?),
        None if version >= Version::HTTP_11 => return Err(ParseError::MissingHost),
        None => None,
    };
    if host.as_ref().is_some_and(|host| !target.agrees_with(host)) {
        return Err(ParseError::HostMismatch);
    }

    // HTTP/1.0 clients know neither 100 nor 101 (RFC 9110 §7.8, §10.1.1).
    let modern = version >= Version::HTTP_11;
    let upgrade = fields
        .upgrade()?
        .filter(|_| modern && method != Method::CONNECT);
    let has_body = !matches!(body, BodyLength::Empty | BodyLength::Length(0));
    Ok(RequestHead {
        uri: target.uri,
        authority: target.authority.or(host),
        version,
        body,
        keep_alive: fields.connection.persists(version),
        expect_continue: fields.expect_continue && modern && has_body,
        upgrade,
        headers: fields.headers,
        method,
    })
}

fn parse_request_line(
    head: &Bytes,
    start: usize,
    end: usize,
) -> Result<(Method, Target, Version), ParseError> {
    let space = |from: usize| memchr(b' ', &head[from..end]).map(|at| from + at);
    let method_end = space(start).ok_or(ParseError::RequestLine)?;
    let target_start = method_end + 1;
    let target_end = space(target_start).ok_or(ParseError::RequestLine)?;
    if target_end == target_start {
        return Err(ParseError::RequestLine);
    }
    let version = version(&head[target_end + 1..end])?;
    let method = method(&head[start..method_end])?;
    let target = Target::parse(head.slice(target_start..target_end), &method)?;
    Ok((method, target, version))
}

fn version(bytes: &[u8]) -> Result<Version, ParseError> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', rest @ ..] if rest.iter().all(u8::is_ascii_graphic) => {
            Err(ParseError::Version)
        }
        _ => Err(ParseError::RequestLine),
    }
}

/// Methods are case-sensitive, but some servers treat `get` as GET: a policy that names GET would not see it.
fn method(bytes: &[u8]) -> Result<Method, ParseError> {
    let method = Method::from_bytes(bytes).map_err(|_| ParseError::Method)?;
    let is_standard = |name: &[u8]| {
        matches!(
            name,
            b"GET"
                | b"HEAD"
                | b"POST"
                | b"PUT"
                | b"DELETE"
                | b"OPTIONS"
                | b"PATCH"
                | b"TRACE"
                | b"CONNECT"
        )
    };
    if !is_standard(bytes) && is_standard(&bytes.to_ascii_uppercase()) {
        return Err(ParseError::Method);
    }
    Ok(method)
}
