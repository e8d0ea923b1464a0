//! Where a line is written: texts, numbers and addresses as JSON has them, into room that is there.

use std::net::{IpAddr, SocketAddr};

/// Longest text of one field, bytes.
pub(super) const MAX_TEXT: usize = 1024;

/// Two decimal digits for every number below a hundred.
pub(super) static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Where a line is written. What does not fit is left out, and the line with it.
pub(in super::super) struct Out<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl<'a> Out<'a> {
    /// Writes from the beginning of `room`, which is for [`LONGEST`].
    pub(in super::super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, at: 0 }
    }

    /// Bytes that were written; `None`: not all of them fit.
    pub(in super::super) fn finish(self) -> Option<usize> {
        (self.at <= self.room.len()).then_some(self.at)
    }

    /// The next bytes, if there is room for so many.
    #[inline(always)]
    fn take(&mut self, length: usize) -> Option<&mut [u8]> {
        let from = self.at;
        self.at = from.saturating_add(length);
        self.room.get_mut(from..self.at)
    }

    #[inline(always)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.take(bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    pub(super) fn number(&mut self, key: &[u8], value: u64) {
        self.put(key);
        self.decimal(value);
    }

    pub(super) fn decimal(&mut self, value: u64) {
        // Most are short: times in microseconds, statuses, sizes.
        match value {
            0..10 => self.put(&PAIRS[value as usize][1..]),
            10..100 => self.put(&PAIRS[value as usize]),
            100..1_000 => {
                let [tens, ones] = PAIRS[(value % 100) as usize];
                self.put(&[b'0' + (value / 100) as u8, tens, ones]);
            }
            _ => self.long_decimal(value),
        }
    }

    fn long_decimal(&mut self, mut value: u64) {
        let digits = value.checked_ilog10().map_or(1, |log| log as usize + 1);
        let Some(room) = self.take(digits) else {
            return;
        };
        let (first, pairs) = room.split_at_mut(digits % 2);
        for pair in pairs.as_chunks_mut::<2>().0.iter_mut().rev() {
            *pair = PAIRS[(value % 100) as usize];
            value /= 100;
        }
        if let [digit] = first {
            *digit = b'0' + (value % 10) as u8;
        }
    }

    pub(super) fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                for (index, part) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        self.put(b".");
                    }
                    self.decimal(part.into());
                }
            }
            IpAddr::V6(ip) => self.put(format!("[{ip}]").as_bytes()),
        }
        self.number(b":", address.port().into());
    }

    /// Our own words, which need no escape.
    pub(super) fn plain(&mut self, key: &[u8], value: &str) {
        debug_assert!(!needs_escape(value.as_bytes()), "{value}");
        self.put(key);
        self.put(value.as_bytes());
    }

    /// A text without its quotes. Bytes that are no visible ASCII are escaped as `\u00XX`, so that nothing can break the
    /// line.
    pub(super) fn text(&mut self, key: &[u8], value: &[u8]) {
        let value = &value[..value.len().min(MAX_TEXT)];
        self.put(key);
        if needs_escape(value) {
            self.escape(value);
        } else {
            self.put(value);
        }
    }

    fn escape(&mut self, value: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in value {
            match byte {
                b'"' | b'\\' => self.put(&[b'\\', *byte]),
                0x20..=0x7e => self.put(&[*byte]),
                _ => {
                    let [high, low] = [byte >> 4, byte & 15].map(|d| DIGITS[usize::from(d)]);
                    self.put(&[b'\\', b'u', b'0', b'0', high, low]);
                }
            }
        }
    }
}

/// Whether a byte stands for itself in a JSON string of visible ASCII.
static IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte = 0x20;
    while byte <= 0x7e {
        is_plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    is_plain
};

/// Looks at every byte without a branch: the usual answer is no. Of a long text sixteen are looked at together.
fn needs_escape(value: &[u8]) -> bool {
    if value.len() < 32 {
        let all_plain = value
            .iter()
            .fold(true, |all, b| all & IS_PLAIN[usize::from(*b)]);
        return !all_plain;
    }
    value.iter().fold(false, |found, byte| {
        found | !(0x20..=0x7e).contains(byte) | (*byte == b'"') | (*byte == b'\\')
    })
}

/// What `write` writes.
#[cfg(test)]
pub(super) fn written(write: impl FnOnce(&mut Out<'_>)) -> Vec<u8> {
    let mut room = vec![0; super::LONGEST];
    let mut out = Out::new(&mut room);
    write(&mut out);
    let length = out.finish().expect("it fits");
    room.truncate(length);
    room
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_one_json_string_without_a_line_break(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let out = written(|out| {
                out.put(b"{\"a\":0");
                out.text(text_key!("x"), &value);
                out.put(b"\"}");
            });
            prop_assert!(!out.contains(&b'\n'));
            let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let expected: String = value.iter().map(|b| char::from(*b)).collect();
            prop_assert_eq!(read["x"].as_str(), Some(expected.as_str()));
        }

        #[test]
        fn numbers_and_addresses_are_as_the_standard_library_writes_them(value: u64, shift in 0u32..64, ip: IpAddr, port: u16) {
            let value = value >> shift;
            prop_assert_eq!(written(|out| out.decimal(value)), value.to_string().into_bytes());
            let socket = SocketAddr::new(ip, port);
            prop_assert_eq!(written(|out| out.address(socket)), socket.to_string().into_bytes());
        }
    }

    #[test]
    fn what_does_not_fit_is_not_said_to_be_written() {
        for length in 0..4 {
            let mut room = [0; 3];
            let mut out = Out::new(&mut room);
            out.put(&[b'x'; 3][..length.min(3)]);
            if length > 3 {
                out.number(b"", 12_345);
                out.put(b"");
            }
            assert_eq!(out.finish(), (length <= 3).then_some(length), "{length}");
        }
    }
}
