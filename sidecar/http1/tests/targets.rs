//! Request targets and hosts: which spellings are taken, one line per case with its reason.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use mesh_http1::{BodyLength, Limits, ParseError, RequestHead, parse_request};

fn parse(text: &[u8]) -> Result<RequestHead, ParseError> {
    let head = parse_request(&mut BytesMut::from(text), &Limits::default())?;
    Ok(head.unwrap_or_else(|| panic!("incomplete: {:?}", String::from_utf8_lossy(text))))
}

#[test]
fn targets_have_the_form_of_their_method() {
    use ParseError::{Fragment, Host, Target, UserInfo};
    type Expected = Result<(&'static str, &'static str), ParseError>;
    #[rustfmt::skip]
    let cases: &[(&str, &str, Expected, &str)] = &[
        ("GET", "/", Ok(("/", "a")), "origin form"),
        ("GET", "/a/b?c=d&e", Ok(("/a/b?c=d&e", "a")), "path and query"),
        ("GET", "/?", Ok(("/?", "a")), "empty query"),
        ("GET", "//b/c", Ok(("//b/c", "a")), "an empty segment, not another authority"),
        ("GET", "/%41%2f", Ok(("/%41%2f", "a")), "escapes are not decoded"),
        ("GET", "/a{b}|[c]^", Ok(("/a{b}|[c]^", "a")), "raw in the wild and unambiguous"),
        ("GET", "/?a=\\`%", Ok(("/?a=\\`%", "a")), "browsers leave these raw in a query"),
        ("GET", "/a?b?c/d", Ok(("/a?b?c/d", "a")), "queries hold '?' and '/'"),
        ("GET", "/a#b", Err(Fragment), "fragment"),
        ("GET", "/a?b#c", Err(Fragment), "fragment after a query"),
        ("GET", "/#", Err(Fragment), "empty fragment"),
        ("GET", "/a\\b", Err(Target), "some servers read it as '/'"),
        ("GET", "/a%", Err(Target), "escape without digits"),
        ("GET", "/a%2", Err(Target), "escape with one digit"),
        ("GET", "/a%zz", Err(Target), "escape without hexadecimal digits"),
        ("GET", "/a%2?x", Err(Target), "escape cut by the query"),
        ("GET", "/a\"b", Err(Target), "quote"),
        ("GET", "/a<b>", Err(Target), "angle brackets"),
        ("GET", "/a`b", Err(Target), "backtick in a path"),
        ("GET", "/?a=\"", Err(Target), "quote in a query"),
        ("GET", "/?a=<", Err(Target), "angle bracket in a query"),
        ("GET", "/\u{e4}", Err(Target), "not ASCII"),
        ("GET", "/?\u{e4}", Err(Target), "not ASCII"),
        ("GET", "/a\tb", Err(Target), "tab"),
        ("GET", "/a\0b", Err(Target), "NUL"),
        ("GET", "/a\x7fb", Err(Target), "DEL"),
        ("GET", "/a\rb", Err(Target), "bare CR"),
        ("GET", "a", Err(Target), "no leading '/'"),
        ("GET", "?a", Err(Target), "no path"),
        ("GET", "*", Err(Target), "asterisk form is for OPTIONS"),
        ("OPTIONS", "*", Ok(("*", "a")), "asterisk form"),
        ("OPTIONS", "**", Err(Target), "not the asterisk form"),
        ("OPTIONS", "http://a", Ok(("*", "a")), "absolute form of the asterisk form"),
        ("GET", "http://a", Ok(("/", "a")), "absolute form without a path"),
        ("GET", "http://A/b?c", Ok(("/b?c", "a")), "absolute form"),
        ("GET", "HTTP://a/", Ok(("/", "a")), "schemes are case-insensitive"),
        ("GET", "https://a/", Ok(("/", "a")), "absolute form, https"),
        ("GET", "http://a?b=c", Ok(("/?b=c", "a")), "query without a path"),
        ("GET", "http://a:80/", Ok(("/", "a:80")), "the default port is the same authority"),
        ("GET", "http://b/", Err(ParseError::HostMismatch), "another authority than Host"),
        ("GET", "http://a:81/", Err(ParseError::HostMismatch), "another port than Host"),
        ("GET", "https://a:80/", Err(ParseError::HostMismatch), "not the default port of https"),
        ("GET", "http://a.b/", Err(ParseError::HostMismatch), "Host is a prefix"),
        ("GET", "http:///b", Err(Host), "empty authority"),
        ("GET", "http://", Err(Host), "empty authority"),
        ("GET", "http://u@a/", Err(UserInfo), "user information"),
        ("GET", "http://u:p@a/", Err(UserInfo), "user information"),
        ("GET", "http://a#b", Err(Fragment), "fragment"),
        ("GET", "http://a/b#c", Err(Fragment), "fragment"),
        ("GET", "http://a\\b/", Err(Host), "backslash in the authority"),
        ("GET", "http:/a/", Err(Target), "one slash"),
        ("GET", "http:a", Err(Target), "no slash"),
        ("GET", "ftp://a/", Err(Target), "another scheme"),
        ("GET", "file:///etc/passwd", Err(Target), "another scheme"),
        ("GET", "a:80", Err(Target), "authority form is for CONNECT"),
        ("CONNECT", "a:80", Err(ParseError::HostMismatch), "Host without the port"),
        ("CONNECT", "a", Err(Target), "no port"),
        ("CONNECT", "/", Err(Host), "origin form"),
        ("CONNECT", "http://a:80", Err(Host), "absolute form"),
        ("CONNECT", "u@a:80", Err(UserInfo), "user information"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(method, target, expected, why)| {
            let got = parse(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
                .map(|head| (head.uri.to_string(), head.authority.unwrap().to_string()));
            let expected = expected.map(|(uri, authority)| (uri.to_owned(), authority.to_owned()));
            (got != expected)
                .then(|| format!("{method} {target:?}: expected {expected:?} ({why}), got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let head = parse(b"CONNECT A:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").unwrap();
    assert_eq!(
        (
            head.uri.authority().unwrap().as_str(),
            head.uri.path_and_query()
        ),
        ("a:80", None)
    );
    assert_eq!(head.body, BodyLength::Empty);
}

#[test]
fn exactly_one_plain_host() {
    use ParseError::{DuplicateHost, Host, MissingHost, UserInfo};
    #[rustfmt::skip]
    let cases: &[(&str, Result<&str, ParseError>, &str)] = &[
        ("Host: a\r\n", Ok("a"), "name"),
        ("host:a\r\n", Ok("a"), "no space is needed"),
        ("Host: \t A.Example \t\r\n", Ok("a.example"), "hosts are case-insensitive"),
        ("Host: a:8080\r\n", Ok("a:8080"), "port"),
        ("Host: a_b-c.d\r\n", Ok("a_b-c.d"), "underscores occur in container names"),
        ("Host: a.\r\n", Ok("a."), "absolute name"),
        ("Host: 10.0.0.1:80\r\n", Ok("10.0.0.1:80"), "IPv4"),
        ("Host: [::1]\r\n", Ok("[::1]"), "IPv6"),
        ("Host: [FE80::1]:80\r\n", Ok("[fe80::1]:80"), "IPv6 with port"),
        ("Host: [::ffff:10.0.0.1]\r\n", Ok("[::ffff:10.0.0.1]"), "mapped IPv4"),
        ("", Err(MissingHost), "missing"),
        ("Host:\r\n", Err(Host), "empty"),
        ("Host: \t\r\n", Err(Host), "blank"),
        ("Host: a\r\nHost: a\r\n", Err(DuplicateHost), "twice, equal"),
        ("Host: a\r\nHost: b\r\n", Err(DuplicateHost), "twice, different"),
        ("Host: a\r\nX: y\r\nhOST: a\r\n", Err(DuplicateHost), "twice, apart"),
        ("Host:\r\nHost: a\r\n", Err(DuplicateHost), "twice, one empty"),
        ("Host: a\r\nHost: b\r\nHost: c\r\n", Err(DuplicateHost), "thrice"),
        ("Host: a, b\r\n", Err(Host), "list"),
        ("Host: a,b\r\n", Err(Host), "list"),
        ("Host: a b\r\n", Err(Host), "space"),
        ("Host: u@a\r\n", Err(UserInfo), "user information"),
        ("Host: u:p@a:80\r\n", Err(UserInfo), "user information"),
        ("Host: a@\r\n", Err(UserInfo), "user information"),
        ("Host: a:\r\n", Err(Host), "empty port"),
        ("Host: :80\r\n", Err(Host), "port alone"),
        ("Host: a:65536\r\n", Err(Host), "port out of range"),
        ("Host: a:000080\r\n", Err(Host), "six digits"),
        ("Host: a:+80\r\n", Err(Host), "sign in the port"),
        ("Host: a:80a\r\n", Err(Host), "letters in the port"),
        ("Host: a:80:81\r\n", Err(Host), "two ports"),
        ("Host: a:80/b\r\n", Err(Host), "path"),
        ("Host: a/b\r\n", Err(Host), "path"),
        ("Host: http://a\r\n", Err(Host), "scheme"),
        ("Host: a?b\r\n", Err(Host), "query"),
        ("Host: a#b\r\n", Err(Host), "fragment"),
        ("Host: a\\b\r\n", Err(Host), "backslash"),
        ("Host: a%2eb\r\n", Err(Host), "escape"),
        ("Host: a;b\r\n", Err(Host), "semicolon"),
        ("Host: *\r\n", Err(Host), "wildcard"),
        ("Host: \"a\"\r\n", Err(Host), "quoted"),
        ("Host: a\0\r\n", Err(Host), "NUL"),
        ("Host: a\rb\r\n", Err(Host), "bare CR"),
        ("Host: \u{e4}\r\n", Err(Host), "not ASCII"),
        ("Host: ::1\r\n", Err(Host), "IPv6 without brackets"),
        ("Host: [::1\r\n", Err(Host), "open bracket"),
        ("Host: []\r\n", Err(Host), "empty brackets"),
        ("Host: [a]\r\n", Err(Host), "no address in brackets"),
        ("Host: [::1%25eth0]\r\n", Err(Host), "zone"),
        ("Host: [::1]a\r\n", Err(Host), "letters after the bracket"),
        ("Host: [10.0.0.1]\r\n", Err(Host), "IPv4 in brackets"),
        ("Host : a\r\n", Err(ParseError::HeaderName), "space before the colon"),
        ("X-Host: a\r\n", Err(MissingHost), "another field"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(fields, expected, why)| {
            let got = parse(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).map(|head| {
                assert!(!head.headers.contains_key("host"), "host stays in the map");
                head.authority.unwrap().to_string()
            });
            (got != expected.map(str::to_owned))
                .then(|| format!("{fields:?}: {expected:?} ({why}), got {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let long = "a".repeat(256);
    assert_eq!(
        parse(format!("GET / HTTP/1.1\r\nHost: {long}\r\n\r\n").as_bytes()).unwrap_err(),
        Host
    );
    assert!(
        parse(b"GET / HTTP/1.0\r\n\r\n")
            .unwrap()
            .authority
            .is_none(),
        "HTTP/1.0 needs none"
    );
    let absolute = parse(b"GET http://b/ HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(
        absolute.authority.unwrap(),
        "b",
        "HTTP/1.0, from the target"
    );
    assert_eq!(
        parse(b"GET http://b/ HTTP/1.1\r\n\r\n").unwrap_err(),
        MissingHost
    );
}
