//! Request heads: lines, hop-by-hop fields and bounds, one line per case with its reason.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use http::{Method, StatusCode, Version};
use mesh_http1::{Limits, ParseError, RequestHead, parse_request};

fn parse(text: &[u8]) -> Result<RequestHead, ParseError> {
    let mut buf = BytesMut::from(text);
    let head = parse_request(&mut buf, &Limits::default())?
        .unwrap_or_else(|| panic!("incomplete: {:?}", String::from_utf8_lossy(text)));
    assert!(buf.is_empty(), "left over: {buf:?}");
    Ok(head)
}

fn with(fields: &str) -> Result<RequestHead, ParseError> {
    parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
}

#[test]
fn request_lines_have_one_form() {
    use ParseError::{Folding, HeaderName, LineEnd, Method, RequestLine, Version};
    #[rustfmt::skip]
    let cases: &[(&str, Option<ParseError>, &str)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None, "the usual form"),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None, "an empty line before it"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None, "two empty lines before it"),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "three empty lines"),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(LineEnd), "bare LF before it"),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(LineEnd), "bare CR before it"),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Folding), "space before it"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Some(LineEnd), "bare LF after it"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Some(LineEnd), "bare LF after a field"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Some(LineEnd), "bare LF as the empty line"),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", Some(RequestLine), "bare CR after it"),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Some(RequestLine), "CR CR LF"),
        ("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Some(ParseError::Target), "bare CR in the target"),
        ("GET /\r\n\r\n", Some(RequestLine), "HTTP/0.9"),
        ("GET\r\n\r\n", Some(RequestLine), "method alone"),
        ("GET \r\n\r\n", Some(RequestLine), "no target"),
        ("GET  HTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "empty target"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "two spaces"),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "two spaces"),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Some(RequestLine), "space at the end"),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "space in the target"),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "tab as separator"),
        ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "tab as separator"),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "version in small letters"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Some(Version), "unknown minor version"),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Some(Version), "old version"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Some(Version), "major version"),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Some(Version), "two digits"),
        ("GET / HTTP/01.1\r\nHost: a\r\n\r\n", Some(Version), "leading zero"),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", Some(Version), "no minor version"),
        ("PRI * HTTP/2.0\r\n\r\n", Some(Version), "the HTTP/2 preface"),
        ("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", Some(RequestLine), "another protocol"),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "some servers take it for GET"),
        ("Post / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "some servers take it for POST"),
        ("purge / HTTP/1.1\r\nHost: a\r\n\r\n", None, "extension methods are case-sensitive"),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "no token"),
        ("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "NUL"),
        ("\u{feff}GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Method), "byte order mark"),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Some(Folding), "white space before the first field"),
        ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", Some(Folding), "white space before the first field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", Some(Folding), "folded value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Some(HeaderName), "no colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", Some(HeaderName), "empty name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", Some(HeaderName), "space before the colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n", Some(HeaderName), "name is no token"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: y\r\n\r\n", Some(HeaderName), "name is not ASCII"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Some(ParseError::HeaderValue), "bare CR in a value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Some(ParseError::HeaderValue), "NUL in a value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x1bb\r\n\r\n", Some(ParseError::HeaderValue), "escape in a value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: \0\r\n\r\n", Some(ParseError::HeaderValue), "also where not used"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\tb \u{e4}\r\n\r\n", None, "tab and bytes above 0x7f are text"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", None, "empty value"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(text, expected, why)| {
            let got = parse(text.as_bytes()).err();
            (got != *expected)
                .then(|| format!("{text:?}: expected {expected:?} ({why}), got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_token_bytes_make_names_and_only_text_makes_values() {
    for byte in 0..=255_u8 {
        let text = [
            b"GET / HTTP/1.1\r\nHost: a\r\nx",
            &[byte][..],
            b"y: z\r\n\r\n",
        ]
        .concat();
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        // A colon or a line end makes another line of it.
        if byte != b':' {
            assert_eq!(parse(&text).is_ok(), token, "name with {byte:#x}");
        }
        let text = [
            b"GET / HTTP/1.1\r\nHost: a\r\nx: y",
            &[byte][..],
            b"z\r\n\r\n",
        ]
        .concat();
        let value = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        assert_eq!(parse(&text).is_ok(), value, "value with {byte:#x}");
    }
}

#[test]
fn connections_persist_as_version_and_tokens_say() {
    for (version, fields, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection:\r\n", true),
        ("1.1", "Connection: ,,\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Proxy-Connection: keep-alive\r\n", false),
    ] {
        let head =
            parse(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.keep_alive, expected, "HTTP/{version} {fields:?}");
    }
}

#[test]
fn hop_by_hop_fields_end_here() {
    let head = with(
        "Connection: keep-alive, x-one\r\nConnection: X-Two\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         Upgrade: websocket\r\nHTTP2-Settings: AAA\r\nTE: gzip\r\nX-One: 1\r\nX-One: 2\r\nX-Two: 3\r\nX-Three: 4\r\n\
         Trailer: x\r\nTrailers: y\r\n",
    )
    .unwrap();
    let mut names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["trailer", "trailers", "x-three"]);
    assert_eq!(head.upgrade, None, "Connection does not ask for it");

    for te in [
        "trailers",
        "Trailers",
        "gzip, trailers",
        "trailers, deflate;q=0.5",
    ] {
        let head = with(&format!("TE: {te}\r\nConnection: TE\r\n")).unwrap();
        assert_eq!(
            head.headers.get_all("te").iter().collect::<Vec<_>>(),
            ["trailers"],
            "{te:?}"
        );
    }
    for te in ["", "gzip", "chunked", "xtrailers", "trailers;q=0"] {
        assert!(
            !with(&format!("TE: {te}\r\n"))
                .unwrap()
                .headers
                .contains_key("te"),
            "{te:?}"
        );
    }
}

#[test]
fn connection_cannot_remove_what_says_who_calls() {
    for name in [
        "Host",
        "Authorization",
        "Cookie",
        "Content-Length",
        "Transfer-Encoding",
        "X-Forwarded-Client-Cert",
        "x-forwarded-for",
        "Forwarded",
        "Postern-Port",
        "postern-protocol",
        "X-Postern-Peer",
        "X-Envoy-Internal",
        "l5d-client-id",
        "Txn-Token",
    ] {
        for value in [
            name.to_owned(),
            format!("close, {name}"),
            format!("x ,\t{name}, y"),
            name.to_uppercase(),
        ] {
            let error = with(&format!("Connection: {value}\r\n")).unwrap_err();
            assert_eq!(error, ParseError::ConnectionNamesProtected, "{value:?}");
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        }
    }
    for value in ["a b", "a;b", "\"close\"", "a/b", "\u{e4}"] {
        assert_eq!(
            with(&format!("Connection: {value}\r\n")).unwrap_err(),
            ParseError::Connection,
            "{value:?}"
        );
    }
    let many: Vec<_> = (0..33).map(|i| format!("x{i}")).collect();
    assert_eq!(
        with(&format!("Connection: {}\r\n", many.join(","))).unwrap_err(),
        ParseError::Connection
    );
}

#[test]
#[rustfmt::skip]
fn upgrades_are_for_this_hop_and_never_h2c() {
    for (fields, expected) in [
        ("Connection: upgrade\r\nUpgrade: websocket\r\n", Ok(Some("websocket"))),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", Ok(Some("websocket"))),
        ("Connection: upgrade\r\nUpgrade: HTTP/2.0, SHTTP/1.3\r\n", Ok(Some("HTTP/2.0, SHTTP/1.3"))),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n", Ok(None)),
        ("Connection: upgrade\r\nUpgrade: H2C\r\n", Ok(None)),
        ("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n", Ok(Some("websocket"))),
        ("Upgrade: websocket\r\n", Ok(None)),
        ("Connection: upgrade\r\n", Ok(None)),
        ("Connection: upgrade\r\nUpgrade:\r\n", Err(ParseError::Upgrade)),
        ("Connection: upgrade\r\nUpgrade: a b\r\n", Err(ParseError::Upgrade)),
        ("Connection: upgrade\r\nUpgrade: a/b/c\r\n", Err(ParseError::Upgrade)),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", Err(ParseError::Upgrade)),
    ] {
        let got = with(fields).map(|head| {
            assert!(!head.headers.contains_key("upgrade"));
            head.upgrade.map(|value| value.to_str().unwrap().to_owned())
        });
        assert_eq!(got, expected.map(|e| e.map(str::to_owned)), "{fields:?}");
    }
    let old =
        parse(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!((old.version, old.upgrade), (Version::HTTP_10, None));
}

#[test]
#[rustfmt::skip]
fn a_client_waits_for_100_only_with_a_body() {
    for (line, fields, expected) in [
        ("POST / HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
        ("POST / HTTP/1.1", "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("POST / HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
        ("POST / HTTP/1.1", "Expect: 100-continue\r\n", false),
        ("POST / HTTP/1.1", "Expect: other\r\nContent-Length: 1\r\n", false),
        ("POST / HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
    ] {
        let head = parse(format!("{line}\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.expect_continue, expected, "{line} {fields:?}");
        assert!(head.headers.contains_key("expect"));
    }
}

#[test]
fn heads_are_bounded_before_they_are_complete() {
    let limits = Limits {
        max_head_bytes: 256,
        max_headers: 4,
        max_target_bytes: 32,
        ..Limits::default()
    };
    let run =
        |text: &str| parse_request(&mut BytesMut::from(text), &limits).map(|head| head.is_some());

    let target = |n: usize| format!("GET /{}", "a".repeat(n));
    assert_eq!(run(&target(31)), Ok(false));
    assert_eq!(
        run(&format!("{} HTTP/1.1\r\nHost: a\r\n\r\n", target(31))),
        Ok(true)
    );
    assert_eq!(
        run(&target(32)),
        Err(ParseError::TargetTooLong),
        "no need to wait for the end of the line"
    );
    assert_eq!(ParseError::TargetTooLong.status(), StatusCode::URI_TOO_LONG);

    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "x: y\r\n".repeat(n));
    assert_eq!(run(&(fields(3) + "\r\n")), Ok(true));
    assert_eq!(run(&fields(4)), Err(ParseError::TooManyHeaders));
    assert_eq!(
        ParseError::TooManyHeaders.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );

    let value = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(n));
    let room = 256 - value(0).len();
    assert_eq!(
        run(&(value(room - 4) + "\r\n\r\n")),
        Ok(true),
        "exactly at the limit"
    );
    assert_eq!(
        run(&(value(room - 3) + "\r\n\r\n")),
        Err(ParseError::HeadTooLarge)
    );
    assert_eq!(run(&value(room - 1)), Ok(false));
    assert_eq!(run(&value(room)), Err(ParseError::HeadTooLarge));

    assert_eq!(run(&"A".repeat(64)), Ok(false));
    assert_eq!(
        run(&"A".repeat(65)),
        Err(ParseError::Method),
        "no method is that long"
    );
    assert_eq!(
        run("GET / HTTP/1.1\r\nHost: a\r\nX: y\n"),
        Err(ParseError::LineEnd),
        "no need to wait for the rest"
    );
    assert_eq!(
        run("\x16\x03\x01"),
        Err(ParseError::Method),
        "TLS on a plaintext port"
    );
}

#[test]
fn what_follows_a_head_stays_in_the_buffer() {
    let mut buf =
        BytesMut::from("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\nrest");
    let first = parse_request(&mut buf, &Limits::default())
        .unwrap()
        .unwrap();
    let second = parse_request(&mut buf, &Limits::default())
        .unwrap()
        .unwrap();
    assert_eq!((first.uri.path(), second.uri.path()), ("/1", "/2"));
    assert_eq!((first.method, &buf[..]), (Method::GET, &b"rest"[..]));
}

#[test]
fn large_heads_within_the_limits_pass() {
    let value = "v".repeat(60 * 1024);
    let head = with(&format!("X: {value}\r\n")).unwrap();
    assert_eq!(head.headers["x"].len(), value.len());
    let many: String = (0..127).map(|i| format!("x{i}: y\r\n")).collect();
    assert_eq!(with(&many).unwrap().headers.len(), 127);
    let same = with(&"x: y\r\n".repeat(127)).unwrap();
    assert_eq!(same.headers.get_all("x").iter().count(), 127);
}
