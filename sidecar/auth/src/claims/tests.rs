//! What is JSON and what is not, by table; and that the reading agrees with another parser's.

use proptest::prelude::*;

use super::*;

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let cases: &[(&[u8], ParseError)] = &[
        (b"", ParseError::NotAnObject),
        (b"null", ParseError::NotAnObject),
        (b"[]", ParseError::NotAnObject),
        (b"\"a\"", ParseError::NotAnObject),
        (b"\xef\xbb\xbf{}", ParseError::NotAnObject),
        (b"\xff\xfe{\0}\0", ParseError::Utf8),
        (b"{\0}\0", ParseError::Syntax(1)),
        (b"{\"a\":\"\xff\"}", ParseError::Utf8),
        (b"{\"a\":\"\xc0\xaf\"}", ParseError::Utf8),
        (b"{\"a\":\"\xed\xa0\x80\"}", ParseError::Utf8),
        (b"{\"a\":1}x", ParseError::Trailing),
        (b"{\"a\":1}{}", ParseError::Trailing),
        (b"{\"a\":1}\0", ParseError::Trailing),
        (b"{\"a\":1,}", ParseError::Syntax(7)),
        (b"{,}", ParseError::Syntax(1)),
        (b"{a:1}", ParseError::Syntax(1)),
        (b"{'a':1}", ParseError::Syntax(1)),
        (b"{\"a\" 1}", ParseError::Syntax(5)),
        (b"{\"a\":}", ParseError::Syntax(5)),
        (b"{\"a\":[1,]}", ParseError::Syntax(8)),
        (b"{\"a\":1 /* c */}", ParseError::Syntax(7)),
        (b"// c\n{}", ParseError::NotAnObject),
        (b"{\"a\":True}", ParseError::Syntax(5)),
        (b"{\"a\":nul}", ParseError::Syntax(5)),
        (b"{\"a\":NaN}", ParseError::Syntax(5)),
        (b"{\"a\":Infinity}", ParseError::Syntax(5)),
        (b"{\"a\":-}", ParseError::Syntax(6)),
        (b"{\"a\":+1}", ParseError::Syntax(5)),
        (b"{\"a\":01}", ParseError::Syntax(6)),
        (b"{\"a\":.5}", ParseError::Syntax(5)),
        (b"{\"a\":1.}", ParseError::Syntax(7)),
        (b"{\"a\":1e}", ParseError::Syntax(7)),
        (b"{\"a\":0x10}", ParseError::Syntax(6)),
        (b"{\"a\":\"\n\"}", ParseError::Syntax(6)),
        (b"{\"a\":\"\\x41\"}", ParseError::Syntax(7)),
        (b"{\"a\":\"\\u12g4\"}", ParseError::Syntax(10)),
        (b"{\"a\":\"\\ud800\"}", ParseError::Surrogate(8)),
        (b"{\"a\":\"\\udc00\"}", ParseError::Surrogate(8)),
        (b"{\"a\":\"\\ud800\\u0041\"}", ParseError::Surrogate(8)),
        (b"{\"a\":\"\\ud800\\u0000\"}", ParseError::Surrogate(8)),
        (b"{\"a\":\"\\ud800x\"}", ParseError::Surrogate(8)),
        (b"{\"a\":\"b", ParseError::Syntax(7)),
        (b"{\"a\":1,\"a\":1}", ParseError::Duplicate),
        (
            b"{\"sub\":1,\"b\":2,\"s\\u0075b\":1}",
            ParseError::Duplicate,
        ),
        (b"{\"a\":{\"b\":1,\"\\u0062\":1}}", ParseError::Duplicate),
        (b"{\"a\":[{\"b\":1,\"b\":2}]}", ParseError::Duplicate),
        (b"{\"\":1,\"\":2}", ParseError::Duplicate),
    ];
    for (bytes, error) in cases {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(parse(bytes).map(|_| ()), Err(*error), "{text}");
    }
}

#[test]
fn depth_and_number_of_values_are_limited() {
    let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    assert!(parse(nested(15).as_bytes()).is_ok());
    assert_eq!(parse(nested(16).as_bytes()), Err(ParseError::TooDeep));
    assert_eq!(parse(nested(5_000).as_bytes()), Err(ParseError::TooDeep));
    let wide = |n: usize| format!("{{\"a\":[{}]}}", vec!["0"; n].join(","));
    assert!(parse(wide(2_046).as_bytes()).is_ok());
    assert_eq!(parse(wide(2_047).as_bytes()), Err(ParseError::TooMany));
}

