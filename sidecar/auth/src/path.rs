//! Paths of requests: one spelling, or an error. What is decided on is what the application gets.
//!
//! Rewritten, because every server agrees on what it means: escapes of unreserved characters are decoded (`%61` is `a`),
//! other escapes get upper-case digits, `.` and `..` segments are resolved, runs of slashes are one slash.
//!
//! Refused, because servers disagree: escaped slashes, backslashes, control characters and escaped escapes (`%2f`, `%5c`,
//! `%00`, `%252e`); semicolons, which some servers take for parameters and cut off, escaped or not; `..` above the root;
//! backslashes and bytes that no path may hold; escapes that are none.

use std::borrow::Cow;

/// Why a path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    /// A byte that a path may not hold.
    #[error("the path holds a byte that must be escaped")]
    Byte,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a '%' that is no escape")]
    Escape,
    /// An escape whose meaning depends on who decodes it.
    #[error("the path holds an escaped slash, backslash, control character or escape")]
    Ambiguous,
    /// A semicolon.
    #[error("the path holds a ';'")]
    Semicolon,
    /// `..` above the root.
    #[error("the path leads above the root")]
    AboveRoot,
}

/// Classes of bytes in a path.
const PLAIN: u8 = 1;
const UNRESERVED: u8 = 1 << 1;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        let alphanumeric = b.is_ascii_alphanumeric();
        // What RFC 3986 has in a path, and what browsers and templates send raw and no server reads as anything else.
        if alphanumeric || contains(b"-_~!$&'()*+,=:@[]^|{}", b) {
            table[byte] |= PLAIN;
        }
        if alphanumeric || contains(b"-._~", b) {
            table[byte] |= UNRESERVED;
        }
        byte += 1;
    }
    table
}

const fn contains(set: &[u8], byte: u8) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Normalizes a path without query. `*`, the path of `OPTIONS *`, is left alone. Allocates only when something changes.
///
/// # Errors
/// See [`PathError`].
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(path.into());
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(path.as_bytes()) {
        return Ok(path.into());
    }
    let decoded = decode(path.as_bytes())?;
    Ok(resolve(&decoded)?.into())
}

/// True for a path that needs no second look: plain bytes, no empty segment, none that begins with a dot.
fn is_normal(path: &[u8]) -> bool {
    let mut before = b'x';
    path.iter().all(|&byte| {
        let fine = match byte {
            b'/' | b'.' => before != b'/',
            _ => is(PLAIN, byte),
        };
        before = byte;
        fine
    })
}

/// Decodes what is safe to decode and refuses what is not.
fn decode(path: &[u8]) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return Err(PathError::Escape);
                };
                let value = escape(*high, *low).ok_or(PathError::Escape)?;
                rest = after;
                match value {
                    b'/' | b'\\' | 0..=0x1f | 0x7f => return Err(PathError::Ambiguous),
                    b';' => return Err(PathError::Semicolon),
                    b'%' if matches!(rest, [a, b, ..] if escape(*a, *b).is_some()) => {
                        return Err(PathError::Ambiguous);
                    }
                    _ if is(UNRESERVED, value) => decoded.push(value.into()),
                    _ => {
                        decoded.push('%');
                        decoded.push(high.to_ascii_uppercase().into());
                        decoded.push(low.to_ascii_uppercase().into());
                    }
                }
            }
            b';' => return Err(PathError::Semicolon),
            b'/' | b'.' => decoded.push((*byte).into()),
            _ if is(PLAIN, *byte) => decoded.push((*byte).into()),
            _ => return Err(PathError::Byte),
        }
    }
    Ok(decoded)
}

fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Resolves dot segments (RFC 3986 §5.2.4) and merges slashes.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut resolved = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => {
                let parent = resolved.rfind('/').ok_or(PathError::AboveRoot)?;
                resolved.truncate(parent);
            }
            _ => {
                resolved.push('/');
                resolved.push_str(segment);
                continue;
            }
        }
        // What names a directory keeps its final slash.
        if last {
            resolved.push('/');
        }
    }
    Ok(resolved)
}

