//! Lets clients in that have no authority to name.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) sends the percent-encoded path of a Unix socket as `:authority`, which is no
//! host, so that our HTTP/2 library refuses every request of theirs. Nothing looks at the authority of a call on a socket
//! that has no name; what may not stand in one is therefore overwritten, byte by byte, before the library sees it. No
//! length changes, so HTTP/2 and HPACK stay as they were. What is not understood is passed on as it is.

/// Bytes of HTTP/2's connection preface.
const PREFACE: u8 = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const END_HEADERS: u8 = 0x4;
const NAME: &[u8] = b":authority";
/// Index of `:authority` in HPACK's static table.
const STATIC_INDEX: u32 = 1;

/// Follows what a client sends.
#[derive(Debug)]
pub(super) struct Rewriter {
    frame: Frame,
    block: Block,
    /// The field that is being read is the authority.
    authority: bool,
}

#[derive(Debug, Clone, Copy)]
enum Frame {
    Preface(u8),
    Head {
        bytes: [u8; 9],
        have: usize,
    },
    /// A frame without header fields, or padding.
    Skipped(u32),
    /// The length of the padding.
    PadLength {
        left: u32,
        flags: u8,
    },
    /// Dependency and weight.
    Priority {
        skip: u32,
        left: u32,
        pad: u32,
        end: bool,
    },
    Fields {
        left: u32,
        pad: u32,
        end: bool,
    },
    /// Nothing more is looked at.
    Off,
}

#[derive(Debug, Clone, Copy)]
enum Block {
    /// Before a field.
    Start,
    Integer {
        value: u32,
        shift: u32,
        of: Of,
    },
    /// Before a string.
    Length {
        name: bool,
    },
    Text {
        left: u32,
        at: usize,
        name: bool,
        plain: bool,
    },
}

/// What an integer is.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// A field that is in a table, or the size of one.
    Nothing,
    NameIndex,
    Length {
        name: bool,
        plain: bool,
    },
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            frame: Frame::Preface(PREFACE),
            block: Block::Start,
            authority: false,
        }
    }

    /// Overwrites what has to be, in the bytes that were read next.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if matches!(self.frame, Frame::Off) {
                return;
            }
            self.frame = self.step(byte);
        }
    }

    fn step(&mut self, byte: &mut u8) -> Frame {
        match self.frame {
            Frame::Preface(1) => head(),
            Frame::Preface(left) => Frame::Preface(left - 1),
            Frame::Head { mut bytes, have } => {
                bytes[have] = *byte;
                if have + 1 < bytes.len() {
                    return Frame::Head {
                        bytes,
                        have: have + 1,
                    };
                }
                begin(bytes)
            }
            Frame::Skipped(left) => skipped(left - 1),
            Frame::PadLength { left, flags } => {
                let pad = u32::from(*byte);
                fields(left - 1, pad, flags)
            }
            Frame::Priority {
                skip: 1,
                left,
                pad,
                end,
            } => within(left, pad, end),
            Frame::Priority {
                skip,
                left,
                pad,
                end,
            } => Frame::Priority {
                skip: skip - 1,
                left,
                pad,
                end,
            },
            Frame::Fields { left, pad, end } => {
                match self.field(byte) {
                    Some(block) => self.block = block,
                    None => return Frame::Off,
                }
                if left > 1 {
                    return Frame::Fields {
                        left: left - 1,
                        pad,
                        end,
                    };
                }
                if end && !matches!(self.block, Block::Start) {
                    return Frame::Off;
                }
                skipped(pad)
            }
            Frame::Off => Frame::Off,
        }
    }

    /// One byte of a header block (RFC 7541 §6); `None` when it is not understood.
    fn field(&mut self, byte: &mut u8) -> Option<Block> {
        match self.block {
            Block::Start => {
                self.authority = false;
                let (bits, of) = match *byte {
                    0x80.. => (7, Of::Nothing),
                    0x40..0x80 => (6, Of::NameIndex),
                    0x20..0x40 => (5, Of::Nothing),
                    _ => (4, Of::NameIndex),
                };
                self.integer(*byte, bits, of)
            }
            Block::Integer { value, shift, of } => {
                let part = u32::from(*byte & 0x7f).checked_shl(shift)?;
                let value = value.checked_add(part)?;
                if *byte & 0x80 == 0 {
                    return Some(self.integer_read(value, of));
                }
                (shift < 21).then_some(Block::Integer {
                    value,
                    shift: shift + 7,
                    of,
                })
            }
            Block::Length { name } => {
                let plain = *byte & 0x80 == 0;
                self.integer(*byte, 7, Of::Length { name, plain })
            }
            Block::Text {
                left,
                at,
                name,
                plain,
            } => {
                if name {
                    self.authority &= plain && NAME.get(at) == Some(byte);
                } else if self.authority && plain && !may_stand(*byte) {
                    *byte = b'-';
                }
                Some(if left > 1 {
                    Block::Text {
                        left: left - 1,
                        at: at + 1,
                        name,
                        plain,
                    }
                } else {
                    after_text(name)
                })
            }
        }
    }

    /// The first byte of an integer with a prefix of `bits` (RFC 7541 §5.1).
    fn integer(&mut self, byte: u8, bits: u8, of: Of) -> Option<Block> {
        let mask = u8::MAX >> (8 - bits);
        let value = byte & mask;
        Some(if value == mask {
            Block::Integer {
                value: u32::from(value),
                shift: 0,
                of,
            }
        } else {
            self.integer_read(u32::from(value), of)
        })
    }

    fn integer_read(&mut self, value: u32, of: Of) -> Block {
        match of {
            Of::Nothing => Block::Start,
            Of::NameIndex => {
                self.authority = value == STATIC_INDEX;
                Block::Length { name: value == 0 }
            }
            Of::Length { name, plain } => {
                if name {
                    self.authority = usize::try_from(value) == Ok(NAME.len());
                }
                match value {
                    0 => after_text(name),
                    left => Block::Text {
                        left,
                        at: 0,
                        name,
                        plain,
                    },
                }
            }
        }
    }
}

