//! One line of the access log: a JSON object, written straight into the worker's buffer.
//!
//! A line of every request is affordable when it costs no allocation and little more than copying its bytes: keys are
//! constants that hold the punctuation around them, texts that need no escape are copied whole, the second of a time and
//! what is said of a connection are put together once, and nothing is asked for room: a buffer that is begun has
//! room for the longest line.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_trace::Phase;

use super::observe::{EndedHttp, Entry, Line};
use crate::worker::metrics::Direction;

/// Longest line: five texts with every byte escaped, two SPIFFE IDs, and all the rest.
pub(super) const LONGEST: usize = 5 * 6 * MAX_TEXT + 2 * 2048 + 2048;

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

mod out;
mod said;

pub(super) use out::Out;
use out::{MAX_TEXT, PAIRS};
pub(super) use said::Said;
use said::Second;

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
    use time::OffsetDateTime;

    use super::out::written;
    use super::*;

    proptest! {
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
