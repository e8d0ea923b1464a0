//! Message bodies, read: a state machine that consumes bytes as it understands them.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::error::ParseError;
use crate::limits::Limits;
use crate::message::BodyLength;
use crate::trailers;

/// Digits of the longest chunk size.
const MOST_DIGITS: u8 = 16;
/// The largest chunk, so that sums of a few sizes cannot overflow anywhere.
const LARGEST_CHUNK: u64 = i64::MAX as u64;

/// A step of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Bytes of the body; never empty.
    Data(Bytes),
    /// The fields of the trailer section; never empty. The body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// The next step needs bytes that are not in the buffer.
    NeedMore,
}

/// Takes one message body off a buffer.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of chunk extensions that no data has paid for.
    extension_debt: usize,
    limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Exactly so many bytes are to come; never 0.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        value: u64,
        digits: u8,
    },
    /// In the extensions of a chunk of so many bytes.
    Extension(u64),
    /// CR of a size line was read.
    SizeLineFeed(u64),
    /// In a chunk; never 0.
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailers,
    End,
    Failed(ParseError),
}

const SIZE: State = State::Size {
    value: 0,
    digits: 0,
};

impl BodyDecoder {
    /// A decoder for a body framed by `length`.
    pub fn new(length: BodyLength, limits: &Limits) -> Self {
        let state = match length {
            BodyLength::Empty | BodyLength::Length(0) => State::End,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => SIZE,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self {
            state,
            extension_debt: 0,
            limits: limits.clone(),
        }
    }

    /// Takes the next step off the front of `buf`. After trailers or the end it answers [`Decoded::End`] and leaves
    /// `buf` alone: what follows belongs to the next message.
    ///
    /// # Errors
    /// The framing is violated; the connection must be closed. Further calls give the same error.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, ParseError> {
        let step = self.step(buf);
        if let Err(error) = step {
            self.state = State::Failed(error);
        }
        step
    }

    /// Says that the connection ended.
    ///
    /// # Errors
    /// The body was not complete.
    pub fn eof(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::UntilClose | State::End => {
                self.state = State::End;
                Ok(())
            }
            State::Failed(error) => Err(error),
            _ => {
                self.state = State::Failed(ParseError::UnexpectedEof);
                Err(ParseError::UnexpectedEof)
            }
        }
    }

    /// Bytes of data that are certain to follow before anything else; what the buffer holds counts too.
    pub fn certain(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// True when the whole body was returned.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    fn step(&mut self, buf: &mut BytesMut) -> Result<Decoded, ParseError> {
        loop {
            match self.state {
                State::End => return Ok(Decoded::End),
                State::Failed(error) => return Err(error),
                _ if buf.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buf.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buf, left);
                    self.state = if left == 0 {
                        State::End
                    } else {
                        State::Length(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::Data(left) => {
                    let (data, left) = take(buf, left);
                    self.extension_debt = self.extension_debt.saturating_sub(data.len());
                    self.state = if left == 0 {
                        State::DataReturn
                    } else {
                        State::Data(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::DataReturn => {
                    expect(buf, b'\r', ParseError::ChunkEnd)?;
                    self.state = State::DataLineFeed;
                }
                State::DataLineFeed => {
                    expect(buf, b'\n', ParseError::ChunkEnd)?;
                    self.state = SIZE;
                }
                State::Size { value, digits } => self.size(buf, value, digits)?,
                State::Extension(size) => self.extension(buf, size)?,
                State::SizeLineFeed(size) => {
                    expect(buf, b'\n', ParseError::ChunkSize)?;
                    self.state = if size == 0 {
                        State::Trailers
                    } else {
                        State::Data(size)
                    };
                }
                State::Trailers => {
                    let Some(trailers) = trailers::parse(buf, &self.limits)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::End;
                    if !trailers.is_empty() {
                        return Ok(Decoded::Trailers(trailers));
                    }
                }
            }
        }
    }

    fn size(
        &mut self,
        buf: &mut BytesMut,
        mut value: u64,
        mut digits: u8,
    ) -> Result<(), ParseError> {
        let mut used = 0;
        let mut next = None;
        for &byte in buf.iter() {
            used += 1;
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                b'\r' if digits > 0 => {
                    next = Some(State::SizeLineFeed(value));
                    break;
                }
                b';' if digits > 0 => {
                    self.grow_extensions(1)?;
                    next = Some(State::Extension(value));
                    break;
                }
                _ => return Err(ParseError::ChunkSize),
            };
            digits += 1;
            // Sixteen digits fit; leading zeros count, or they would be an unbounded size line.
            if digits > MOST_DIGITS {
                return Err(ParseError::ChunkSize);
            }
            value = (value << 4) | u64::from(digit);
            if value > LARGEST_CHUNK {
                return Err(ParseError::ChunkSize);
            }
        }
        buf.advance(used);
        self.state = next.unwrap_or(State::Size { value, digits });
        Ok(())
    }

    /// Skips extensions: they are for this hop, and nobody defines any. What matters is that no byte of them can be
    /// taken for a line end.
    fn extension(&mut self, buf: &mut BytesMut, size: u64) -> Result<(), ParseError> {
        let end = buf
            .iter()
            .position(|b| !matches!(b, b'\t' | b' '..=b'~' | 0x80..));
        let length = end.unwrap_or(buf.len());
        self.grow_extensions(length)?;
        let Some(end) = end else {
            buf.clear();
            return Ok(());
        };
        if buf[end] != b'\r' {
            return Err(ParseError::ChunkExtension);
        }
        buf.advance(end + 1);
        self.state = State::SizeLineFeed(size);
        Ok(())
    }

    fn grow_extensions(&mut self, by: usize) -> Result<(), ParseError> {
        self.extension_debt = self.extension_debt.saturating_add(by);
        if self.extension_debt > self.limits.max_chunk_extension_bytes {
            return Err(ParseError::ChunkExtensionTooLarge);
        }
        Ok(())
    }
}

/// Up to `left` bytes of `buf`, and how many are left to come after them.
fn take(buf: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let n = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
    (buf.split_to(n).freeze(), left - n as u64)
}

fn expect(buf: &mut BytesMut, byte: u8, otherwise: ParseError) -> Result<(), ParseError> {
    if buf.first() != Some(&byte) {
        return Err(otherwise);
    }
    buf.advance(1);
    Ok(())
}
