//! Framing that two parsers could read differently is refused: every spelling of `Transfer-Encoding`,
//! `Content-Length` and chunks that request smuggling has used, with the answer it gets and why.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use http::{Method, StatusCode};
use mesh_http1::{
    BodyDecoder, BodyLength, Decoded, Limits, ParseError, parse_request, parse_response,
};

/// The framing that a POST with these field lines gets, or the status that answers it.
fn request(fields: &str) -> Result<BodyLength, u16> {
    let mut buf =
        BytesMut::from(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
    match parse_request(&mut buf, &Limits::default()) {
        Ok(Some(head)) => Ok(head.body),
        Ok(None) => panic!("incomplete: {fields:?}"),
        Err(error) => Err(error.status().as_u16()),
    }
}

#[track_caller]
fn check(cases: &[(&str, Result<BodyLength, u16>, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(fields, expected, why)| {
            let got = request(fields);
            (got != *expected)
                .then(|| format!("{fields:?}: expected {expected:?} ({why}), got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[rustfmt::skip]
fn transfer_encoding_is_exactly_chunked_or_refused() {
    use BodyLength::{Chunked, Empty};
    check(&[
        ("Transfer-Encoding: chunked", Ok(Chunked), "the one form"),
        ("transfer-encoding:chunked", Ok(Chunked), "no space is needed after the colon"),
        ("TRANSFER-ENCODING: CHUNKED", Ok(Chunked), "codings are case-insensitive"),
        ("Transfer-Encoding: \t chunked \t", Ok(Chunked), "optional white space"),
        ("Transfer-Encoding: identity", Err(501), "withdrawn coding"),
        ("Transfer-Encoding: gzip", Err(501), "unknown coding"),
        ("Transfer-Encoding: gzip, chunked", Err(501), "unknown coding under chunked"),
        ("Transfer-Encoding: identity, chunked", Err(501), "unknown coding under chunked"),
        ("Transfer-Encoding: xchunked", Err(501), "another coding"),
        ("Transfer-Encoding: chunkedx", Err(501), "another coding"),
        ("Transfer-Encoding: chunk", Err(501), "another coding"),
        ("Transfer-Encoding:", Err(400), "empty"),
        ("Transfer-Encoding: ,", Err(400), "empty members"),
        ("Transfer-Encoding: chunked,", Err(400), "empty member after"),
        ("Transfer-Encoding: ,chunked", Err(400), "empty member before"),
        ("Transfer-Encoding: chunked, chunked", Err(400), "chunked twice"),
        ("Transfer-Encoding: chunked, identity", Err(400), "chunked is not last"),
        ("Transfer-Encoding: chunked, gzip", Err(400), "chunked is not last"),
        ("Transfer-Encoding: chunked;q=1", Err(400), "parameter"),
        ("Transfer-Encoding: chunked ;", Err(400), "parameter"),
        ("Transfer-Encoding: \"chunked\"", Err(400), "quoted"),
        ("Transfer-Encoding: 'chunked'", Err(501), "apostrophes are token characters"),
        ("Transfer-Encoding: chunked chunked", Err(400), "space inside"),
        ("Transfer-Encoding: chun ked", Err(400), "space inside"),
        ("Transfer-Encoding: \x0bchunked", Err(400), "vertical tab"),
        ("Transfer-Encoding: \x0cchunked", Err(400), "form feed"),
        ("Transfer-Encoding: chunked\0", Err(400), "NUL"),
        ("Transfer-Encoding: chunked\x7f", Err(400), "DEL"),
        ("Transfer-Encoding: chunked\u{a0}", Err(400), "no-break space"),
        ("Transfer-Encoding: chunked\rX: y", Err(400), "bare CR hides a line"),
        ("Transfer-Encoding: chunked\nX: y", Err(400), "bare LF hides a line"),
        ("Transfer-Encoding : chunked", Err(400), "space before the colon"),
        ("Transfer-Encoding\t: chunked", Err(400), "tab before the colon"),
        (" Transfer-Encoding: chunked", Err(400), "folded into the line before"),
        ("\tTransfer-Encoding: chunked", Err(400), "folded into the line before"),
        ("Transfer-Encoding:\r\n chunked", Err(400), "folded value"),
        ("Transfer-Encoding: gzip\r\n\tchunked", Err(400), "folded value"),
        ("X: y\r\n Transfer-Encoding: chunked", Err(400), "hidden by folding"),
        ("Transfer-Encoding chunked", Err(400), "no colon"),
        ("Transfer\u{00ad}-Encoding: chunked", Err(400), "soft hyphen in the name"),
        ("\u{ff34}ransfer-Encoding: chunked", Err(400), "full-width letter in the name"),
        ("Transfer-\0Encoding: chunked", Err(400), "NUL in the name"),
        ("Transfer\r-Encoding: chunked", Err(400), "CR in the name"),
        ("Transfer Encoding: chunked", Err(400), "space in the name"),
        ("\"Transfer-Encoding\": chunked", Err(400), "quoted name"),
        ("Transfer_Encoding: chunked", Err(400), "alias for CGI and WSGI servers"),
        ("Transfer.Encoding: chunked", Err(400), "alias for CGI and WSGI servers"),
        ("transfer!encoding: chunked", Err(400), "alias for CGI and WSGI servers"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(400), "twice"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Err(400), "twice"),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Err(400), "twice"),
        ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", Err(400), "twice"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Err(400), "both framings"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Err(400), "both framings"),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", Err(400), "both framings"),
        ("Content-Length: 5\r\nTransfer-Encoding: identity", Err(400), "both framings, one unknown"),
        ("Content-Length: 5\r\nTransfer-Encoding:", Err(400), "both framings, one empty"),
        ("X-Transfer-Encoding: chunked", Ok(Empty), "another field"),
        ("Transfer-Encodings: chunked", Ok(Empty), "another field"),
        ("X: Transfer-Encoding: chunked", Ok(Empty), "only a value"),
        ("TE: chunked", Ok(Empty), "what is accepted, not what is sent"),
    ]);
}

#[test]
#[rustfmt::skip]
fn content_length_is_one_decimal_number_or_refused() {
    use BodyLength::{Empty, Length};
    check(&[
        ("Content-Length: 0", Ok(Length(0)), "zero"),
        ("content-length:5", Ok(Length(5)), "no space is needed after the colon"),
        ("Content-Length: \t5 \t", Ok(Length(5)), "optional white space"),
        ("Content-Length: 005", Ok(Length(5)), "leading zeros are decimal digits"),
        ("Content-Length: 18446744073709551615", Ok(Length(u64::MAX)), "the largest"),
        ("Content-Length: 18446744073709551616", Err(400), "overflow by one"),
        ("Content-Length: 99999999999999999999999", Err(400), "overflow"),
        ("Content-Length:", Err(400), "empty"),
        ("Content-Length: ", Err(400), "empty"),
        ("Content-Length: +5", Err(400), "sign"),
        ("Content-Length: -5", Err(400), "sign"),
        ("Content-Length: -0", Err(400), "sign"),
        ("Content-Length: 0x5", Err(400), "hexadecimal"),
        ("Content-Length: a", Err(400), "hexadecimal"),
        ("Content-Length: 5a", Err(400), "trailing letter"),
        ("Content-Length: 5.0", Err(400), "fraction"),
        ("Content-Length: 5e0", Err(400), "exponent"),
        ("Content-Length: 5_0", Err(400), "separator of some languages"),
        ("Content-Length: 5 5", Err(400), "two numbers"),
        ("Content-Length: 5, 5", Err(400), "list of equal numbers"),
        ("Content-Length: 5,6", Err(400), "list"),
        ("Content-Length: 5,", Err(400), "list"),
        ("Content-Length: \"5\"", Err(400), "quoted"),
        ("Content-Length: 5;a=b", Err(400), "parameter"),
        ("Content-Length: \u{0665}", Err(400), "Arabic digit five"),
        ("Content-Length: \x0b5", Err(400), "vertical tab"),
        ("Content-Length: 5\0", Err(400), "NUL"),
        ("Content-Length: 5\r6", Err(400), "bare CR"),
        ("Content-Length: 5\nX: y", Err(400), "bare LF"),
        ("Content-Length : 5", Err(400), "space before the colon"),
        (" Content-Length: 5", Err(400), "folded into the line before"),
        ("Content-Length:\r\n 5", Err(400), "folded value"),
        ("Content-Length: 5\r\n 6", Err(400), "folded value"),
        ("Content_Length: 5", Err(400), "alias for CGI and WSGI servers"),
        ("content.length: 5", Err(400), "alias for CGI and WSGI servers"),
        ("Content-Length: 5\r\nContent-Length: 5", Err(400), "twice, equal"),
        ("Content-Length: 5\r\nContent-Length: 6", Err(400), "twice, different"),
        ("Content-Length: 5\r\ncontent-length: 0", Err(400), "twice, different"),
        ("X-Content-Length: 5", Ok(Empty), "another field"),
        ("Content-Lengths: 5", Ok(Empty), "another field"),
    ]);
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    for value in ["chunked", "identity", "gzip, chunked"] {
        let text = format!("POST / HTTP/1.0\r\nTransfer-Encoding: {value}\r\n\r\n");
        let error =
            parse_request(&mut BytesMut::from(text.as_str()), &Limits::default()).unwrap_err();
        assert_eq!(
            (error, error.status()),
            (ParseError::EncodingInHttp10, StatusCode::BAD_REQUEST)
        );
        let text = format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n");
        let result = parse_response(
            &mut BytesMut::from(text.as_str()),
            &Method::GET,
            &Limits::default(),
        );
        assert_eq!(result.unwrap_err(), ParseError::EncodingInHttp10);
    }
    let twice =
        "POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n";
    let error = parse_request(&mut BytesMut::from(twice), &Limits::default()).unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
}

#[test]
#[rustfmt::skip]
fn connect_cannot_have_content() {
    for (fields, expected) in [
        ("", Ok(BodyLength::Empty)),
        ("Content-Length: 0\r\n", Ok(BodyLength::Empty)),
        ("Content-Length: 1\r\n", Err(ParseError::ConnectBody)),
        ("Transfer-Encoding: chunked\r\n", Err(ParseError::ConnectBody)),
    ] {
        let text = format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{fields}\r\n");
        let got = parse_request(&mut BytesMut::from(text.as_str()), &Limits::default());
        assert_eq!(got.map(|head| head.unwrap().body), expected, "{fields:?}");
    }
}

/// The body and the trailers' names, or the error; the input ends after the bytes given.
fn chunks(text: &[u8], limits: &Limits) -> Result<(Vec<u8>, Vec<String>), ParseError> {
    let mut buf = BytesMut::from(text);
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, limits);
    let (mut body, mut names) = (Vec::new(), Vec::new());
    loop {
        match decoder.decode(&mut buf)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(trailers) => names.extend(trailers.keys().map(ToString::to_string)),
            Decoded::End => return Ok((body, names)),
            Decoded::NeedMore => decoder.eof()?,
        }
    }
}

#[test]
fn chunks_have_one_spelling() {
    use ParseError::{
        ChunkEnd, ChunkExtension, ChunkSize, Folding, HeaderName, HeaderValue, LineEnd,
        UnexpectedEof,
    };
    #[rustfmt::skip]
    let cases: &[(&str, Result<&str, ParseError>, &str)] = &[
        ("0\r\n\r\n", Ok(""), "empty body"),
        ("5\r\nhello\r\n0\r\n\r\n", Ok("hello"), "one chunk"),
        ("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", Ok("hello!"), "two chunks"),
        ("A\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789"), "capital digit"),
        ("a\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789"), "small digit"),
        ("0000000000000005\r\nhello\r\n0\r\n\r\n", Ok("hello"), "sixteen digits"),
        ("000\r\n\r\n", Ok(""), "zeros end the body"),
        ("5;a\r\nhello\r\n0;b=c\r\n\r\n", Ok("hello"), "extensions are skipped"),
        ("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", Ok("hello"), "quoted extension"),
        ("5\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", Err(ChunkEnd), "six bytes where five were announced"),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "seventeen digits"),
        ("\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "no size"),
        (";a\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "no size before the extension"),
        (" 5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "leading space"),
        ("\t5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "leading tab"),
        ("5 \r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "trailing space"),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "space before the extension"),
        ("+5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "sign"),
        ("-5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "sign"),
        ("-0\r\n\r\n", Err(ChunkSize), "sign"),
        ("0x5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "prefix"),
        ("5h\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "suffix"),
        ("5_0\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "separator"),
        ("5.0\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "fraction"),
        ("5,5\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "list"),
        ("g\r\n", Err(ChunkSize), "no hexadecimal digit"),
        ("\0\r\n", Err(ChunkSize), "NUL"),
        ("10000000000000000\r\n", Err(ChunkSize), "overflow"),
        ("ffffffffffffffff\r\n", Err(ChunkSize), "sums with it overflow"),
        ("8000000000000000\r\n", Err(ChunkSize), "negative as a signed number"),
        ("fffffffffffffffff\r\n", Err(ChunkSize), "overflow"),
        ("5\nhello\r\n0\r\n\r\n", Err(ChunkSize), "bare LF after the size"),
        ("5\rhello\r\n0\r\n\r\n", Err(ChunkSize), "bare CR after the size"),
        ("5\r\rhello\r\n0\r\n\r\n", Err(ChunkSize), "CR CR after the size"),
        ("5;a\nhello\r\n0\r\n\r\n", Err(ChunkExtension), "bare LF after an extension"),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", Err(ChunkSize), "bare CR in an extension"),
        ("5;\0\r\nhello\r\n0\r\n\r\n", Err(ChunkExtension), "NUL in an extension"),
        ("5;\"\n\"\r\nhello\r\n0\r\n\r\n", Err(ChunkExtension), "quoted LF"),
        ("5\r\nhello0\r\n\r\n", Err(ChunkEnd), "no CRLF after the data"),
        ("5\r\nhello\n0\r\n\r\n", Err(ChunkEnd), "bare LF after the data"),
        ("5\r\nhello\r0\r\n\r\n", Err(ChunkEnd), "bare CR after the data"),
        ("5\r\nhello!\r\n0\r\n\r\n", Err(ChunkEnd), "more data than announced"),
        ("5\r\nhel\r\n0\r\n\r\n", Err(ChunkEnd), "less data than announced"),
        ("5\r\nhello\r\n", Err(UnexpectedEof), "no last chunk"),
        ("5\r\nhello\r\n0\r\n", Err(UnexpectedEof), "no empty line"),
        ("5\r\nhel", Err(UnexpectedEof), "ends inside a chunk"),
        ("5", Err(UnexpectedEof), "ends inside a size"),
        ("", Err(UnexpectedEof), "nothing at all"),
        ("0\r\n\n", Err(LineEnd), "bare LF as the empty line"),
        ("0\r\nX: y\n\r\n", Err(LineEnd), "bare LF after a trailer"),
        ("0\r\n X: y\r\n\r\n", Err(Folding), "folding in trailers"),
        ("0\r\nX: y\r\n z\r\n\r\n", Err(Folding), "folding in trailers"),
        ("0\r\nX : y\r\n\r\n", Err(HeaderName), "space before the colon"),
        ("0\r\nno colon\r\n\r\n", Err(HeaderName), "no colon"),
        ("0\r\nX: \0\r\n\r\n", Err(HeaderValue), "NUL in a trailer"),
        ("0\r\nHost: \0\r\n\r\n", Err(HeaderValue), "also in a field that is dropped"),
        ("0\r\nContent\0Length: 5\r\n\r\n", Err(HeaderName), "also in a field that is dropped"),
        ("0\r\nContent-Length: 5\r\n\r\n", Ok(""), "framing after the body is dropped"),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(""), "framing after the body is dropped"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(text, expected, why)| {
            let got = chunks(text.as_bytes(), &Limits::default()).map(|(body, _)| body);
            (got != expected.map(|body| body.as_bytes().to_vec()))
                .then(|| format!("{text:?}: expected {expected:?} ({why}), got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn trailers_lose_fields_that_may_not_stand_there() {
    let kept = [
        ("Grpc-Status", "0"),
        ("X-Checksum", "1"),
        ("Server-Timing", "a"),
        ("ETag", "b"),
    ];
    let dropped = [
        "Host",
        "Content-Length",
        "Content_Length",
        "Transfer-Encoding",
        "Transfer.Encoding",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "Content-Encoding",
        "Cache-Control",
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Range",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-For",
        "Forwarded",
        "Postern-Port",
        "X-Postern-Peer",
        "L5d-Client-Id",
    ];
    let mut text = String::from("0\r\n");
    for (name, value) in kept {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    for name in dropped {
        text.push_str(&format!("{name}: x\r\n"));
    }
    text.push_str("\r\n");
    let (_, names) = chunks(text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(
        names,
        ["grpc-status", "x-checksum", "server-timing", "etag"]
    );

    let only_dropped = chunks(b"0\r\nAuthorization: x\r\n\r\n", &Limits::default()).unwrap();
    assert!(
        only_dropped.1.is_empty(),
        "a section without a field that may stay is no section"
    );
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let limits = Limits {
        max_chunk_extension_bytes: 16,
        max_trailer_bytes: 16,
        max_headers: 3,
        ..Limits::default()
    };
    let run = |text: &str| chunks(text.as_bytes(), &limits).map(|_| ());
    assert_eq!(run(&format!("0;{}\r\n\r\n", "a".repeat(15))), Ok(()));
    assert_eq!(
        run(&format!("0;{}\r\n\r\n", "a".repeat(16))),
        Err(ParseError::ChunkExtensionTooLarge)
    );
    assert_eq!(
        run(&"1;abcdefg\r\nx\r\n".repeat(5)),
        Err(ParseError::ChunkExtensionTooLarge),
        "many small chunks, more extension than data"
    );
    let paid = "8;abcdefg\r\n01234567\r\n".repeat(1000) + "0\r\n\r\n";
    assert_eq!(
        run(&paid),
        Ok(()),
        "data pays for extensions, so long bodies with signed chunks pass"
    );

    assert_eq!(
        run("0\r\nabcdef: 123456\r\n\r\n"),
        Ok(()),
        "16 bytes and the empty line"
    );
    assert_eq!(
        run("0\r\nabcdef: 1234567\r\n\r\n"),
        Err(ParseError::TrailersTooLarge)
    );
    assert_eq!(run("0\r\na:\r\nb:\r\nc:\r\n\r\n"), Ok(()));
    assert_eq!(
        run("0\r\na:\r\nb:\r\nc:\r\nd:\r\n"),
        Err(ParseError::TooManyHeaders)
    );
    assert_eq!(
        ParseError::TrailersTooLarge.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
}

#[test]
fn bodies_end_where_their_length_says() {
    let limits = Limits::default();
    for empty in [BodyLength::Empty, BodyLength::Length(0)] {
        let mut decoder = BodyDecoder::new(empty, &limits);
        assert!(decoder.is_end());
        let mut next = BytesMut::from("GET");
        assert_eq!(decoder.decode(&mut next), Ok(Decoded::End));
        assert_eq!((&next[..], decoder.eof()), (&b"GET"[..], Ok(())));
    }

    let mut decoder = BodyDecoder::new(BodyLength::Length(5), &limits);
    let mut buf = BytesMut::from("hel");
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::Data("hel".into())));
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::NeedMore));
    assert!(!decoder.is_end());
    buf.extend_from_slice(b"loGET");
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::Data("lo".into())));
    assert!(
        decoder.is_end(),
        "known as soon as the last byte was returned"
    );
    assert_eq!(decoder.decode(&mut buf), Ok(Decoded::End));
    assert_eq!(buf, "GET");

    let mut decoder = BodyDecoder::new(BodyLength::Length(5), &limits);
    assert_eq!(decoder.eof(), Err(ParseError::UnexpectedEof));
    assert_eq!(
        decoder.decode(&mut BytesMut::from("hello")),
        Err(ParseError::UnexpectedEof),
        "errors stay"
    );

    let mut decoder = BodyDecoder::new(BodyLength::UntilClose, &limits);
    assert_eq!(
        decoder.decode(&mut BytesMut::from("any")),
        Ok(Decoded::Data("any".into()))
    );
    assert_eq!(decoder.decode(&mut BytesMut::new()), Ok(Decoded::NeedMore));
    assert_eq!(
        (decoder.is_end(), decoder.eof(), decoder.is_end()),
        (false, Ok(()), true)
    );
    assert_eq!(decoder.decode(&mut BytesMut::new()), Ok(Decoded::End));
}

#[test]
fn leading_zeros_of_a_length_are_not_passed_on() {
    for (value, expected) in [("0", "0"), ("00", "0"), ("007", "7"), ("70", "70")] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n");
        let head = parse_request(&mut BytesMut::from(text.as_str()), &Limits::default());
        assert_eq!(head.unwrap().unwrap().headers["content-length"], expected);
    }
}
