//! How much a peer may send before it is refused.

/// Bounds on what is accepted from a peer; on by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message head, from its first byte to the empty line.
    pub max_head_bytes: usize,
    /// Field lines in a message head or in a trailer section.
    pub max_headers: usize,
    /// Bytes of a request target.
    pub max_target_bytes: usize,
    /// Bytes of a trailer section.
    pub max_trailer_bytes: usize,
    /// Bytes of chunk extensions that a body may be ahead of its data: each byte of data pays for one byte of
    /// extension. Bounds a single chunk as well, and bodies that are all extension and no data.
    pub max_chunk_extension_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 64 * 1024,
            max_headers: 128,
            max_target_bytes: 16 * 1024,
            max_trailer_bytes: 16 * 1024,
            max_chunk_extension_bytes: 4 * 1024,
        }
    }
}
