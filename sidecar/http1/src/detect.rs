//! Tells from the first bytes of a connection what is spoken on it. A guess for routing bytes to the right parser, not a
//! verdict: the parser still refuses what is malformed.

use memchr::memchr;

/// The HTTP/2 connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a first line after which an unknown method is no longer waited for.
const LONGEST_LINE: usize = 4096;
/// Bytes of the longest method that is looked for.
const LONGEST_METHOD: usize = 24;

/// What the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The whole HTTP/2 connection preface.
    Http2Preface,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Unknown,
    /// Too few bytes to tell.
    NeedMore,
}

/// Looks at the first bytes of a connection; answers [`Detected::NeedMore`] only while more bytes could change the answer.
pub fn detect(prefix: &[u8]) -> Detected {
    match prefix.first() {
        None => Detected::NeedMore,
        Some(0x16) => detect_tls(prefix),
        Some(_) => {
            let known = prefix.len().min(PREFACE.len());
            if prefix[..known] == PREFACE[..known] {
                return if known == PREFACE.len() {
                    Detected::Http2Preface
                } else {
                    Detected::NeedMore
                };
            }
            detect_http1(prefix)
        }
    }
}

/// A handshake record (major version 3) that starts with a ClientHello.
fn detect_tls(prefix: &[u8]) -> Detected {
    let plausible = |at: usize, good: fn(u8) -> bool| prefix.get(at).is_none_or(|byte| good(*byte));
    if !plausible(1, |b| b == 3) || !plausible(2, |b| b <= 4) || !plausible(5, |b| b == 1) {
        return Detected::Unknown;
    }
    if prefix.len() < 6 {
        Detected::NeedMore
    } else {
        Detected::Tls
    }
}

/// A method in capitals, a space, and the start of a target. Text protocols share that much (`GET key` of memcached,
/// `EHLO host` of SMTP), so anything but a registered method before `/` or `*` must show its version first.
fn detect_http1(prefix: &[u8]) -> Detected {
    let method_end = prefix
        .iter()
        .position(|b| !(b.is_ascii_uppercase() || *b == b'-'));
    let Some(method_end) = method_end else {
        return if prefix.len() > LONGEST_METHOD {
            Detected::Unknown
        } else {
            Detected::NeedMore
        };
    };
    if method_end == 0 || method_end > LONGEST_METHOD || prefix[method_end] != b' ' {
        return Detected::Unknown;
    }
    let target = &prefix[method_end + 1..];
    match target.first() {
        None => return Detected::NeedMore,
        Some(b'/' | b'*') if is_registered(&prefix[..method_end]) => return Detected::Http1,
        Some(byte) if byte.is_ascii_graphic() => {}
        Some(_) => return Detected::Unknown,
    }
    match memchr(b'\n', target) {
        Some(end) => {
            let line = target[..end].strip_suffix(b"\r").unwrap_or(&target[..end]);
            let versioned = line.len() > 9 && line[..line.len() - 3].ends_with(b" HTTP/");
            if versioned {
                Detected::Http1
            } else {
                Detected::Unknown
            }
        }
        None if target.len() > LONGEST_LINE => Detected::Unknown,
        None => Detected::NeedMore,
    }
}

fn is_registered(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET"
            | b"HEAD"
            | b"POST"
            | b"PUT"
            | b"DELETE"
            | b"OPTIONS"
            | b"PATCH"
            | b"TRACE"
            | b"CONNECT"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        use Detected::{Http1, Http2Preface, NeedMore, Tls, Unknown};
        let cases: &[(&[u8], Detected, &str)] = &[
            (b"", NeedMore, "nothing yet"),
            (b"G", NeedMore, "could be GET"),
            (b"GET", NeedMore, "could be GET"),
            (b"GET ", NeedMore, "target missing"),
            (b"GET /", Http1, "registered method and a path"),
            (b"OPTIONS *", Http1, "asterisk form"),
            (
                b"GET http://a/ HTTP/1.1\r\n",
                Http1,
                "absolute form with its version",
            ),
            (b"GET http://a/", NeedMore, "absolute form, version to come"),
            (b"CONNECT a:1 HTTP/1.1\r\n", Http1, "authority form"),
            (
                b"PURGE /x HTTP/1.1\r\n",
                Http1,
                "extension method with version",
            ),
            (b"PURGE /x", NeedMore, "extension method, version to come"),
            (b"M-SEARCH * HTTP/1.1\r\n", Http1, "hyphen in a method"),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                Http2Preface,
                "whole preface",
            ),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
                Http2Preface,
                "preface and a frame",
            ),
            (b"PRI * HTTP/2.0\r\n", NeedMore, "part of the preface"),
            (
                b"PRI * HTTP/1.1\r\n\r\n",
                Http1,
                "not the preface; the parser decides",
            ),
            (b"P", NeedMore, "POST or PRI"),
            (b"PO", NeedMore, "POST"),
            (b"POST /", Http1, "POST"),
            (&[0x16], NeedMore, "could be TLS"),
            (&[0x16, 3, 1, 0, 5], NeedMore, "could be TLS"),
            (&[0x16, 3, 1, 0, 5, 1], Tls, "ClientHello"),
            (
                &[0x16, 3, 1, 0, 5, 2],
                Unknown,
                "ServerHello is no client's first message",
            ),
            (&[0x16, 2], Unknown, "SSL 2"),
            (&[0x17, 3, 3], Unknown, "application data"),
            (b"\x04", Unknown, "MQTT or the like"),
            (b"EHLO host\r\n", Unknown, "SMTP"),
            (b"GET key\r\n", Unknown, "Redis or memcached"),
            (b"PING\r\n", Unknown, "Redis inline"),
            (b"*1\r\n$4\r\nPING\r\n", Unknown, "Redis"),
            (b"get /x HTTP/1.1\r\n", Unknown, "methods are capitals"),
            (b"SSH-2.0-x\r\n", Unknown, "SSH"),
            (b"GET  /", Unknown, "two spaces"),
            (
                b"\r\nGET / HTTP/1.1\r\n",
                Unknown,
                "a first line is not empty",
            ),
            (
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                Unknown,
                "longer than any method",
            ),
        ];
        for (bytes, expected, why) in cases {
            assert_eq!(
                detect(bytes),
                *expected,
                "{why}: {:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_answer_once_given_stays() {
        let inputs: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
            &[0x16, 3, 1, 0, 5, 1, 0, 0],
            b"PROPFIND /x HTTP/1.1\r\n\r\n",
            b"USER anonymous\r\n",
        ];
        for input in inputs {
            let mut answer = Detected::NeedMore;
            for end in 0..=input.len() {
                let now = detect(&input[..end]);
                assert!(
                    answer == Detected::NeedMore || now == answer,
                    "{:?}",
                    &input[..end]
                );
                answer = now;
            }
            assert_ne!(answer, Detected::NeedMore);
        }
    }
}
