//! What holds for every input: no panic, no dependence on how bytes arrive, nothing ambiguous written, and agreement
//! with a reference that is too simple to be wrong.

#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use mesh_http1::{
    BodyDecoder, BodyEncoder, BodyLength, Decoded, Limits, ParseError, detect, encode_request,
    encode_response, parse_request, parse_response,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Small limits, so that generated inputs reach them.
fn limits() -> Limits {
    Limits {
        max_head_bytes: 300,
        max_headers: 6,
        max_target_bytes: 40,
        max_trailer_bytes: 60,
        max_chunk_extension_bytes: 12,
    }
}

/// Everything a reader learns from a request: the head, then the body, and what is left.
fn read_request(pieces: &[&[u8]]) -> (String, Vec<u8>, String) {
    let limits = limits();
    let mut buf = BytesMut::new();
    let mut decoder: Option<BodyDecoder> = None;
    let (mut head, mut body, mut end) = (String::new(), Vec::new(), String::from("open"));
    'pieces: for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let Some(decoder) = &mut decoder else {
                match parse_request(&mut buf, &limits) {
                    Ok(Some(parsed)) => {
                        head = format!("{parsed:?}");
                        decoder = Some(BodyDecoder::new(parsed.body, &limits));
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => return (head, body, format!("head: {error:?}")),
                }
            };
            match decoder.decode(&mut buf) {
                Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
                Ok(Decoded::Trailers(trailers)) => end = format!("{trailers:?}"),
                Ok(Decoded::End) => {
                    assert!(decoder.is_end());
                    end.push_str(", ended");
                    break 'pieces;
                }
                Ok(Decoded::NeedMore) => break,
                Err(error) => return (head, body, format!("body: {error:?}")),
            }
        }
    }
    (head, body, end)
}

/// Requests that are nearly right: whole lines, each picked from good and bad ones, and a body.
fn near_request() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "POST http://a/x HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "\r\nPUT / HTTP/1.1\r\n",
        "\r\n\r\n\r\nPUT / HTTP/1.1\r\n",
        "GET / HTTP/3.0\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET /012345678901234567890123456789012345678901 HTTP/1.1\r\n",
        "get / HTTP/1.1\r\n",
        "GET /\r\n",
    ]);
    let field = select(vec![
        "Host: a\r\n",
        "Host: A:1\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: close, x\r\n",
        "Connection: cookie\r\n",
        "Connection: upgrade\r\nUpgrade: h2c, b\r\n",
        "TE: trailers\r\n",
        "Expect: 100-continue\r\n",
        "X: y\r\n",
        "X: \r\n",
        "X : y\r\n",
        " folded\r\n",
        "X: y\n",
        "X: y\rz\r\n",
        "Cookie: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    ]);
    let tail = select(vec![
        "",
        "abc",
        "abcdef",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET",
        "3;0123456789abcdef\r\nabc\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\nHost: b\r\n\r\n",
        "1\r\na\r\n0\r\nA: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n\r\n",
        "1\na\n0\n\n",
    ]);
    let usual = prop_oneof![3 => Just("Host: a\r\n"), 1 => Just("")];
    (
        line,
        usual,
        vec(field, 0..5),
        select(vec!["\r\n", "\r\n", "\r\n", "\n", ""]),
        tail,
    )
        .prop_map(|(line, usual, fields, blank, tail)| {
            [line, usual, &fields.concat(), blank, tail]
                .concat()
                .into_bytes()
        })
}

/// A position and the byte that is put there.
fn mutated(input: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), select(b"\r\n\0 \t:;,#%@\x7f\xff".to_vec())];
    (
        input,
        vec((any::<prop::sample::Index>(), byte, 0..3_u8), 0..3),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, byte, how) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            bytes
        })
}

/// `bytes` cut at the positions given.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut start = 0;
    let mut pieces = Vec::new();
    for end in at.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[start..end]);
        start = end;
    }
    pieces
}

/// The body of a chunked message and how much input it took, by a reading of RFC 9112 §7.1 without any cleverness.
/// `None` when the input is malformed or incomplete. Trailers are checked for form only.
fn reference_chunked(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let length = input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some((&input[at..at + length], at + length + 2))
    };
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let (size, next) = line(at)?;
        at = next;
        let (digits, extension) = match size.iter().position(|b| *b == b';') {
            Some(semicolon) => size.split_at(semicolon),
            None => (size, &b""[..]),
        };
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        if extension
            .iter()
            .any(|b| *b != b'\t' && (*b < b' ' || *b == 0x7f))
        {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        if input.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let (field, next) = line(at)?;
        at = next;
        if field.is_empty() {
            return Some((body, at));
        }
        let colon = field.iter().position(|b| *b == b':')?;
        HeaderName::from_bytes(&field[..colon]).ok()?;
        HeaderValue::from_bytes(&field[colon + 1..]).ok()?;
    }
}

