//! Looks for input that panics, that reads differently when it arrives in two pieces, or that is written ambiguously.
//!
//! With cargo-fuzz, in `sidecar/http1`:
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none codec -- -max_len=512 -max_total_time=600`.

#![no_main]

use bytes::BytesMut;
use http::Method;
use libfuzzer_sys::fuzz_target;
use mesh_http1::{
    BodyDecoder, BodyLength, Decoded, Limits, detect, encode_request, parse_request, parse_response,
};

// The first byte says where the rest is cut in two.
fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let _ = detect(bytes);

    let request = |pieces: &[&[u8]]| {
        heads(pieces, |buf| {
            parse_request(buf, &limits()).map(|head| head.map(|h| (format!("{h:?}"), h.body)))
        })
    };
    assert_eq!(request(&[bytes]), request(&[first, second]));
    let response = |pieces: &[&[u8]]| {
        heads(pieces, |buf| {
            parse_response(buf, &Method::GET, &limits())
                .map(|head| head.map(|h| (format!("{h:?}"), h.body)))
        })
    };
    assert_eq!(response(&[bytes]), response(&[first, second]));

    if let Ok(Some(head)) = parse_request(&mut BytesMut::from(bytes), &limits()) {
        let mut out = BytesMut::new();
        let target = head.uri.path_and_query().map_or("a:1", |p| p.as_str());
        let host = head.authority.as_ref().map_or("none", |a| a.as_str());
        encode_request(
            &mut out,
            &head.method,
            target,
            Some(host),
            &head.headers,
            head.body,
            head.upgrade.as_ref(),
        );
        let again = parse_request(&mut out, &Limits::default())
            .expect("strict")
            .expect("whole");
        assert!(out.is_empty());
        assert_eq!((&again.method, &again.uri), (&head.method, &head.uri));
        assert!(
            again.body == head.body
                || (head.body, again.body) == (BodyLength::Empty, BodyLength::Length(0))
        );
    }
});

/// Small enough to be reached.
fn limits() -> Limits {
    Limits {
        max_head_bytes: 256,
        max_headers: 6,
        max_target_bytes: 40,
        max_trailer_bytes: 60,
        max_chunk_extension_bytes: 12,
    }
}

/// Everything that is read: the head, the data, the trailers, and how it ended.
fn heads<E: std::fmt::Debug>(
    pieces: &[&[u8]],
    parse: impl Fn(&mut BytesMut) -> Result<Option<(String, BodyLength)>, E>,
) -> (String, Vec<u8>, String) {
    let mut buf = BytesMut::new();
    let mut decoder: Option<BodyDecoder> = None;
    let (mut head, mut data, mut end) = (String::new(), Vec::new(), String::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let Some(decoder) = &mut decoder else {
                match parse(&mut buf) {
                    Ok(Some((text, length))) => {
                        head = text;
                        decoder = Some(BodyDecoder::new(length, &limits()));
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => return (head, data, format!("{error:?}")),
                }
            };
            match decoder.decode(&mut buf) {
                Ok(Decoded::Data(bytes)) => data.extend_from_slice(&bytes),
                Ok(Decoded::Trailers(trailers)) => end = format!("{trailers:?}"),
                Ok(Decoded::End) => return (head, data, end + "ended"),
                Ok(Decoded::NeedMore) => break,
                Err(error) => return (head, data, format!("{error:?}")),
            }
        }
    }
    (head, data, end)
}