#[test]
fn members_are_found_by_what_they_spell() {
    let object = parse(
        br#" { "z" : [ true , null ] , "\u0061\ud83d\ude00": "\"\\\/\b\f\n\r\t", "n":{"m":-1} } "#,
    )
    .unwrap();
    assert_eq!(object.string("a\u{1f600}"), Some("\"\\/\u{8}\u{c}\n\r\t"));
    assert_eq!(
        object.get("z").unwrap().as_array().unwrap(),
        [Value::Bool(true), Value::Null]
    );
    let inner = object.get("n").unwrap().as_object().unwrap();
    assert_eq!(inner.get("m").unwrap().as_i64(), Some(-1));
    assert_eq!(object.get("Z"), None);
    assert_eq!(object.len(), 3);
}

#[test]
fn debug_tells_names_and_no_values() {
    let object = parse(br#"{"email":"canary@example.org"}"#).unwrap();
    assert_eq!(format!("{object:?}"), "{\"email\"}");
}

#[test]
fn dates_are_integers_or_fractions_in_range() {
    let cases: &[(&str, Option<(i64, i64)>)] = &[
        ("0", Some((0, 0))),
        ("-0", Some((0, 0))),
        ("1700000000", Some((1_700_000_000, 1_700_000_000))),
        ("1700000000.5", Some((1_700_000_000, 1_700_000_001))),
        ("1.7e9", Some((1_700_000_000, 1_700_000_000))),
        ("253402300799", Some((253_402_300_799, 253_402_300_799))),
        ("253402300800", None),
        ("-1", None),
        ("-0.5", None),
        ("9223372036854775807", None),
        ("9223372036854775808", None),
        ("18446744073709551616", None),
        ("1e308", None),
        ("1e400", None),
        ("\"1700000000\"", None),
        ("null", None),
        ("true", None),
        ("[1700000000]", None),
    ];
    for (text, expected) in cases {
        let object = parse(format!("{{\"d\":{text}}}").as_bytes()).unwrap();
        let date = object.get("d").unwrap().as_date();
        assert_eq!(date.map(|d| (d.floor, d.ceiling)), *expected, "{text}");
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    let inner = leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(".*", inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(".*", inner, 0..6)
        .prop_map(|m| serde_json::Value::Object(m.into_iter().collect()))
}

fn same(ours: &Value, theirs: &serde_json::Value) -> bool {
    match (ours, theirs) {
        (Value::Null, serde_json::Value::Null) => true,
        (Value::Bool(a), serde_json::Value::Bool(b)) => a == b,
        (Value::Number(a), serde_json::Value::Number(b)) => a.to_string() == b.to_string(),
        (Value::String(a), serde_json::Value::String(b)) => **a == **b,
        (Value::Array(a), serde_json::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), serde_json::Value::Object(b)) => {
            a.len() == b.len()
                && b.iter()
                    .all(|(name, b)| a.get(name).is_some_and(|a| same(a, b)))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn documents_read_as_another_parser_reads_them(document in json(), pretty in any::<bool>()) {
        let text = if pretty {
            serde_json::to_string_pretty(&document).unwrap()
        } else {
            document.to_string()
        };
        let ours = parse(text.as_bytes()).unwrap();
        prop_assert!(same(&Value::Object(ours.clone()), &document), "{}", text);
        let again = parse(ours.to_string().as_bytes()).unwrap();
        prop_assert_eq!(again, ours);
    }

    #[test]
    fn what_is_accepted_another_parser_accepts_too(bytes in r#"[ {}\[\]",:0-9a-fnrtu\\eE.+-]{0,24}"#) {
        let text = format!("{{\"a\":{bytes}}}");
        if let Ok(ours) = parse(text.as_bytes()) {
            // serde_json refuses numbers beyond f64; we keep them as text.
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => {}
                Err(error) => prop_assert!(error.to_string().contains("number out of range"), "{}: {} {:?}", text, error, ours),
            }
        }
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }
}