fn decode_all(
    length: BodyLength,
    input: &[u8],
    limits: &Limits,
) -> Result<(Vec<u8>, HeaderMap, usize), ParseError> {
    let mut buf = BytesMut::from(input);
    let mut decoder = BodyDecoder::new(length, limits);
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match decoder.decode(&mut buf)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(fields) => trailers = fields,
            Decoded::End => return Ok((body, trailers, input.len() - buf.len())),
            Decoded::NeedMore => decoder.eof()?,
        }
    }
}

fn near_chunks() -> impl Strategy<Value = Vec<u8>> {
    let part = select(vec![
        "0\r\n",
        "1\r\na\r\n",
        "5\r\nhello\r\n",
        "0a\r\n0123456789\r\n",
        "3;x\r\nabc\r\n",
        "2\r\n\r\n\r\n",
        "\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "A: b\r\n",
        "1\r\nab\r\n",
        "f\r\n",
        "1\na\n",
        " ",
    ]);
    vec(part, 0..6).prop_map(|parts| parts.concat().into_bytes())
}

fn header_map() -> impl Strategy<Value = HeaderMap> {
    let names = [
        "accept",
        "cookie",
        "x-a",
        "x-b",
        "grpc-status",
        "content-type",
        "x-request-id",
    ];
    vec((select(names.to_vec()), "[!-~]([ -~]{0,20}[!-~])?"), 0..8).prop_map(|fields| {
        fields
            .into_iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(&value).unwrap(),
                )
            })
            .collect()
    })
}

fn body() -> impl Strategy<Value = (BodyLength, Vec<Vec<u8>>)> {
    (vec(vec(any::<u8>(), 0..40), 0..5), any::<bool>()).prop_map(|(pieces, chunked)| {
        let total = pieces.iter().map(Vec::len).sum::<usize>() as u64;
        (
            if chunked {
                BodyLength::Chunked
            } else {
                BodyLength::Length(total)
            },
            pieces,
        )
    })
}

fn write_body(dst: &mut BytesMut, length: BodyLength, pieces: &[Vec<u8>]) {
    let mut encoder = BodyEncoder::new(length);
    for (i, piece) in pieces.iter().enumerate() {
        if i % 2 == 0 {
            encoder.data(dst, piece).unwrap();
        } else {
            let suffix = encoder.chunk_header(dst, piece.len()).unwrap();
            dst.extend_from_slice(piece);
            dst.extend_from_slice(suffix);
        }
    }
    encoder.end(dst, None).unwrap();
}

