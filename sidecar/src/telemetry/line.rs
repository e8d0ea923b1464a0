//! One line of the access log: a JSON object, written straight into the worker's buffer.
//!
//! A line of every request is affordable when it costs no allocation and little more than copying its bytes: keys are
//! constants, texts that need no escape are copied whole, and the second of a time is put together once for all lines
//! of that second.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_trace::{Phase, TraceId};
use time::OffsetDateTime;

use super::observe::{Entry, Line};

/// Longest text of one field, bytes.
const MAX_TEXT: usize = 1024;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A key with what stands before its value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// The keys of phases, in order.
const PHASES: [&[u8]; Phase::ALL.len()] = [
    key!("admit"),
    key!("token"),
    key!("introspect"),
    key!("policy"),
    key!("connect"),
    key!("handshake"),
    key!("upstream"),
    key!("response"),
];

/// The second that was written last, as text.
#[derive(Debug)]
pub(super) struct Second {
    unix: u64,
    text: [u8; 20],
}

impl Default for Second {
    fn default() -> Self {
        Self {
            unix: 0,
            text: *b"1970-01-01T00:00:00.",
        }
    }
}

impl Second {
    fn at(&mut self, unix: u64) -> &[u8; 20] {
        if self.unix != unix
            && let Ok(signed) = i64::try_from(unix)
            && let Ok(at) = OffsetDateTime::from_unix_timestamp(signed)
        {
            let text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            );
            if let Ok(text) = text.as_bytes().try_into() {
                (self.unix, self.text) = (unix, text);
            }
        }
        &self.text
    }
}

/// Appends the line of what ended.
pub(super) fn write(out: &mut Vec<u8>, second: &mut Second, entry: &Entry<'_>) {
    let (ended, timeline) = (entry.ended, entry.timeline);
    out.extend_from_slice(b"{\"ts\":\"");
    time(out, second, entry.at);
    out.extend_from_slice(b"\"");
    plain(out, key!("direction"), entry.direction.as_str());
    let protocol = match &ended.line {
        Line::Http(http) => match http.head.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_11 => "HTTP/1.1",
            _ => "HTTP/2",
        },
        Line::Connection => "tcp",
        Line::Handshake { .. } => "tls",
    };
    plain(out, key!("protocol"), protocol);
    if let Line::Http(http) = &ended.line {
        let uri = &http.head.uri;
        text(out, key!("method"), http.head.method.as_str().as_bytes());
        let host = uri.authority().map_or("", |a| a.as_str());
        text(out, key!("host"), host.as_bytes());
        text(out, key!("path"), uri.path().as_bytes());
        let status = http.status.map_or(0, |s| s.as_u16().into());
        number(out, key!("status"), status);
        if let Some(code) = http.grpc_status {
            number(out, key!("grpc_status"), code.into());
        }
        if let Some(agent) = http.head.headers.get(http::header::USER_AGENT) {
            text(out, key!("user_agent"), agent.as_bytes());
        }
    }
    if let Some(verdict) = entry.verdict {
        plain(out, key!("reason"), verdict.reason);
        if verdict.id != 0 {
            out.extend_from_slice(key!("decision_id"));
            out.push(b'"');
            hex(out, &verdict.id.to_be_bytes());
            out.push(b'"');
        }
        if let Some(policy) = &verdict.policy {
            text(out, key!("policy"), policy.as_bytes());
        }
        for (key, cached) in [
            (key!("token_cached"), verdict.token_cached),
            (key!("decision_cached"), verdict.decision_cached),
        ] {
            if let Some(cached) = cached {
                out.extend_from_slice(key);
                out.extend_from_slice(if cached { b"true" } else { b"false" });
            }
        }
    }
    // A SPIFFE ID has no character that JSON would have to escape (SPIFFE-ID §2).
    if let Some(peer) = &ended.peer_id {
        plain(out, key!("peer"), peer);
    }
    if let Some(own) = &ended.own_id {
        plain(out, key!("workload"), own);
    }
    if let Some(source) = ended.peer_address {
        out.extend_from_slice(key!("source"));
        out.push(b'"');
        address(out, source);
        out.push(b'"');
    }
    number(out, key!("port"), ended.port.into());
    number(out, key!("sent"), ended.sent);
    number(out, key!("received"), ended.received);
    number(out, key!("duration_us"), micros(timeline.total()));
    out.extend_from_slice(key!("phases_us"));
    out.push(b'{');
    let mut first = true;
    for (phase, _, took) in timeline.phases() {
        // Only the first has no comma before it.
        let key = &PHASES[phase as usize][usize::from(first)..];
        number(out, key, micros(took));
        first = false;
    }
    out.push(b'}');
    if let Some(started) = entry.started {
        trace(out, started.trace);
    }
    if let Some(error) = ended.error {
        plain(out, key!("error"), error);
    }
    out.extend_from_slice(b"}\n");
}

