//! The attributes of one span, within its limits (OpenTelemetry specification, "Attribute Limits").

use super::cut;
use crate::settings::AttributeLimits;
use crate::wire::Writer;

/// Field numbers of `Span`.
const ATTRIBUTES: u64 = 9;
const DROPPED_ATTRIBUTES: u64 = 10;

/// Writes the attributes of a span. Ends with [`Self::finish`].
pub(super) struct Attributes<'a, 'b> {
    writer: &'a mut Writer<'b>,
    limits: AttributeLimits,
    written: usize,
    dropped: u64,
}

impl<'a, 'b> Attributes<'a, 'b> {
    pub(super) fn new(writer: &'a mut Writer<'b>, limits: AttributeLimits) -> Self {
        Self {
            writer,
            limits,
            written: 0,
            dropped: 0,
        }
    }

    /// A text, cut to its limit.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        if self.has_room() {
            let value = self.limits.cut(cut(value));
            self.writer.text(ATTRIBUTES, key, value);
        }
    }

    /// A whole number.
    pub(super) fn integer(&mut self, key: &str, value: u64) {
        if self.has_room() {
            self.writer.integer(ATTRIBUTES, key, value);
        }
    }

    /// A truth value.
    pub(super) fn boolean(&mut self, key: &str, value: bool) {
        if self.has_room() {
            self.writer.boolean(ATTRIBUTES, key, value);
        }
    }

    /// Says how many there was no room for.
    pub(super) fn finish(self) {
        if self.dropped > 0 {
            self.writer.number(DROPPED_ATTRIBUTES, self.dropped);
        }
    }

    fn has_room(&mut self) -> bool {
        let has_room = self.written < self.limits.count;
        if has_room {
            self.written += 1;
        } else {
            self.dropped += 1;
        }
        has_room
    }
}
