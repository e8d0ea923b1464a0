//! Netlink's byte layout: messages, attributes, acknowledgements. Knows nothing of what nf_tables means by them.
//!
//! Headers are in host byte order and everything is padded to 4 bytes; nf_tables' own numbers are big-endian.

/// Size of `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;
/// Size of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: an attribute's type without its flags.
const TYPE_MASK: u16 = 0x3fff;

/// `NLMSG_ERROR`: an error, or an acknowledgement when its number is 0.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;

/// Message flags (`NLM_F_*`).
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 0x001;
    pub(crate) const ACK: u16 = 0x004;
    pub(crate) const DUMP_INTERRUPTED: u16 = 0x010;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    /// On an answer: the request was left out of the error.
    pub(crate) const CAPPED: u16 = 0x100;
    /// On an answer: attributes with the kernel's explanation follow.
    pub(crate) const ACK_TLVS: u16 = 0x200;
}

/// Bytes of one or more messages under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    last_message: usize,
}

impl Writer {
    /// Appends a message whose payload is written by `payload`.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        payload: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.last_message = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        payload(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Asks the kernel to acknowledge the message that was written last.
    pub(crate) fn acknowledge_last(&mut self) {
        let at = self.last_message + 6;
        let flags = self.bytes.get_mut(at..at + 2);
        if let Some(bytes @ &mut [low, high]) = flags {
            let flags = u16::from_ne_bytes([low, high]) | flags::ACK;
            bytes.copy_from_slice(&flags.to_ne_bytes());
        }
    }

    /// Appends bytes as they are; the caller keeps to 4-byte steps.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an attribute that holds bytes.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Names, addresses and comments: all far below the 65,535 that the length field can say.
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute that holds a big-endian number.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends an attribute that holds a text and its terminating NUL.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends an attribute that holds the attributes `content` writes.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        content(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// What was written.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// One message of the kernel's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// An object of type `kind`.
    Object {
        /// Message type.
        kind: u16,
        /// The sequence number of the request.
        sequence: u32,
        /// True when the kernel changed the data while it was being dumped.
        interrupted: bool,
        /// The payload.
        payload: &'a [u8],
    },
    /// The request succeeded.
    Ack {
        /// The sequence number of the request.
        sequence: u32,
    },
    /// The end of a dump.
    Done {
        /// The sequence number of the request.
        sequence: u32,
        /// True when the kernel changed the data while it was being dumped.
        interrupted: bool,
    },
    /// The request failed.
    Failed {
        /// The sequence number of the request.
        sequence: u32,
        /// The error number, positive.
        errno: i32,
        /// The kernel's explanation, if it gave one.
        explanation: Option<String>,
    },
}

/// The kernel's answer does not follow netlink's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's netlink answer is cut short or malformed")]
pub(crate) struct Malformed;

/// Splits a datagram into its messages.
pub(crate) fn answers(mut datagram: &[u8]) -> Result<Vec<Answer<'_>>, Malformed> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let header = datagram.get(..MESSAGE_HEADER).ok_or(Malformed)?;
        let length = read_u32(header, 0)? as usize;
        let kind = read_u16(header, 4)?;
        let flags = read_u16(header, 6)?;
        let sequence = read_u32(header, 8)?;
        let payload = datagram.get(MESSAGE_HEADER..length).ok_or(Malformed)?;
        let interrupted = flags & flags::DUMP_INTERRUPTED != 0;
        found.push(match kind {
            ERROR => error_answer(flags, sequence, payload)?,
            DONE => match read_i32(payload, 0).unwrap_or(0) {
                0 => Answer::Done {
                    sequence,
                    interrupted,
                },
                number => Answer::Failed {
                    sequence,
                    errno: number.wrapping_neg(),
                    explanation: explanation(flags, payload.get(4..)),
                },
            },
            kind => Answer::Object {
                kind,
                sequence,
                interrupted,
                payload,
            },
        });
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(found)
}

/// Reads `struct nlmsgerr`: the error number, the request's header, its payload unless capped, then the explanation.
fn error_answer(flags: u16, sequence: u32, payload: &[u8]) -> Result<Answer<'_>, Malformed> {
    let number = read_i32(payload, 0)?;
    if number == 0 {
        return Ok(Answer::Ack { sequence });
    }
    let request = read_u32(payload, 4)? as usize;
    let echoed = if flags & flags::CAPPED == 0 {
        request.max(MESSAGE_HEADER).next_multiple_of(4)
    } else {
        MESSAGE_HEADER
    };
    Ok(Answer::Failed {
        sequence,
        errno: number.wrapping_neg(),
        explanation: explanation(flags, payload.get(4 + echoed..)),
    })
}

/// The text that `NETLINK_EXT_ACK` adds (`NLMSGERR_ATTR_MSG`).
fn explanation(flags: u16, attributes: Option<&[u8]>) -> Option<String> {
    if flags & flags::ACK_TLVS == 0 {
        return None;
    }
    let text = Attributes(attributes?)
        .filter_map(Result::ok)
        .find(|(kind, _)| *kind == 1)?
        .1;
    Some(read_text(text))
}

