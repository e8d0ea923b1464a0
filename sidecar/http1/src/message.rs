//! What a parsed head is: the values every other part of the proxy works with.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

/// How the end of a message body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyLength {
    /// There is no body and nothing announces one (a request without framing; the answer to HEAD; 1xx, 204, 304).
    Empty,
    /// Exactly this many bytes; 0 when `content-length: 0` was said.
    Length(u64),
    /// Chunks, with a trailer section after the last.
    Chunked,
    /// Everything up to the end of the connection; responses only.
    UntilClose,
}

impl BodyLength {
    /// The framing of a response body for a client that speaks `version`: HTTP/1.0 has no chunks, so the end of the
    /// connection takes their place. [`encode_response`](crate::encode_response) does the same to the head; give the
    /// result to [`BodyEncoder::new`](crate::BodyEncoder::new).
    #[must_use]
    pub fn for_client(self, version: Version) -> Self {
        match self {
            Self::Chunked if version < Version::HTTP_11 => Self::UntilClose,
            length => length,
        }
    }
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query, also of a target that was in absolute form; `*` only with OPTIONS; the authority only with
    /// CONNECT.
    pub uri: Uri,
    /// The authority from `Host` or the target, with the host in lower case; `None` only in HTTP/1.0.
    pub authority: Option<Authority>,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields without `host`, without hop-by-hop fields and those that `Connection` names. `content-length` stays,
    /// `te: trailers` stays in exactly this form.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub body: BodyLength,
    /// True when the client lets the connection live on after the answer.
    pub keep_alive: bool,
    /// True when the client waits for `100 Continue` before it sends the body; false when no body follows.
    pub expect_continue: bool,
    /// The protocols of `Upgrade`, when `Connection: upgrade` asks for it; `h2c` is left out.
    pub upgrade: Option<HeaderValue>,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields without hop-by-hop fields and those that `Connection` names. `content-length` stays (also where the
    /// body is empty by definition: HEAD, 304), except in 1xx and 204, which cannot have one.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub body: BodyLength,
    /// True when another request may be sent on the connection after the body.
    pub keep_alive: bool,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<HeaderValue>,
}
