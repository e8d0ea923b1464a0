//! Where a request belongs: W3C Trace Context (levels 1 and 2) and, where configured, Zipkin's B3.
//!
//! What is malformed is ignored and a new trace begins; it never fails a request. Fields are read from the header map as it
//! is and written in place: nothing is collected into another map.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::id::{SpanId, TraceId, put_hex};

/// W3C parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C vendor state.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Flag: the caller recorded its span.
pub const SAMPLED: u8 = 0x01;
/// Flag: the trace's identifier is random (level 2).
pub const RANDOM: u8 = 0x02;

/// The span that a request belongs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// W3C flags, the known ones.
    pub flags: u8,
}

impl Parent {
    /// Whether the caller recorded its span.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// What a request says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing usable.
    Nothing,
    /// It has a parent.
    Under(Parent),
    /// It has none, but says whether to sample (B3).
    Decided(bool),
}

/// Which formats are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `traceparent` and `tracestate`.
    pub w3c: bool,
    /// `b3` in one header.
    pub b3_single: bool,
    /// `X-B3-*`.
    pub b3_multi: bool,
}

impl Default for Propagation {
    fn default() -> Self {
        Self {
            w3c: true,
            b3_single: false,
            b3_multi: false,
        }
    }
}

impl Propagation {
    /// Reads the context of a request. W3C counts before B3.
    pub fn read(self, headers: &HeaderMap) -> Incoming {
        if self.w3c
            && let Some(parent) = only(headers, &TRACEPARENT).and_then(traceparent)
        {
            return Incoming::Under(parent);
        }
        if self.b3_single
            && let Some(value) = only(headers, &B3)
        {
            return b3_single(value);
        }
        if self.b3_multi {
            return b3_multi(headers);
        }
        Incoming::Nothing
    }

    /// Makes `span` of `trace` the parent of what receives these headers. Without `continues` the vendor state belongs to
    /// a trace that is not this one, and goes.
    pub fn write(
        self,
        headers: &mut HeaderMap,
        trace: TraceId,
        span: SpanId,
        flags: u8,
        continues: bool,
    ) {
        if self.w3c {
            let text = write_traceparent(trace, span, flags);
            if let Ok(mut value) = HeaderValue::from_bytes(&text) {
                once(&mut value);
                headers.insert(TRACEPARENT, value);
            }
            if !continues {
                headers.remove(TRACESTATE);
            }
        }
        let sampled = if flags & SAMPLED == 0 { "0" } else { "1" };
        if self.b3_single
            && let Ok(mut value) = HeaderValue::try_from(format!("{trace}-{span}-{sampled}"))
        {
            once(&mut value);
            headers.insert(B3, value);
        }
        if self.b3_multi
            && let (Ok(mut trace), Ok(mut span)) = (
                HeaderValue::try_from(trace.to_string()),
                HeaderValue::try_from(span.to_string()),
            )
        {
            once(&mut trace);
            once(&mut span);
            headers.insert(B3_TRACE, trace);
            headers.insert(B3_SPAN, span);
            headers.remove(B3_PARENT);
            headers.remove(B3_FLAGS);
            headers.insert(B3_SAMPLED, HeaderValue::from_static(sampled));
        }
    }
}

/// Keeps a value that never comes again out of HPACK's dynamic table (RFC 7541 §6.2.3), where it would push out those that
/// do: forty requests fill it. (Leaving one of many there, for its name, is no gain: the h2 crate compares a field with all
/// that have its name.)
fn once(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let value = headers.get(name)?;
    // Mostly no name is there twice, and nothing has to be found again.
    let is_only =
        headers.len() == headers.keys_len() || headers.get_all(name).iter().nth(1).is_none();
    is_only.then_some(value.as_bytes())
}

/// `00-<trace>-<span>-<flags>`; of later versions the part that is known.
fn traceparent(text: &[u8]) -> Option<Parent> {
    if text.len() < 55 || text[2] != b'-' || text[35] != b'-' || text[52] != b'-' {
        return None;
    }
    let [version] = hex(&text[..2])?;
    match version {
        0xff => return None,
        0 if text.len() != 55 => return None,
        _ if text.len() > 55 && text[55] != b'-' => return None,
        _ => {}
    }
    let [flags] = hex(&text[53..55])?;
    Some(Parent {
        trace: TraceId::new(hex(&text[3..35])?)?,
        span: SpanId::new(hex(&text[36..52])?)?,
        flags: flags & (SAMPLED | RANDOM),
    })
}