/// Iterates over `(type, value)` of a run of attributes.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attribute = split_attribute(self.0);
        self.0 = attribute.map_or(&[], |(_, _, rest)| rest);
        Some(
            attribute
                .map(|(kind, value, _)| (kind, value))
                .ok_or(Malformed),
        )
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of type `kind`.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone()
            .filter_map(Result::ok)
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of type `kind`; none if there is no such attribute.
    pub(crate) fn inside(&self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// The big-endian number in the first attribute of type `kind`.
    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The big-endian 64-bit number in the first attribute of type `kind`.
    pub(crate) fn long(&self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The text in the first attribute of type `kind`.
    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(read_text)
    }
}

fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(read_u16(bytes, 0).ok()?);
    let kind = read_u16(bytes, 2).ok()? & TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value, rest))
}

/// A text without its terminating NUL.
pub(crate) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn read_u16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = bytes.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = bytes.get(at..at + 4).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

fn read_i32(bytes: &[u8], at: usize) -> Result<i32, Malformed> {
    read_u32(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_message_starts_with_its_length_type_flags_and_sequence() {
        let mut writer = Writer::default();
        writer.message(0x0a06, flags::REQUEST | flags::CREATE, 7, |w| {
            w.raw(&[1, 0, 0, 0]);
        });
        assert_eq!(
            writer.into_bytes(),
            [
                20, 0, 0, 0, 0x06, 0x0a, 0x01, 0x04, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0
            ]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_the_last_message_is_acknowledged() {
        let mut writer = Writer::default();
        writer.message(1, flags::REQUEST, 0, |_| {});
        writer.message(2, flags::REQUEST, 1, |_| {});
        writer.acknowledge_last();
        let bytes = writer.into_bytes();
        assert_eq!([bytes[6], bytes[16 + 6]], [1, 5]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn attributes_are_padded_but_their_length_is_not() {
        let mut writer = Writer::default();
        writer.text(1, "ab");
        writer.number(2, 0xfedc);
        writer.nested(3, |w| w.attribute(4, &[9]));
        assert_eq!(
            writer.into_bytes(),
            [
                7, 0, 1, 0, b'a', b'b', 0, 0, // text with NUL, one byte of padding
                8, 0, 2, 0, 0, 0, 0xfe, 0xdc, // big-endian number
                12, 0, 3, 0x80, 5, 0, 4, 0, 9, 0, 0,
                0, // nested flag; the inner padding counts
            ]
        );
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut writer = Writer::default();
        writer.text(1, "postern");
        writer.nested(2, |w| w.number(3, 15001));
        let bytes = writer.into_bytes();
        let attributes = Attributes(&bytes);
        assert_eq!(attributes.text(1).as_deref(), Some("postern"));
        assert_eq!(attributes.inside(2).number(3), Some(15001));
        assert_eq!(attributes.number(9), None);
        assert_eq!(attributes.count(), 2);
    }

    #[test]
    fn an_error_carries_its_number_and_the_kernels_explanation() {
        for capped in [true, false] {
            let mut writer = Writer::default();
            let flags = flags::ACK_TLVS | if capped { flags::CAPPED } else { 0 };
            writer.message(ERROR, flags, 5, |w| {
                w.raw(&(-2_i32).to_ne_bytes());
                let mut request = Writer::default();
                request.message(0x0a03, 0, 5, |r| r.raw(&[0; 8]));
                let request = request.into_bytes();
                w.raw(if capped { &request[..16] } else { &request });
                w.text(1, "No such chain type");
            });
            assert_eq!(
                answers(&writer.into_bytes()).unwrap(),
                [Answer::Failed {
                    sequence: 5,
                    errno: 2,
                    explanation: Some("No such chain type".to_owned()),
                }]
            );
        }
    }

    #[test]
    fn several_messages_in_a_datagram_are_all_read() {
        let mut writer = Writer::default();
        writer.message(0x0a03, flags::DUMP_INTERRUPTED, 1, |w| w.raw(&[1, 2, 3, 4]));
        writer.message(DONE, 0, 1, |w| w.raw(&[0; 4]));
        writer.message(ERROR, 0, 2, |w| w.raw(&[0; 20]));
        assert_eq!(
            answers(&writer.into_bytes()).unwrap(),
            [
                Answer::Object {
                    kind: 0x0a03,
                    sequence: 1,
                    interrupted: true,
                    payload: &[1, 2, 3, 4],
                },
                Answer::Done {
                    sequence: 1,
                    interrupted: false,
                },
                Answer::Ack { sequence: 2 },
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_answer_can_cause_a_panic_or_an_endless_loop(bytes: Vec<u8>) {
            let _ = answers(&bytes);
            let _ = Attributes(&bytes).count();
        }

        #[test]
        fn a_cut_message_is_an_error(cut in 1_usize..28) {
            let mut writer = Writer::default();
            writer.message(0x0a03, 0, 1, |w| w.text(1, "postern"));
            let bytes = writer.into_bytes();
            assert_eq!(bytes.len(), 28);
            assert_eq!(answers(&bytes[..cut]), Err(Malformed));
        }
    }
}