/// The path with every escape decoded, as most applications read it; `None` when there is none. Bytes that are no UTF-8
/// become replacement characters.
pub(crate) fn decoded(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        match (byte, after) {
            (b'%', [high, low, beyond @ ..]) if escape(*high, *low).is_some() => {
                bytes.extend(escape(*high, *low));
                rest = beyond;
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_are_one() {
        for (path, expected) in [
            ("/", "/"),
            ("/admin", "/admin"),
            ("/admin/", "/admin/"),
            ("//admin", "/admin"),
            ("/a///b", "/a/b"),
            ("/./admin", "/admin"),
            ("/admin/.", "/admin/"),
            ("/x/../admin", "/admin"),
            ("/x/y/../../admin", "/admin"),
            ("/admin/x/..", "/admin/"),
            ("/x/..", "/"),
            ("/x//../admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/adm%69n", "/admin"),
            ("/%2e/admin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/x/.%2E/admin", "/admin"),
            ("/x/%2e./admin", "/admin"),
            ("/%7Euser", "/~user"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/..c", "/a..b/..c"),
            ("/a%20b", "/a%20b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%3ab", "/a%3Ab"),
            ("/100%25", "/100%25"),
            ("/a|b^c[d]{e}", "/a|b^c[d]{e}"),
            ("*", "*"),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        use PathError::{AboveRoot, Ambiguous, Byte, Escape, NotAbsolute, Semicolon};
        for (path, expected) in [
            ("", NotAbsolute),
            ("admin", NotAbsolute),
            ("**", NotAbsolute),
            ("/a%2fb", Ambiguous),
            ("/a%2Fb", Ambiguous),
            ("/a%5cb", Ambiguous),
            ("/admin%00", Ambiguous),
            ("/admin%0d%0a", Ambiguous),
            ("/admin%7f", Ambiguous),
            ("/%252e%252e/admin", Ambiguous),
            ("/%2561dmin", Ambiguous),
            ("/admin;x=1", Semicolon),
            ("/x;/../admin", Semicolon),
            ("/x/..;/admin", Semicolon),
            ("/admin%3bx", Semicolon),
            ("/../admin", AboveRoot),
            ("/x/../../admin", AboveRoot),
            ("/%2e%2e/admin", AboveRoot),
            ("/a\\b", Byte),
            ("/a\u{e9}", Byte),
            ("/a b", Byte),
            ("/a\"b", Byte),
            ("/a?b", Byte),
            ("/a#b", Byte),
            ("/a%", Escape),
            ("/a%6", Escape),
            ("/a%zz", Escape),
            ("/a%+6b", Escape),
        ] {
            assert_eq!(normalize(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn escapes_that_stay_are_decoded_for_those_who_keep_out() {
        assert_eq!(decoded("/a"), None);
        assert_eq!(decoded("/a%20b%C3%A9").as_deref(), Some("/a b\u{e9}"));
        assert_eq!(decoded("/100%25").as_deref(), Some("/100%"));
        assert_eq!(decoded("/%FF").as_deref(), Some("/\u{fffd}"));
    }

    proptest! {
        #[test]
        fn a_normalized_path_is_normal_and_has_no_dot_segments(path in "/[a-c./%2efEF5;\\\\]{0,24}") {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains(['\\', ';']));
                prop_assert!(!normal.split('/').any(|s| s == "." || s == ".."));
            }
        }

        #[test]
        fn what_is_taken_for_normal_is_what_the_long_way_makes_of_it(path in "/[a-z./_-]{0,24}") {
            if is_normal(path.as_bytes()) {
                let long = decode(path.as_bytes()).and_then(|d| resolve(&d));
                prop_assert_eq!(long.as_deref(), Ok(&*path));
            }
        }
    }
}
