//! What can be wrong with a message, which status answers it, and the stable code a metric counts it under.

use http::StatusCode;

/// Why bytes are not an acceptable message. The connection they came from cannot be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not `method SP target SP version`.
    #[error("request line is not 'METHOD target HTTP/1.1' with single spaces")]
    RequestLine,
    /// Not a method token, or a standard method in other letter case.
    #[error("method is not a token, or is a standard method not written in capitals")]
    Method,
    /// The target has a byte or a form that is not allowed.
    #[error("request target has invalid bytes or a form that its method does not allow")]
    Target,
    /// The target has a fragment.
    #[error("request target has a fragment ('#'), which clients must not send")]
    Fragment,
    /// The target is longer than the limit.
    #[error("request target is longer than the limit")]
    TargetTooLong,
    /// A version other than 1.0 and 1.1.
    #[error("HTTP version is neither 1.0 nor 1.1")]
    Version,
    /// Not `version SP status SP reason`.
    #[error("status line is not 'HTTP/1.1 NNN reason'")]
    StatusLine,
    /// A line that does not end in CRLF, or CR inside one.
    #[error("bare CR or LF in the head: lines must end in CRLF")]
    LineEnd,
    /// A field line that starts with white space.
    #[error("field line starts with white space (obsolete line folding)")]
    Folding,
    /// A field line without a colon, or a name that is not a token.
    #[error("header name is empty, is not a token, or is followed by white space")]
    HeaderName,
    /// A name that some servers read as `Content-Length` or `Transfer-Encoding`.
    #[error("header name is a look-alike of content-length or transfer-encoding")]
    HeaderAlias,
    /// A field value with a control character.
    #[error("header value has a control character")]
    HeaderValue,
    /// The head is longer than the limit.
    #[error("message head is longer than the limit")]
    HeadTooLarge,
    /// More field lines than the limit.
    #[error("more header lines than the limit")]
    TooManyHeaders,
    /// `Content-Length` is not one decimal number.
    #[error("content-length is not one decimal number in range")]
    ContentLength,
    /// More than one `Content-Length`.
    #[error("content-length is given more than once")]
    DuplicateContentLength,
    /// Both framings at once.
    #[error("content-length and transfer-encoding together")]
    LengthAndEncoding,
    /// `Transfer-Encoding` is not exactly `chunked`.
    #[error("transfer-encoding is not exactly one 'chunked'")]
    TransferEncoding,
    /// A transfer coding that is not implemented.
    #[error("transfer coding other than 'chunked'")]
    UnknownCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    #[error("transfer-encoding in an HTTP/1.0 message")]
    EncodingInHttp10,
    /// `Connection` is not a list of tokens.
    #[error("connection is not a list of tokens")]
    Connection,
    /// `Connection` names a field that no hop may remove.
    #[error("connection names a header that must not be removed on the way")]
    ConnectionNamesProtected,
    /// `Upgrade` is given twice or is not a list of protocols.
    #[error("upgrade is not one list of protocols")]
    Upgrade,
    /// No `Host`.
    #[error("host is missing")]
    MissingHost,
    /// More than one `Host`.
    #[error("host is given more than once")]
    DuplicateHost,
    /// `Host` or the authority of the target is not `host[:port]`.
    #[error("host or authority is not 'host' or 'host:port'")]
    Host,
    /// `Host` and the target name different authorities.
    #[error("host and the authority of the request target differ")]
    HostMismatch,
    /// User information in an authority.
    #[error("user information ('@') in host or authority")]
    UserInfo,
    /// A `CONNECT` request that announces content.
    #[error("CONNECT announces content, which it cannot have")]
    ConnectBody,
    /// A chunk size that is not 1 to 16 hexadecimal digits, or is out of range.
    #[error("chunk size is not a hexadecimal number in range")]
    ChunkSize,
    /// A chunk extension with a control character or a bare line end.
    #[error("chunk extension has a control character or a bare CR or LF")]
    ChunkExtension,
    /// More chunk extensions than the limit.
    #[error("chunk extensions are longer than the limit")]
    ChunkExtensionTooLarge,
    /// Chunk data that is not followed by CRLF.
    #[error("chunk data is not followed by CRLF")]
    ChunkEnd,
    /// The trailer section is longer than the limit.
    #[error("trailer section is longer than the limit")]
    TrailersTooLarge,
    /// The connection ended inside a message.
    #[error("connection ended inside a message body")]
    UnexpectedEof,
}

impl ParseError {
    /// The status that answers a request with this error.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyHeaders | Self::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A stable code for logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::Method => "method",
            Self::Target => "target",
            Self::Fragment => "target_fragment",
            Self::TargetTooLong => "target_too_long",
            Self::Version => "http_version",
            Self::StatusLine => "status_line",
            Self::LineEnd => "bare_line_end",
            Self::Folding => "line_folding",
            Self::HeaderName => "header_name",
            Self::HeaderAlias => "header_alias",
            Self::HeaderValue => "header_value",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::ContentLength => "content_length",
            Self::DuplicateContentLength => "duplicate_content_length",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::TransferEncoding => "transfer_encoding",
            Self::UnknownCoding => "unknown_transfer_coding",
            Self::EncodingInHttp10 => "transfer_encoding_in_http_1_0",
            Self::Connection => "connection",
            Self::ConnectionNamesProtected => "connection_names_protected",
            Self::Upgrade => "upgrade",
            Self::MissingHost => "missing_host",
            Self::DuplicateHost => "duplicate_host",
            Self::Host => "host",
            Self::HostMismatch => "host_mismatch",
            Self::UserInfo => "userinfo",
            Self::ConnectBody => "connect_body",
            Self::ChunkSize => "chunk_size",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkExtensionTooLarge => "chunk_extension_too_large",
            Self::ChunkEnd => "chunk_end",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::UnexpectedEof => "unexpected_eof",
        }
    }
}

/// Why a body was not written as asked. What was written so far is not a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// More data than the head announced.
    #[error("body is longer than its head announced; the excess was not written")]
    TooLong,
    /// Less data than the head announced.
    #[error("body ended {missing} bytes short of what its head announced; close the connection")]
    TooShort {
        /// Bytes that are missing.
        missing: u64,
    },
    /// The body was ended before.
    #[error("body was already ended")]
    Ended,
}