fn time(out: &mut Vec<u8>, second: &mut Second, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.extend_from_slice(second.at(since.as_secs()));
    let mut micros = since.subsec_micros();
    let mut digits = *b"000000Z";
    for digit in digits[..6].iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    out.extend_from_slice(&digits);
}

fn trace(out: &mut Vec<u8>, trace: TraceId) {
    out.extend_from_slice(key!("trace_id"));
    out.push(b'"');
    hex(out, &trace.to_bytes());
    out.push(b'"');
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    decimal(out, value);
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        let pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
        out.extend_from_slice(&pair);
    }
}

fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            for (index, part) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(out, part.into());
            }
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity(48);
            // Writing to a string does not fail.
            let _ = write!(text, "[{ip}]");
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(b':');
    decimal(out, address.port().into());
}

/// A JSON string of our own words, which need no escape.
fn plain(out: &mut Vec<u8>, key: &[u8], value: &str) {
    debug_assert!(!needs_escape(value.as_bytes()), "{value}");
    out.extend_from_slice(key);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// A JSON string. Bytes that are no visible ASCII are escaped as `\u00XX`, so that nothing can break the line.
fn text(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let value = &value[..value.len().min(MAX_TEXT)];
    out.extend_from_slice(key);
    out.push(b'"');
    if needs_escape(value) {
        escape(out, value);
    } else {
        out.extend_from_slice(value);
    }
    out.push(b'"');
}

/// Looks at every byte without a branch: the usual answer is no, and this way sixteen are looked at together.
fn needs_escape(value: &[u8]) -> bool {
    value.iter().fold(false, |found, byte| {
        found | !(0x20..=0x7e).contains(byte) | (*byte == b'"') | (*byte == b'\\')
    })
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => out.push(*byte),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(out, &[*byte]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_one_json_string_without_a_line_break(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut out = b"{\"a\":0".to_vec();
            text(&mut out, key!("x"), &value);
            out.push(b'}');
            prop_assert!(!out.contains(&b'\n'));
            let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let expected: String = value.iter().map(|b| char::from(*b)).collect();
            prop_assert_eq!(read["x"].as_str(), Some(expected.as_str()));
        }

        #[test]
        fn numbers_and_addresses_are_as_the_standard_library_writes_them(value: u64, ip: IpAddr, port: u16) {
            let mut out = Vec::new();
            decimal(&mut out, value);
            prop_assert_eq!(out, value.to_string().into_bytes());
            let mut out = Vec::new();
            let socket = SocketAddr::new(ip, port);
            address(&mut out, socket);
            prop_assert_eq!(out, socket.to_string().into_bytes());
        }

        #[test]
        fn times_are_rfc_3339(micros in 0u64..4_000_000_000_000_000) {
            let at = UNIX_EPOCH + Duration::from_micros(micros);
            let (mut out, mut second) = (Vec::new(), Second::default());
            time(&mut out, &mut second, at);
            let text = String::from_utf8(out).expect("ASCII");
            let read = OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339);
            prop_assert_eq!(read.ok(), Some(OffsetDateTime::from(at)));
        }
    }

    #[test]
    fn phases_are_named_as_everywhere() {
        for phase in Phase::ALL {
            let key = format!(",\"{}\":", phase.as_str());
            assert_eq!(PHASES[phase as usize], key.as_bytes());
        }
    }
}
