//! Finds where a field section ends without looking into it, so that bytes that arrive one at a time cost little.
//!
//! Nothing is consumed and nothing is remembered between calls: each call walks the lines again with `memchr`. Line
//! count and length are bounded here, so a call costs microseconds at worst. Errors are found in the order of their
//! position, which makes the verdict independent of how the bytes were cut into reads.

use memchr::memchr;

use crate::error::ParseError;

/// A complete field section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    /// Offset just past the empty line.
    pub(crate) end: usize,
    /// Lines before the empty line.
    pub(crate) lines: usize,
}

/// Bounds on a section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes from the start of the buffer to past the empty line.
    pub(crate) bytes: usize,
    /// Lines before the empty line.
    pub(crate) lines: usize,
}

/// Finds the empty line that ends the section starting at `start`; `None` when it has not arrived yet.
///
/// Every line must end in CRLF and must not start with white space. What is too long is `too_large`.
pub(crate) fn section(
    buf: &[u8],
    start: usize,
    bounds: Bounds,
    too_large: ParseError,
) -> Result<Option<Section>, ParseError> {
    let window = &buf[..buf.len().min(bounds.bytes)];
    let mut at = start.min(window.len());
    let mut lines = 0;
    loop {
        let rest = &window[at..];
        if matches!(rest.first(), Some(b' ' | b'\t')) {
            return Err(ParseError::Folding);
        }
        let Some(length) = memchr(b'\n', rest) else {
            return if buf.len() >= bounds.bytes {
                Err(too_large)
            } else {
                Ok(None)
            };
        };
        if length == 0 || rest[length - 1] != b'\r' {
            return Err(ParseError::LineEnd);
        }
        at += length + 1;
        if length == 1 {
            return Ok(Some(Section { end: at, lines }));
        }
        lines += 1;
        if lines > bounds.lines {
            return Err(ParseError::TooManyHeaders);
        }
    }
}

/// The next line of a section that was found complete: its end without CRLF, and the start of the line after it.
pub(crate) fn line(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let length = memchr(b'\n', bytes.get(start..)?)?;
    Some((start + length.saturating_sub(1), start + length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 32,
        lines: 2,
    };

    fn scan(text: &str) -> Result<Option<Section>, ParseError> {
        section(text.as_bytes(), 0, BOUNDS, ParseError::HeadTooLarge)
    }

    #[test]
    fn sections_end_at_the_first_empty_line() {
        assert_eq!(scan("\r\nx"), Ok(Some(Section { end: 2, lines: 0 })));
        assert_eq!(scan("a:b\r\n\r\nx"), Ok(Some(Section { end: 7, lines: 1 })));
        for partial in ["", "a", "a:b\r", "a:b\r\n", "a:b\r\n\r"] {
            assert_eq!(scan(partial), Ok(None), "{partial:?}");
        }
    }

    #[test]
    fn line_ends_folding_and_bounds_are_enforced_before_the_section_is_complete() {
        assert_eq!(scan("\n"), Err(ParseError::LineEnd));
        assert_eq!(scan("a:b\n"), Err(ParseError::LineEnd));
        assert_eq!(scan("a:b\r\n "), Err(ParseError::Folding));
        assert_eq!(scan("\t"), Err(ParseError::Folding));
        assert_eq!(scan("a:\r\nb:\r\nc:\r\n"), Err(ParseError::TooManyHeaders));
        assert_eq!(scan(&"x".repeat(31)), Ok(None));
        assert_eq!(scan(&"x".repeat(32)), Err(ParseError::HeadTooLarge));
        assert_eq!(
            scan(&format!("{}\r\n\r\n", "x".repeat(28))).map(|s| s.is_some()),
            Ok(true)
        );
        assert_eq!(
            scan(&format!("{}\r\n\r\n", "x".repeat(29))),
            Err(ParseError::HeadTooLarge)
        );
    }
}
