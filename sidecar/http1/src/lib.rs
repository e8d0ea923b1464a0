//! A strict HTTP/1.1 codec without I/O: bytes in a buffer become heads and body pieces, and the reverse.
//!
//! It owns what RFC 9112 calls messaging: request and status lines, field sections, framing, hop-by-hop fields. It
//! promises that a message has exactly one reading: whatever two parsers could read differently is an error with a
//! status to answer, never a guess. It does not read sockets, keep time, route, or look at what fields mean end to end.
//!
//! Modules stand in the order a message meets them.

mod detect;
mod error;
mod limits;
mod message;

mod ascii;
mod scan;

mod connection;
mod fields;
mod framing;
mod target;

mod request;
mod response;

mod decode;
mod trailers;

mod encode;
mod encode_body;

pub use decode::{BodyDecoder, Decoded};
pub use detect::{Detected, detect};
pub use encode::{encode_request, encode_response};
pub use encode_body::BodyEncoder;
pub use error::{EncodeError, ParseError};
pub use limits::Limits;
pub use message::{BodyLength, RequestHead, ResponseHead};
pub use request::parse_request;
pub use response::parse_response;
