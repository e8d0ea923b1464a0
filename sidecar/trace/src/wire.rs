//! Protocol Buffers' encoding (protobuf.dev, "Encoding"), as far as OTLP needs it: straight into one buffer.
//!
//! Values are written as they are met; nothing is collected into messages first. For a span with its phases that is a
//! fraction of the time and of the allocations.

/// Wire types, as part of a tag.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Fields of `KeyValue` and `AnyValue`.
const KEY: u64 = 1;
const VALUE: u64 = 2;
const STRING_VALUE: u64 = 1;
const BOOL_VALUE: u64 = 2;
const INT_VALUE: u64 = 3;

/// Writes one message.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    /// A string, bytes, or a message that is encoded already.
    pub(crate) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.head(field, value.len());
        self.0.extend_from_slice(value);
    }

    /// The tag and length of a message of `length` bytes, which the caller writes next.
    pub(crate) fn head(&mut self, field: u64, length: usize) {
        self.tag(field, LENGTH);
        self.varint(length as u64);
    }

    /// A number of variable length.
    pub(crate) fn number(&mut self, field: u64, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    /// A number of 64 bits.
    pub(crate) fn fixed64(&mut self, field: u64, value: u64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A number of 32 bits.
    pub(crate) fn fixed32(&mut self, field: u64, value: u32) {
        self.tag(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `KeyValue` with a text.
    pub(crate) fn text(&mut self, field: u64, key: &str, value: &str) {
        let any = size_of_bytes(value.len());
        self.key(field, key, any);
        self.bytes(STRING_VALUE, value.as_bytes());
    }

    /// A `KeyValue` with a whole number.
    pub(crate) fn integer(&mut self, field: u64, key: &str, value: u64) {
        let value = value.min(i64::MAX as u64);
        self.key(field, key, 1 + size_of_varint(value));
        self.number(INT_VALUE, value);
    }

    /// A `KeyValue` with a truth value.
    pub(crate) fn boolean(&mut self, field: u64, key: &str, value: bool) {
        self.key(field, key, 2);
        self.number(BOOL_VALUE, value.into());
    }

    /// All of a `KeyValue` but its `AnyValue`'s `any` bytes.
    fn key(&mut self, field: u64, key: &str, any: usize) {
        self.head(field, size_of_bytes(key.len()) + size_of_bytes(any));
        self.bytes(KEY, key.as_bytes());
        self.head(VALUE, any);
    }
}

/// Bytes that a field below 16 with so many bytes takes, tag and length included.
pub(crate) fn size_of_bytes(length: usize) -> usize {
    1 + size_of_varint(length as u64) + length
}

fn size_of_varint(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use mesh_proto::opentelemetry::proto::common::v1::any_value::Value;
    use mesh_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
    use mesh_proto::opentelemetry::proto::resource::v1::Resource;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        }
    }

    proptest! {
        #[test]
        fn attributes_are_what_the_generated_code_writes(
            key in "[a-z.]{1,200}",
            text in ".{0,300}",
            number in any::<u64>(),
            truth: bool,
        ) {
            let mut out = Vec::new();
            let mut writer = Writer(&mut out);
            writer.text(1, &key, &text);
            writer.integer(1, &key, number);
            writer.boolean(1, &key, truth);
            let expected = Resource {
                attributes: vec![
                    attribute(&key, Value::StringValue(text)),
                    attribute(&key, Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))),
                    attribute(&key, Value::BoolValue(truth)),
                ],
            };
            prop_assert_eq!(out, expected.encode_to_vec());
        }
    }
}
