//! Message bodies, written: never more and never less than the head announced.

use bytes::BytesMut;
use http::HeaderMap;

use crate::encode::{put_header, put_number};
use crate::error::EncodeError;
use crate::message::BodyLength;
use crate::trailers::is_allowed;

/// Writes one message body. Its framing is that of the head: for responses see [`BodyLength::for_client`].
#[derive(Debug)]
pub struct BodyEncoder {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Length(u64),
    Chunked,
    UntilClose,
    Ended,
}

impl BodyEncoder {
    /// An encoder for a body framed by `length`.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Empty => State::Length(0),
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::Chunked,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Writes `data` with the framing it needs; nothing for empty data.
    ///
    /// # Errors
    /// The body is longer than announced, or has ended; nothing was written.
    pub fn data(&mut self, dst: &mut BytesMut, data: &[u8]) -> Result<(), EncodeError> {
        dst.reserve(data.len() + 32);
        let suffix = self.chunk_header(dst, data.len())?;
        dst.extend_from_slice(data);
        dst.extend_from_slice(suffix);
        Ok(())
    }

    /// Writes the framing before `len` bytes of data that the caller writes itself, without a copy, and returns the
    /// bytes the caller writes after them.
    ///
    /// # Errors
    /// The body is longer than announced, or has ended; nothing was written.
    pub fn chunk_header(
        &mut self,
        dst: &mut BytesMut,
        len: usize,
    ) -> Result<&'static [u8], EncodeError> {
        match &mut self.state {
            State::Ended => Err(EncodeError::Ended),
            State::UntilClose => Ok(b""),
            State::Length(left) => {
                *left = left.checked_sub(len as u64).ok_or(EncodeError::TooLong)?;
                Ok(b"")
            }
            // An empty chunk would be the end of the body.
            State::Chunked if len == 0 => Ok(b""),
            State::Chunked => {
                put_number(dst, len as u64, 16);
                dst.extend_from_slice(b"\r\n");
                Ok(b"\r\n")
            }
        }
    }

    /// Ends the body. Trailers are written only where there are chunks, without fields that may not stand in a
    /// trailer section.
    ///
    /// # Errors
    /// The body is shorter than announced, or was ended before.
    pub fn end(
        &mut self,
        dst: &mut BytesMut,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), EncodeError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Err(EncodeError::Ended),
            State::Length(0) | State::UntilClose => {}
            State::Length(missing) => return Err(EncodeError::TooShort { missing }),
            State::Chunked => {
                dst.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if is_allowed(name) {
                        put_header(dst, name, value);
                    }
                }
                dst.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}
