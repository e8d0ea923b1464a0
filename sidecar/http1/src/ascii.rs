//! Classes of bytes, as tables: one load decides.

const TOKEN: u8 = 1;
const PATH: u8 = 1 << 1;
const QUERY: u8 = 1 << 2;
const HOST: u8 = 1 << 3;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        let alphanumeric = b.is_ascii_alphanumeric();
        let mut class = 0;
        if alphanumeric || contains(b"!#$%&'*+-.^_`|~", b) {
            class |= TOKEN;
        }
        // RFC 3986 pchar and '/', and what browsers and templates send raw and no server reads as anything else.
        // Not '\', which some servers read as '/'. '%' is checked apart.
        if alphanumeric || contains(b"-._~!$&'()*+,;=:@/%[]^|{}", b) {
            class |= PATH;
        }
        // The URL standard leaves these raw in a query.
        if alphanumeric || contains(b"-._~!$&'()*+,;=:@/%[]^|{}?\\`", b) {
            class |= QUERY;
        }
        // No sub-delims and no percent-encoding: ',' joins duplicate hosts, '%2e' hides a dot.
        if alphanumeric || contains(b"-._~", b) {
            class |= HOST;
        }
        table[byte] = class;
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

/// A byte of a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// A byte that a path may hold.
pub(crate) fn is_path(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & PATH != 0
}

/// A byte that a query may hold.
pub(crate) fn is_query(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & QUERY != 0
}

/// A byte that a host name may hold.
pub(crate) fn is_host(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & HOST != 0
}

/// The value of decimal digits and nothing else; `None` also on overflow.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The part of a field line's value without the optional white space around it; as offsets into `bytes`.
pub(crate) fn trim(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while start < end && matches!(bytes[start], b' ' | b'\t') {
        start += 1;
    }
    while end > start && matches!(bytes[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    (start, end)
}

/// The members of a comma-separated list without the white space around them; empty members included.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(|member| {
        let (start, end) = trim(member, 0, member.len());
        &member[start..end]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_takes_digits_only_and_refuses_overflow() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "18446744073709551616",
            "+1",
            "-1",
            " 1",
            "1 ",
            "0x1",
            "1e3",
            "1_0",
        ] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn tokens_are_those_of_the_header_name_type() {
        for byte in 0..=255_u8 {
            assert_eq!(
                is_token(byte),
                http::HeaderName::from_bytes(&[byte]).is_ok(),
                "{byte:#x}"
            );
        }
    }
}
