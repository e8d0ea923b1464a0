//! As much of the WebSocket protocol (RFC 6455 §5.2) as ending a stream politely needs: where frames end, and one close
//! frame. Payloads are not looked at.

use bytes::Bytes;

/// Follows frames through a byte stream.
#[derive(Debug, Clone, Default)]
pub struct Boundaries {
    /// Header bytes of the frame under way.
    header: [u8; 10],
    held: usize,
    /// Bytes of mask and payload that are still to come.
    left: u64,
}

impl Boundaries {
    /// True between two frames.
    pub fn is_between(&self) -> bool {
        self.held == 0 && self.left == 0
    }

    /// Takes bytes as they pass.
    pub fn advance(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[self.step(rest)..];
        }
    }

    /// How many of `bytes` belong to the frame under way; they are taken. 0 between two frames.
    pub fn take_rest(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_between() {
            taken += self.step(&bytes[taken..]);
        }
        taken
    }

    /// Takes some of `bytes`, which are not empty; never beyond the end of a frame.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let n = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.left -= n as u64;
            return n;
        }
        self.header[self.held] = bytes[0];
        self.held += 1;
        if let Some(left) = self.length() {
            self.held = 0;
            self.left = left;
        }
        1
    }

    /// Bytes after the header, once it is complete.
    fn length(&self) -> Option<u64> {
        if self.held < 2 {
            return None;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        let (size, payload) = match self.header[1] & 0x7f {
            126 => (
                4,
                u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            ),
            127 => {
                let [_, _, length @ ..] = self.header;
                (10, u64::from_be_bytes(length))
            }
            small => (2, u64::from(small)),
        };
        (self.held == size).then(|| payload.saturating_add(mask))
    }
}

/// A close frame from a server: status 1008 (policy violation, RFC 6455 §7.4.1) and a reason of at most 123 bytes.
pub fn close_frame(reason: &str) -> Bytes {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason.as_bytes()[..end];
    let mut frame = Vec::with_capacity(4 + reason.len());
    // At most 125 bytes: one byte says it.
    frame.extend_from_slice(&[0x88, 2 + reason.len() as u8]);
    frame.extend_from_slice(&1008_u16.to_be_bytes());
    frame.extend_from_slice(reason);
    frame.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match payload {
            0..=125 => bytes.push(mask | payload as u8),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + payload + if masked { 4 } else { 0 }, 0xff);
        bytes
    }

    proptest! {
        #[test]
        fn ends_of_frames_are_found_however_the_bytes_come(
            frames in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..4),
            cut in 1usize..9_000,
        ) {
            let mut boundaries = Boundaries::default();
            for (payload, masked) in frames {
                let bytes = frame(payload, masked);
                let (last, but_last) = bytes.split_last().unwrap();
                for part in but_last.chunks(cut) {
                    boundaries.advance(part);
                    prop_assert!(!boundaries.is_between());
                }
                let mut next = vec![*last];
                next.extend_from_slice(&frame(3, false));
                let mut copy = boundaries.clone();
                prop_assert_eq!(copy.take_rest(&next), 1);
                boundaries.advance(&[*last]);
                prop_assert!(boundaries.is_between());
            }
        }
    }

    #[test]
    fn a_length_that_no_stream_reaches_does_not_overflow() {
        let mut boundaries = Boundaries::default();
        boundaries.advance(&[
            0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2,
        ]);
        assert!(!boundaries.is_between());
    }

    #[test]
    fn the_close_frame_says_1008_and_why() {
        assert_eq!(&*close_frame("ab"), b"\x88\x04\x03\xf0ab");
        let long = close_frame(&"\u{e9}".repeat(100));
        assert_eq!(long.len(), 2 + 2 + 122);
    }
}