fn write_traceparent(trace: TraceId, span: SpanId, flags: u8) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    put_hex(&mut text[3..], &trace.to_bytes());
    put_hex(&mut text[36..], &span.to_bytes());
    put_hex(&mut text[53..], &[flags]);
    text
}

/// `<trace>-<span>[-<sampling>[-<parent>]]`, or a sampling state alone.
fn b3_single(text: &[u8]) -> Incoming {
    let mut parts = text.split(|b| *b == b'-');
    let (Some(first), second) = (parts.next(), parts.next()) else {
        return Incoming::Nothing;
    };
    let Some(second) = second else {
        return match first {
            b"0" => Incoming::Decided(false),
            b"1" | b"d" => Incoming::Decided(true),
            _ => Incoming::Nothing,
        };
    };
    let flags = match parts.next() {
        None => RECORD_UNKNOWN,
        Some(b"0") => 0,
        Some(b"1" | b"d") => SAMPLED,
        Some(_) => return Incoming::Nothing,
    };
    match b3_ids(first, second) {
        Some((trace, span)) => Incoming::Under(Parent { trace, span, flags }),
        None => Incoming::Nothing,
    }
}

/// B3 without a sampling state defers to us; taken as sampled so that the trace is not torn.
const RECORD_UNKNOWN: u8 = SAMPLED;

fn b3_multi(headers: &HeaderMap) -> Incoming {
    let sampled = match (only(headers, &B3_FLAGS), only(headers, &B3_SAMPLED)) {
        (Some(b"1"), _) | (_, Some(b"1" | b"true")) => Some(true),
        (_, Some(b"0" | b"false")) => Some(false),
        _ => None,
    };
    let ids = only(headers, &B3_TRACE)
        .zip(only(headers, &B3_SPAN))
        .and_then(|(trace, span)| b3_ids(trace, span));
    match (ids, sampled) {
        (Some((trace, span)), sampled) => Incoming::Under(Parent {
            trace,
            span,
            flags: match sampled {
                Some(true) => SAMPLED,
                Some(false) => 0,
                None => RECORD_UNKNOWN,
            },
        }),
        (None, Some(sampled)) => Incoming::Decided(sampled),
        (None, None) => Incoming::Nothing,
    }
}

/// B3 identifiers; a trace of 64 bits is padded on the left.
fn b3_ids(trace: &[u8], span: &[u8]) -> Option<(TraceId, SpanId)> {
    let lower = |text: &[u8]| text.to_ascii_lowercase();
    let trace = match trace.len() {
        32 => hex(&lower(trace))?,
        16 => {
            let low: [u8; 8] = hex(&lower(trace))?;
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&low);
            bytes
        }
        _ => return None,
    };
    Some((TraceId::new(trace)?, SpanId::new(hex(&lower(span))?)?))
}

/// What a lower-case hexadecimal digit stands for; [`NO_DIGIT`] for anything else.
static DIGITS: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};
const NO_DIGIT: u8 = 0xff;