fn after_text(name: bool) -> Block {
    if name {
        Block::Length { name: false }
    } else {
        Block::Start
    }
}

fn may_stand(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)
}

fn head() -> Frame {
    Frame::Head {
        bytes: [0; 9],
        have: 0,
    }
}

fn skipped(left: u32) -> Frame {
    if left == 0 {
        head()
    } else {
        Frame::Skipped(left)
    }
}

fn begin(bytes: [u8; 9]) -> Frame {
    let left = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
    let (kind, flags) = (bytes[3], bytes[4]);
    match kind {
        HEADERS if flags & PADDED != 0 && left > 0 => Frame::PadLength { left, flags },
        HEADERS => fields(left, 0, flags),
        CONTINUATION => within(left, 0, flags & END_HEADERS != 0),
        _ => skipped(left),
    }
}

/// What follows the length of the padding.
fn fields(left: u32, pad: u32, flags: u8) -> Frame {
    let end = flags & END_HEADERS != 0;
    if flags & PRIORITY == 0 {
        return match left.checked_sub(pad) {
            Some(left) => within(left, pad, end),
            None => Frame::Off,
        };
    }
    match left.checked_sub(pad + 5) {
        Some(left) => Frame::Priority {
            skip: 5,
            left,
            pad,
            end,
        },
        None => Frame::Off,
    }
}

fn within(left: u32, pad: u32, end: bool) -> Frame {
    if left == 0 {
        return skipped(pad);
    }
    Frame::Fields { left, pad, end }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).expect("short");
        [&[0x40, length(name)], name, &[length(value)], value].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frames.concat());
        bytes
    }

    fn rewritten(mut bytes: Vec<u8>) -> Vec<u8> {
        Rewriter::new().apply(&mut bytes);
        bytes
    }

    #[test]
    fn only_the_authority_changes_whatever_it_is_framed_by() {
        let path = literal(b":path", b"/a%2Fb");
        let by_name = literal(b":authority", b"tmp%2Fx.sock");
        let by_index = [&[0x41, 12][..], b"tmp%2Fx.sock"].concat();
        let good = |fields: &[u8]| {
            let text = fields.escape_ascii().to_string();
            text.replace("tmp%2Fx.sock", "tmp-2Fx.sock")
        };
        for authority in [&by_name, &by_index] {
            let fields = [&path[..], authority, &[0x83, 0x20], &path].concat();
            let (first, second) = fields.split_at(fields.len() / 2);
            let padded = [&[3][..], &[0; 5], &fields, b"%%%"].concat();
            for frames in [
                vec![frame(HEADERS, END_HEADERS, &fields)],
                vec![
                    frame(HEADERS, 0, first),
                    frame(CONTINUATION, END_HEADERS, second),
                ],
                vec![frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded)],
                vec![
                    frame(4, 0, &[0; 6]),
                    frame(0, 0, b"%"),
                    frame(HEADERS, 4, &fields),
                ],
            ] {
                let bytes = connection(&frames);
                let expected = good(&bytes);
                let found = rewritten(bytes);
                // A split value is compared by its parts: neither has a `%` of the authority left.
                if frames.len() == 2 && frames[1][3] == CONTINUATION {
                    assert_eq!(found.iter().filter(|b| **b == b'%').count(), 2);
                } else {
                    assert_eq!(found.escape_ascii().to_string(), expected);
                }
            }
        }
    }

    #[test]
    fn what_is_fine_or_not_understood_stays() {
        let huffman = [&[0x41, 0x8c][..], b"tmp%2Fx.sock"].concat();
        for fields in [
            literal(b":authority", b"localhost:80"),
            literal(b":authoritx", b"a%b"),
            literal(b"x", b"%"),
            huffman,
            vec![0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, b'%'],
        ] {
            let bytes = connection(&[frame(HEADERS, END_HEADERS, &fields)]);
            assert_eq!(rewritten(bytes.clone()), bytes, "{}", fields.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_keep_their_length_and_change_only_to_a_dash(
            noise in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(1usize..40, 0..20),
        ) {
            let fields = [literal(b":authority", b"tmp%2Fx"), noise.clone()].concat();
            let bytes = connection(&[frame(HEADERS, 0, &fields), noise]);
            let whole = rewritten(bytes.clone());
            for (before, after) in bytes.iter().zip(&whole) {
                prop_assert!(before == after || *after == b'-');
            }
            let mut pieces = bytes;
            let mut rewriter = Rewriter::new();
            let mut at = 0;
            for cut in cuts {
                let end = (at + cut).min(pieces.len());
                rewriter.apply(&mut pieces[at..end]);
                at = end;
            }
            rewriter.apply(&mut pieces[at..]);
            prop_assert_eq!(pieces, whole);
        }
    }
}
