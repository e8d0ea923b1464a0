//! Identifiers of traces and spans (W3C Trace Context §3.2.2): random, never all zero.

use std::cell::Cell;
use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// Two lower-case hexadecimal digits for every byte.
static HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes `bytes` to the beginning of `text`.
pub(crate) fn put_hex(text: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
}

/// A trace's identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// A span's identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// From its 16 bytes; `None` when all are zero.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }

    /// Its 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// Its 32 hexadecimal digits.
    pub fn to_hex(self) -> [u8; 32] {
        let mut text = [0; 32];
        put_hex(&mut text, &self.to_bytes());
        text
    }

    /// The low half, which sampling by ratio looks at.
    pub fn low(self) -> u64 {
        let bytes = self.to_bytes();
        u64::from_be_bytes([
            bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
        ])
    }
}

impl SpanId {
    /// From its 8 bytes; `None` when all are zero.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(Self)
    }

    /// Its 8 bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

/// One worker's identifiers: a generator seeded from the system's randomness. Identifiers need to be distinct, not secret.
#[derive(Debug)]
pub struct IdSource {
    state: Cell<u64>,
}

impl IdSource {
    /// Identifiers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Cell::new(seed),
        }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014): full period, passes statistical tests, five instructions.
    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to 1, 1 excluded.
    pub(crate) fn share(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // 53 bits fit.
        let number = (self.next() >> 11) as f64;
        number / 9_007_199_254_740_992.0
    }

    /// A new trace.
    pub fn trace(&self) -> TraceId {
        loop {
            let number = u128::from(self.next()) << 64 | u128::from(self.next());
            if let Some(number) = NonZeroU128::new(number) {
                return TraceId(number);
            }
        }
    }

    /// A new span.
    pub fn span(&self) -> SpanId {
        loop {
            if let Some(number) = NonZeroU64::new(self.next()) {
                return SpanId(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn identifiers_are_distinct_and_survive_their_bytes() {
        let source = IdSource::new(7);
        let traces: HashSet<_> = (0..10_000).map(|_| source.trace()).collect();
        assert_eq!(traces.len(), 10_000);
        for trace in traces.into_iter().take(10) {
            assert_eq!(TraceId::new(trace.to_bytes()), Some(trace));
        }
        let span = source.span();
        assert_eq!(SpanId::new(span.to_bytes()), Some(span));
        assert_eq!(format!("{span}").len(), 16);
        let trace = source.trace();
        assert_eq!(trace.to_string().as_bytes(), trace.to_hex());
    }

    #[test]
    fn all_zero_is_no_identifier() {
        assert!(TraceId::new([0; 16]).is_none() && SpanId::new([0; 8]).is_none());
    }
}
