//! One line of the access log: a JSON object, written straight into the worker's buffer.
//!
//! A line of every request is affordable when it costs no allocation and little more than copying its bytes: keys are
//! constants that hold the punctuation around them, texts that need no escape are copied whole, the second of a time and
//! what is said of a connection are put together once, and nothing is asked for room: a buffer that is begun has
//! room for the longest line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_trace::Phase;
use time::OffsetDateTime;

use super::observe::{Ended, EndedHttp, Entry, Line};
use crate::worker::metrics::Direction;

/// Longest text of one field, bytes.
const MAX_TEXT: usize = 1024;
/// Longest line: five texts with every byte escaped, two SPIFFE IDs, and all the rest.
pub(super) const LONGEST: usize = 5 * 6 * MAX_TEXT + 2 * 2048 + 2048;
/// Room for the names of what is a connection's, and for an address.
const KEYS_AND_ADDRESS: usize = 128;

/// A key with what stands before its value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// The key of a text: the quote after it is part of what comes next.
macro_rules! text_key {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// The key of a text after a text.
macro_rules! next_text_key {
    ($name:literal) => {
        concat!("\",\"", $name, "\":\"").as_bytes()
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

/// What stands between the time and what is told: direction and protocol, of which there are few.
macro_rules! kinds {
    ($direction:literal) => {
        [
            concat!(
                "Z\",\"direction\":\"",
                $direction,
                "\",\"protocol\":\"HTTP/1.0\""
            ),
            concat!(
                "Z\",\"direction\":\"",
                $direction,
                "\",\"protocol\":\"HTTP/1.1\""
            ),
            concat!(
                "Z\",\"direction\":\"",
                $direction,
                "\",\"protocol\":\"HTTP/2\""
            ),
            concat!(
                "Z\",\"direction\":\"",
                $direction,
                "\",\"protocol\":\"tcp\""
            ),
            concat!(
                "Z\",\"direction\":\"",
                $direction,
                "\",\"protocol\":\"tls\""
            ),
        ]
    };
}
static INBOUND: [&str; 5] = kinds!("inbound");
static OUTBOUND: [&str; 5] = kinds!("outbound");

/// Two decimal digits for every number below a hundred.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Where a line is written. What does not fit is left out, and the line with it.
pub(super) struct Out<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl<'a> Out<'a> {
    /// Writes from the beginning of `room`, which is for [`LONGEST`].
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, at: 0 }
    }

    /// Bytes that were written; `None`: not all of them fit.
    pub(super) fn finish(self) -> Option<usize> {
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
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.take(bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    fn number(&mut self, key: &[u8], value: u64) {
        self.put(key);
        self.decimal(value);
    }

    fn decimal(&mut self, value: u64) {
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

    fn address(&mut self, address: SocketAddr) {
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
    fn plain(&mut self, key: &[u8], value: &str) {
        debug_assert!(!needs_escape(value.as_bytes()), "{value}");
        self.put(key);
        self.put(value.as_bytes());
    }

    /// A text without its quotes. Bytes that are no visible ASCII are escaped as `\u00XX`, so that nothing can break the
    /// line.
    fn text(&mut self, key: &[u8], value: &[u8]) {
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

/// What was said before and will be again.
#[derive(Debug, Default)]
pub(super) struct Said {
    second: Second,
    ends: Ends,
}

/// Who is at both ends of the connections that lines were of lately, as text.
#[derive(Debug)]
struct Ends([Option<End>; ENDS]);

#[derive(Debug)]
struct End {
    /// Held, so that another identity cannot be at their places.
    peer_id: Option<Arc<str>>,
    own_id: Option<Arc<str>>,
    peer_address: Option<SocketAddr>,
    text: Vec<u8>,
}

/// Connections that are told apart.
const ENDS: usize = 64;

impl Default for Ends {
    fn default() -> Self {
        Self([const { None }; ENDS])
    }
}

impl Ends {
    /// The fields of an entry that are its connection's.
    fn of(&mut self, ended: &Ended<'_>) -> &[u8] {
        let place = |id: &Option<Arc<str>>| id.as_ref().map_or(0, |id| id.as_ptr() as usize);
        let port = ended.peer_address.map_or(0, |a| usize::from(a.port()));
        let slot = &mut self.0[(port ^ place(&ended.peer_id) >> 5) % ENDS];
        let is_it = slot.as_ref().is_some_and(|end| {
            place(&end.peer_id) == place(&ended.peer_id)
                && place(&end.own_id) == place(&ended.own_id)
                && end.peer_address == ended.peer_address
        });
        if !is_it {
            *slot = Some(End::new(ended));
        }
        slot.as_ref().map_or(&[], |end| &end.text)
    }
}

impl End {
    fn new(ended: &Ended<'_>) -> Self {
        let length = |id: &Option<Arc<str>>| id.as_ref().map_or(0, |id| id.len());
        let longest = length(&ended.peer_id) + length(&ended.own_id) + KEYS_AND_ADDRESS;
        let mut text = vec![0; longest];
        let mut out = Out::new(&mut text);
        // A SPIFFE ID has no character that JSON would have to escape (SPIFFE-ID §2).
        for (key, id) in [
            (text_key!("peer"), &ended.peer_id),
            (text_key!("workload"), &ended.own_id),
        ] {
            if let Some(id) = id {
                out.plain(key, id);
                out.put(b"\"");
            }
        }
        if let Some(source) = ended.peer_address {
            out.put(text_key!("source"));
            out.address(source);
            out.put(b"\"");
        }
        let length = out.finish().unwrap_or(0);
        text.truncate(length);
        Self {
            peer_id: ended.peer_id.clone(),
            own_id: ended.own_id.clone(),
            peer_address: ended.peer_address,
            text,
        }
    }
}

/// The second that was written last, as text.
#[derive(Debug)]
struct Second {
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

/// Writes the line of what ended.
pub(super) fn write(out: &mut Out<'_>, said: &mut Said, entry: &Entry<'_>) {
    let (ended, timeline) = (entry.ended, entry.timeline);
    let Said { second, ends } = said;
    out.put(b"{\"ts\":\"");
    time(out, second, entry.at);
    let kinds = match entry.direction {
        Direction::Inbound => &INBOUND,
        Direction::Outbound => &OUTBOUND,
    };
    let kind = match &ended.line {
        Line::Http(http) => match http.head.version {
            http::Version::HTTP_10 => 0,
            http::Version::HTTP_11 => 1,
            _ => 2,
        },
        Line::Connection => 3,
        Line::Handshake { .. } => 4,
    };
    out.put(kinds[kind].as_bytes());
    if let Line::Http(http) = &ended.line {
        request(out, http);
    }
    verdict(out, entry);
    out.put(ends.of(ended));
    out.number(key!("port"), ended.port.into());
    out.number(key!("sent"), ended.sent);
    out.number(key!("received"), ended.received);
    out.number(key!("duration_us"), timeline.total_nanos() / 1_000);
    out.put(b",\"phases_us\":{");
    let mut first = true;
    for (key, nanos) in PHASES.iter().zip(timeline.nanos()) {
        if *nanos > 0 {
            // Only the first has no comma before it.
            out.number(&key[usize::from(first)..], nanos / 1_000);
            first = false;
        }
    }
    out.put(b"}");
    if let Some(started) = entry.started {
        out.put(text_key!("trace_id"));
        out.put(&started.trace.to_hex());
        out.put(b"\"");
    }
    if let Some(error) = ended.error {
        out.plain(text_key!("error"), error);
        out.put(b"\"");
    }
    out.put(b"}\n");
}

fn request(out: &mut Out<'_>, http: &EndedHttp<'_>) {
    let uri = &http.head.uri;
    let host = uri.authority().map_or("", |a| a.as_str());
    out.text(text_key!("method"), http.head.method.as_str().as_bytes());
    out.text(next_text_key!("host"), host.as_bytes());
    out.text(next_text_key!("path"), uri.path().as_bytes());
    let status = http.status.map_or(0, |s| s.as_u16().into());
    out.number(b"\",\"status\":", status);
    if let Some(code) = http.grpc_status {
        out.number(key!("grpc_status"), code.into());
    }
    if let Some(agent) = http.head.headers.get(http::header::USER_AGENT) {
        out.text(text_key!("user_agent"), agent.as_bytes());
        out.put(b"\"");
    }
}

fn verdict(out: &mut Out<'_>, entry: &Entry<'_>) {
    let Some(verdict) = entry.verdict else {
        return;
    };
    out.plain(text_key!("reason"), verdict.reason);
    if verdict.id != 0 {
        out.put(next_text_key!("decision_id"));
        out.put(format!("{:016x}", verdict.id).as_bytes());
    }
    if let Some(policy) = &verdict.policy {
        out.text(next_text_key!("policy"), policy.as_bytes());
    }
    out.put(b"\"");
    for (key, cached) in [
        (key!("token_cached"), verdict.token_cached),
        (key!("decision_cached"), verdict.decision_cached),
    ] {
        if let Some(cached) = cached {
            out.put(key);
            out.put(if cached { b"true" } else { b"false" });
        }
    }
}

fn time(out: &mut Out<'_>, second: &mut Second, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.put(second.at(since.as_secs()));
    let micros = since.subsec_micros() as usize;
    for pair in [micros / 10_000, micros / 100 % 100, micros % 100] {
        out.put(&PAIRS[pair]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Out<'_>)) -> Vec<u8> {
        let mut room = vec![0; LONGEST];
        let mut out = Out::new(&mut room);
        write(&mut out);
        let length = out.finish().expect("it fits");
        room.truncate(length);
        room
    }

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

        #[test]
        fn times_are_rfc_3339(micros in 0u64..4_000_000_000_000_000) {
            let at = UNIX_EPOCH + Duration::from_micros(micros);
            let out = written(|out| {
                time(out, &mut Second::default(), at);
                out.put(b"Z");
            });
            let text = String::from_utf8(out).expect("ASCII");
            let read = OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339);
            prop_assert_eq!(read.ok(), Some(OffsetDateTime::from(at)));
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

    #[test]
    fn what_is_a_connections_is_said_of_no_other() {
        let ids: Vec<Option<Arc<str>>> = vec![
            None,
            Some("spiffe://a/b".into()),
            Some("spiffe://a/c".into()),
        ];
        let addresses = [
            None,
            Some(([10, 0, 0, 1], 5).into()),
            Some(([10, 0, 0, 2], 21).into()),
        ];
        let mut ends = Ends::default();
        for _ in 0..2 {
            for (peer, own) in ids
                .iter()
                .flat_map(|peer| ids.iter().map(move |own| (peer, own)))
            {
                for address in addresses {
                    let ended = Ended {
                        line: Line::Connection,
                        peer_address: address,
                        port: 0,
                        peer_id: peer.clone(),
                        own_id: own.clone(),
                        sent: 0,
                        received: 0,
                        error: None,
                    };
                    let text = String::from_utf8(ends.of(&ended).to_vec()).expect("ASCII");
                    let read: serde_json::Value =
                        serde_json::from_str(&format!("{{\"a\":0{text}}}")).expect("JSON");
                    let address = address.map(|a: SocketAddr| a.to_string());
                    for (key, expected) in [
                        ("peer", peer.as_deref()),
                        ("workload", own.as_deref()),
                        ("source", address.as_deref()),
                    ] {
                        assert_eq!(read.get(key).and_then(|v| v.as_str()), expected, "{key}");
                    }
                }
            }
        }
    }

    #[test]
    fn phases_are_named_as_everywhere() {
        for phase in Phase::ALL {
            let key = format!(",\"{}\":", phase.as_str());
            assert_eq!(PHASES[phase as usize], key.as_bytes());
        }
        for (direction, kinds) in [
            (Direction::Inbound, INBOUND),
            (Direction::Outbound, OUTBOUND),
        ] {
            let said = format!("\"direction\":\"{}\"", direction.as_str());
            assert!(kinds.iter().all(|kind| kind.contains(&said)));
        }
    }
}
