//! `Content-Length` and `Transfer-Encoding`: the two fields request smuggling is made of.
//!
//! Exactly one framing is accepted, written in exactly one way. RFC 9112 §6.3 lets a recipient repair some of what is
//! refused here (identical duplicates, both fields at once); a proxy that repairs is the first half of an attack.

use http::Version;

use crate::ascii::{decimal, is_token, list};
use crate::error::ParseError;

/// The framing fields of one message.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    length: Option<u64>,
    coding: Option<Coding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Unknown,
}

/// The one framing a message declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    Nothing,
    Length(u64),
    Chunked,
}

impl Framing {
    /// Takes the value of a `Content-Length` field line and returns the number.
    pub(crate) fn add_length(&mut self, value: &[u8]) -> Result<u64, ParseError> {
        let length = decimal(value).ok_or(ParseError::ContentLength)?;
        match self.length.replace(length) {
            None => Ok(length),
            Some(_) => Err(ParseError::DuplicateContentLength),
        }
    }

    /// Takes the value of a `Transfer-Encoding` field line.
    pub(crate) fn add_coding(&mut self, value: &[u8]) -> Result<(), ParseError> {
        let coding = coding(value)?;
        match self.coding.replace(coding) {
            None => Ok(()),
            Some(_) => Err(ParseError::TransferEncoding),
        }
    }

    /// The framing, once all fields were taken. What is ambiguous goes before what is merely not implemented.
    pub(crate) fn resolve(&self, version: Version) -> Result<Declared, ParseError> {
        match (self.length, self.coding) {
            (Some(_), Some(_)) => Err(ParseError::LengthAndEncoding),
            (None, Some(_)) if version < Version::HTTP_11 => Err(ParseError::EncodingInHttp10),
            (None, Some(Coding::Unknown)) => Err(ParseError::UnknownCoding),
            (None, Some(Coding::Chunked)) => Ok(Declared::Chunked),
            (Some(length), None) => Ok(Declared::Length(length)),
            (None, None) => Ok(Declared::Nothing),
        }
    }
}

/// `chunked`, or a plain list of other codings that may end in `chunked`; everything else is malformed.
fn coding(value: &[u8]) -> Result<Coding, ParseError> {
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Ok(Coding::Chunked);
    }
    let mut after_chunked = false;
    for member in list(value) {
        if after_chunked || member.is_empty() || !member.iter().all(|b| is_token(*b)) {
            return Err(ParseError::TransferEncoding);
        }
        after_chunked = is_chunked(member);
    }
    Ok(Coding::Unknown)
}