/// Exactly `N` bytes in lower-case hexadecimal. Every digit is looked at without a branch and judged with all others.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut wrong = 0;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        wrong |= high | low;
        *byte = high << 4 | low & 15;
    }
    (wrong < 16).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn traceparents_are_read_or_ignored_by_the_letter() {
        let cases = [
            (format!("00-{TRACE}-{SPAN}-01"), Some(1)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(0)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(3)),
            (format!("00-{TRACE}-{SPAN}-ff"), Some(3)),
            (format!("cc-{TRACE}-{SPAN}-01-what-will-come"), Some(1)),
            (format!("cc-{TRACE}-{SPAN}-01"), Some(1)),
            (format!("cc-{TRACE}-{SPAN}-01.x"), None),
            (format!("00-{TRACE}-{SPAN}-01-x"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00_{TRACE}-{SPAN}-01"), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (String::new(), None),
        ];
        for (text, flags) in cases {
            let read = Propagation::default().read(&headers(&[("traceparent", &text)]));
            match flags {
                Some(flags) => {
                    let Incoming::Under(parent) = read else {
                        panic!("{text}: {read:?}")
                    };
                    assert_eq!(parent.flags, flags, "{text}");
                    assert_eq!(parent.trace.to_string(), TRACE);
                    assert_eq!(parent.span.to_string(), SPAN);
                }
                None => assert_eq!(read, Incoming::Nothing, "{text}"),
            }
        }
    }

    #[test]
    fn a_parent_that_is_named_twice_is_no_parent() {
        let mut twice = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]);
        twice.append(
            TRACEPARENT,
            HeaderValue::from_str(&format!("00-{TRACE}-{SPAN}-01")).unwrap(),
        );
        assert_eq!(Propagation::default().read(&twice), Incoming::Nothing);
    }

    #[test]
    fn b3_is_read_only_where_it_is_configured() {
        let single = Propagation {
            b3_single: true,
            ..Propagation::default()
        };
        let multi = Propagation {
            b3_multi: true,
            ..Propagation::default()
        };
        let full = format!("{TRACE}-{SPAN}-1-{SPAN}");
        assert_eq!(
            Propagation::default().read(&headers(&[("b3", &full)])),
            Incoming::Nothing
        );
        let cases = [
            (full.as_str(), Some(true)),
            (&format!("{TRACE}-{SPAN}-0"), Some(false)),
            (&format!("{TRACE}-{SPAN}-d"), Some(true)),
            (&format!("{}-{SPAN}-1", &TRACE[16..]), Some(true)),
            (&format!("{TRACE}-{SPAN}-x"), None),
            (&format!("{TRACE}x-{SPAN}-1"), None),
        ];
        for (text, sampled) in cases {
            match (single.read(&headers(&[("b3", text)])), sampled) {
                (Incoming::Under(parent), Some(sampled)) => {
                    assert_eq!(parent.is_sampled(), sampled, "{text}");
                }
                (Incoming::Nothing, None) => {}
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
        assert_eq!(
            single.read(&headers(&[("b3", "0")])),
            Incoming::Decided(false)
        );
        let read = multi.read(&headers(&[
            ("x-b3-traceid", &TRACE[16..]),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "0"),
        ]));
        let Incoming::Under(parent) = read else {
            panic!("{read:?}")
        };
        assert_eq!(
            parent.trace.to_string(),
            format!("{}{}", "0".repeat(16), &TRACE[16..])
        );
        assert!(!parent.is_sampled());
    }

    #[test]
    fn a_new_trace_takes_no_vendor_state_along() {
        let ids = crate::IdSource::new(1);
        let mut map = headers(&[("traceparent", "garbage"), ("tracestate", "a=b")]);
        let (trace, span) = (ids.trace(), ids.span());
        Propagation::default().write(&mut map, trace, span, SAMPLED, false);
        assert_eq!(map["traceparent"], format!("00-{trace}-{span}-01").as_str());
        assert!(map["traceparent"].is_sensitive(), "never indexed");
        assert!(!map.contains_key("tracestate"));
        let mut map = headers(&[("tracestate", "a=b")]);
        Propagation::default().write(&mut map, trace, span, 0, true);
        assert_eq!(map["tracestate"], "a=b");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seed: u64, flags in 0u8..4) {
            let ids = crate::IdSource::new(seed);
            let parent = Parent { trace: ids.trace(), span: ids.span(), flags };
            let mut map = HeaderMap::new();
            Propagation::default().write(&mut map, parent.trace, parent.span, flags, true);
            prop_assert_eq!(Propagation::default().read(&map), Incoming::Under(parent));
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(0x20u8..0x7f, 0..80)) {
            let value = HeaderValue::from_bytes(&text).unwrap();
            let all = Propagation { w3c: true, b3_single: true, b3_multi: true };
            let map: HeaderMap = [(TRACEPARENT, value.clone()), (B3, value.clone()), (B3_TRACE, value)].into_iter().collect();
            all.read(&map);
        }
    }
}
