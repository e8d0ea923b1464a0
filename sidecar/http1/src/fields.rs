//! A field section, taken apart in one pass: what frames and routes the message, and the rest as a header map.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::ascii::{list, trim};
use crate::connection::Connection;
use crate::error::ParseError;
use crate::framing::Framing;
use crate::scan::line;

/// Fields that are added to what was read before it goes on: the map need not grow for them.
const ADDED: usize = 4;

/// The fields a proxy acts on itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Ends at this hop and says nothing that is used: `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`.
    Hop,
    Te,
    Upgrade,
    Expect,
    Trailer,
    /// `Content_Length` and the like.
    Alias,
    Other,
}

/// Which field a name in any letter case is. The length decides first, so that most names cost one comparison at most.
pub(crate) fn classify(name: &[u8]) -> Field {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 if is(b"te") => Field::Te,
        4 if is(b"host") => Field::Host,
        6 if is(b"expect") => Field::Expect,
        7 if is(b"upgrade") => Field::Upgrade,
        7 if is(b"trailer") => Field::Trailer,
        10 if is(b"connection") => Field::Connection,
        10 if is(b"keep-alive") => Field::Hop,
        14 if is(b"content-length") => Field::ContentLength,
        14 if is(b"http2-settings") => Field::Hop,
        14 if is_alias(name, b"content-length") => Field::Alias,
        16 if is(b"proxy-connection") => Field::Hop,
        17 if is(b"transfer-encoding") => Field::TransferEncoding,
        17 if is_alias(name, b"transfer-encoding") => Field::Alias,
        _ => Field::Other,
    }
}

/// True when a server that maps punctuation to one character (CGI, WSGI) would take `name` for `known`.
fn is_alias(name: &[u8], known: &[u8]) -> bool {
    name.iter()
        .zip(known)
        .all(|(b, k)| b.eq_ignore_ascii_case(k) || (*k == b'-' && !b.is_ascii_alphanumeric()))
}

/// A field section.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// All fields that go on to the next hop.
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    pub(crate) connection: Connection,
    /// The value of the first `Host`.
    pub(crate) host: Option<Bytes>,
    /// True when there was another `Host`.
    pub(crate) more_hosts: bool,
    /// True when `Expect: 100-continue` was said.
    pub(crate) expect_continue: bool,
    upgrade: Option<HeaderValue>,
}

impl Fields {
    /// Parses the field lines from `start` to the empty line; `head` is a complete section of `lines` lines.
    pub(crate) fn parse(head: &Bytes, start: usize, lines: usize) -> Result<Self, ParseError> {
        let mut fields = Self {
            headers: HeaderMap::try_with_capacity(lines + ADDED)
                .map_err(|_| ParseError::TooManyHeaders)?,
            ..Self::default()
        };
        let mut at = start;
        while let Some((end, next)) = line(head, at) {
            if end == at {
                break;
            }
            fields.add(head, at, end)?;
            at = next;
        }
        fields.connection.remove_named(&mut fields.headers);
        Ok(fields)
    }

    fn add(&mut self, head: &Bytes, start: usize, end: usize) -> Result<(), ParseError> {
        let (name, from, to) = split(head, start, end)?;
        let field = classify(name);
        if matches!(field, Field::Other | Field::Trailer) {
            return self.append(header_name(name)?, header_value(head, from, to)?);
        }
        if field == Field::Host {
            // Held to stricter rules than a field value where it is read.
            self.more_hosts = self.host.is_some();
            self.host.get_or_insert_with(|| head.slice(from..to));
            return Ok(());
        }
        let value = header_value(head, from, to)?;
        match field {
            Field::ContentLength => {
                let length = self.framing.add_length(value.as_bytes())?;
                // '007' goes on as '7': to some readers a leading zero is octal.
                let value = if value.as_bytes().starts_with(b"0") {
                    length.into()
                } else {
                    value
                };
                self.append(header::CONTENT_LENGTH, value)?;
            }
            Field::Expect => {
                self.expect_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                self.append(header::EXPECT, value)?;
            }
            Field::TransferEncoding => self.framing.add_coding(value.as_bytes())?,
            Field::Connection => self.connection.add(value.as_bytes())?,
            Field::Te => {
                if list(value.as_bytes()).any(|member| member.eq_ignore_ascii_case(b"trailers")) {
                    let trailers = HeaderValue::from_static("trailers");
                    self.headers.insert(header::TE, trailers);
                }
            }
            Field::Upgrade => {
                if self.upgrade.replace(value).is_some() {
                    return Err(ParseError::Upgrade);
                }
            }
            Field::Alias => return Err(ParseError::HeaderAlias),
            Field::Hop | Field::Host | Field::Other | Field::Trailer => {}
        }
        Ok(())
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), ParseError> {
        match self.headers.try_append(name, value) {
            Ok(_) => Ok(()),
            Err(_) => Err(ParseError::TooManyHeaders),
        }
    }

    /// The protocols of `Upgrade` that this hop is asked to pass on: none unless `Connection` says so, and never `h2c`,
    /// which would take the connection away from everything that looks at requests.
    pub(crate) fn upgrade(&mut self) -> Result<Option<HeaderValue>, ParseError> {
        let Some(value) = self.upgrade.take() else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        let mut all = true;
        for protocol in list(value.as_bytes()) {
            let mut parts = protocol.splitn(2, |b| *b == b'/');
            if !parts.all(|part| HeaderName::from_bytes(part).is_ok()) {
                return Err(ParseError::Upgrade);
            }
            if protocol.eq_ignore_ascii_case(b"h2c") {
                all = false;
            } else {
                kept.push(protocol);
            }
        }
        if !self.connection.upgrades() || kept.is_empty() {
            return Ok(None);
        }
        if all {
            return Ok(Some(value));
        }
        HeaderValue::from_bytes(&kept.join(&b", "[..]))
            .map(Some)
            .map_err(|_| ParseError::Upgrade)
    }
}

/// Splits a field line at its colon: the name, and where the value starts and ends without the white space around it.
#[inline]
pub(crate) fn split(
    section: &[u8],
    start: usize,
    end: usize,
) -> Result<(&[u8], usize, usize), ParseError> {
    let line = &section[start..end];
    // Names are short: a plain loop beats a vectorised search.
    let colon = line
        .iter()
        .position(|b| *b == b':')
        .ok_or(ParseError::HeaderName)?;
    let (from, to) = trim(section, start + colon + 1, end);
    Ok((&line[..colon], from, to))
}

/// A field value without control characters other than tabs; it shares the buffer.
#[inline]
pub(crate) fn header_value(
    section: &Bytes,
    from: usize,
    to: usize,
) -> Result<HeaderValue, ParseError> {
    HeaderValue::from_maybe_shared(section.slice(from..to)).map_err(|_| ParseError::HeaderValue)
}

/// A name as it was written, or the error for one that is not a token.
#[inline]
pub(crate) fn header_name(name: &[u8]) -> Result<HeaderName, ParseError> {
    HeaderName::from_bytes(name).map_err(|_| ParseError::HeaderName)
}