/// At least 2,000 cases; more with `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(2000),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = detect(&bytes);
        let _ = parse_request(&mut BytesMut::from(&bytes[..]), &limits());
        let _ = parse_response(&mut BytesMut::from(&bytes[..]), &Method::GET, &limits());
        let _ = decode_all(BodyLength::Chunked, &bytes, &limits());
    }

    #[test]
    fn random_responses_never_panic_and_do_not_depend_on_cuts(
        bytes in mutated(select(vec![
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n"[..],
            b"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n",
            b"HTTP/1.1 101 \r\nUpgrade: a/b\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]).prop_map(<[u8]>::to_vec)),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let run = |pieces: &[&[u8]]| {
            let mut buf = BytesMut::new();
            for piece in pieces {
                buf.extend_from_slice(piece);
                match parse_response(&mut buf, &Method::GET, &limits()) {
                    Ok(None) => {}
                    result => return format!("{result:?}"),
                }
            }
            "incomplete".to_owned()
        };
        prop_assert_eq!(run(&[&bytes]), run(&cut(&bytes, &cuts)));
    }

    #[test]
    fn the_reading_does_not_depend_on_how_bytes_arrive(
        bytes in mutated(near_request()),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = read_request(&[&bytes]);
        prop_assert_eq!(&whole, &read_request(&cut(&bytes, &cuts)));
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&whole, &read_request(&single));
    }

    #[test]
    fn what_is_written_has_one_host_one_framing_and_no_bare_line_ends(bytes in mutated(near_request())) {
        let mut buf = BytesMut::from(&bytes[..]);
        if let Ok(Some(head)) = parse_request(&mut buf, &limits()) {
            let mut out = BytesMut::new();
            let target = head.uri.path_and_query().map_or("a:1", |p| p.as_str());
            let host = head.authority.as_ref().map_or("none", |a| a.as_str());
            encode_request(&mut out, &head.method, target, Some(host), &head.headers, head.body, head.upgrade.as_ref());
            let text = String::from_utf8_lossy(&out).to_lowercase();
            let body = text.strip_suffix("\r\n\r\n").expect("ends with an empty line");
            let lines: Vec<_> = body.split("\r\n").collect();
            prop_assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(['\r', '\n', '\0'])), "{text:?}");
            prop_assert!(lines.iter().all(|line| !line.starts_with([' ', '\t'])), "{text:?}");
            let count = |name: &str| lines[1..].iter().filter(|line| line.starts_with(name)).count();
            prop_assert_eq!(count("host:"), 1, "{:?}", text);
            prop_assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{text:?}");
            // Another strict reader takes the same message from it.
            let again = parse_request(&mut out, &Limits::default()).expect("strict").expect("whole");
            let framed = matches!((head.body, again.body), (BodyLength::Empty, BodyLength::Length(0)))
                || head.body == again.body;
            prop_assert!(framed && again.method == head.method && again.uri == head.uri, "{again:?}");
        }
    }

    #[test]
    fn chunks_agree_with_a_naive_reference(bytes in mutated(near_chunks())) {
        let expected = reference_chunked(&bytes);
        let got = decode_all(BodyLength::Chunked, &bytes, &Limits::default()).ok().map(|(body, _, used)| (body, used));
        prop_assert_eq!(got, expected, "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn requests_come_back_as_they_were_written(
        method in select(vec![Method::POST, Method::PUT, Method::from_bytes(b"PURGE").unwrap()]),
        target in "/[a-zA-Z0-9._~/-]{0,20}(\\?[a-z=&]{0,10})?",
        headers in header_map(),
        (length, pieces) in body(),
    ) {
        let mut wire = BytesMut::new();
        encode_request(&mut wire, &method, &target, Some("a.example:80"), &headers, length, None);
        write_body(&mut wire, length, &pieces);
        let head = parse_request(&mut wire, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!((&head.method, head.uri.to_string(), head.body), (&method, target, length));
        prop_assert_eq!(head.authority.unwrap(), "a.example:80");
        let mut left = head.headers;
        left.remove("content-length");
        prop_assert_eq!(left, headers);
        let (body, _, used) = decode_all(length, &wire, &Limits::default()).unwrap();
        prop_assert_eq!((body, used), (pieces.concat(), wire.len()));
    }

    #[test]
    fn responses_come_back_as_they_were_written(
        status in 200..600_u16,
        headers in header_map(),
        (length, pieces) in body(),
        keep_alive in any::<bool>(),
        old in any::<bool>(),
    ) {
        prop_assume!(status != 204 && status != 304);
        let (status, version) = (StatusCode::from_u16(status).unwrap(), if old { Version::HTTP_10 } else { Version::HTTP_11 });
        let framing = length.for_client(version);
        let mut wire = BytesMut::new();
        encode_response(&mut wire, version, status, &headers, length, keep_alive, None);
        write_body(&mut wire, framing, &pieces);
        let head = parse_response(&mut wire, &Method::GET, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!((head.status, head.body), (status, framing));
        prop_assert_eq!(head.keep_alive, keep_alive && framing != BodyLength::UntilClose);
        let mut left = head.headers;
        left.remove("content-length");
        prop_assert_eq!(left, headers);
        let (body, _, used) = decode_all(framing, &wire, &Limits::default()).unwrap();
        prop_assert_eq!((body, used), (pieces.concat(), wire.len()));
    }

    #[test]
    fn targets_and_hosts_written_from_text_cannot_split_the_head(target in any::<String>(), host in any::<String>()) {
        let mut out = BytesMut::new();
        encode_request(&mut out, &Method::GET, &target, Some(&host), &HeaderMap::new(), BodyLength::Empty, None);
        let text = String::from_utf8(out.to_vec()).unwrap();
        prop_assert_eq!(text.matches("\r\n").count(), 3, "{:?}", text);
        prop_assert_eq!(text.split("\r\n").next().unwrap().matches(' ').count(), 2, "{:?}", text);
        prop_assert!(text.replace("\r\n", "").bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text:?}");
    }
}

#[test]
fn writing_more_or_less_than_announced_is_an_error() {
    use mesh_http1::EncodeError::{Ended, TooLong, TooShort};
    let mut dst = BytesMut::new();
    let mut encoder = BodyEncoder::new(BodyLength::Length(3));
    assert_eq!(encoder.data(&mut dst, b"abcd"), Err(TooLong));
    assert_eq!(
        (encoder.data(&mut dst, b"ab"), &dst[..]),
        (Ok(()), &b"ab"[..]),
        "nothing of the excess was written"
    );
    assert_eq!(encoder.end(&mut dst, None), Err(TooShort { missing: 1 }));
    assert_eq!(encoder.data(&mut dst, b"c"), Err(Ended));

    let mut encoder = BodyEncoder::new(BodyLength::Empty);
    assert_eq!(
        (encoder.data(&mut dst, b""), encoder.data(&mut dst, b"x")),
        (Ok(()), Err(TooLong))
    );
    assert_eq!(
        (encoder.end(&mut dst, None), encoder.end(&mut dst, None)),
        (Ok(()), Err(Ended))
    );

    let mut dst = BytesMut::new();
    let mut encoder = BodyEncoder::new(BodyLength::Chunked);
    encoder.data(&mut dst, b"").unwrap();
    assert!(dst.is_empty(), "an empty chunk would end the body");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    trailers.insert("x-forwarded-client-cert", HeaderValue::from_static("x"));
    encoder.end(&mut dst, Some(&trailers)).unwrap();
    assert_eq!(dst, "0\r\ngrpc-status: 0\r\n\r\n");

    let mut dst = BytesMut::new();
    let mut encoder = BodyEncoder::new(BodyLength::UntilClose);
    encoder.data(&mut dst, b"abc").unwrap();
    encoder.end(&mut dst, Some(&trailers)).unwrap();
    assert_eq!(Bytes::from(dst), "abc");
}
