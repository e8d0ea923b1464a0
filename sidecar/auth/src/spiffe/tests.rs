//! The rules of SPIFFE IDs by number (SPIFFE-ID §2), and against a second parser written another way.

use proptest::prelude::*;

use super::*;

#[test]
fn well_formed_ids_are_accepted_and_taken_apart() {
    // ID, trust domain, path, namespace and service account.
    type Parts = (
        &'static str,
        &'static str,
        &'static str,
        Option<(&'static str, &'static str)>,
    );
    let cases: &[Parts] = &[
        (
            "spiffe://td.example/ns/shop/sa/orders",
            "td.example",
            "/ns/shop/sa/orders",
            Some(("shop", "orders")),
        ),
        ("spiffe://td", "td", "", None),
        ("spiffe://a-b_c.9/x", "a-b_c.9", "/x", None),
        // (9) A name that looks like an address is a name.
        ("spiffe://10.0.0.1/x", "10.0.0.1", "/x", None),
        ("spiffe://td/.../.a/a..b", "td", "/.../.a/a..b", None),
        ("spiffe://td/Aa0.-_", "td", "/Aa0.-_", None),
        ("spiffe://td/ns/shop", "td", "/ns/shop", None),
        ("spiffe://td/ns/shop/sa/a/b", "td", "/ns/shop/sa/a/b", None),
        ("spiffe://td/x/ns/shop/sa/a", "td", "/x/ns/shop/sa/a", None),
        ("spiffe://td/NS/shop/SA/a", "td", "/NS/shop/SA/a", None),
        (
            "spiffe://td/ns/sa/sa/sa",
            "td",
            "/ns/sa/sa/sa",
            Some(("sa", "sa")),
        ),
        ("spiffe://td/ns/a/x/sa/b", "td", "/ns/a/x/sa/b", None),
    ];
    for (text, domain, path, kubernetes) in cases {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.as_str(), *text);
        assert_eq!(id.to_string(), *text);
        assert_eq!((id.trust_domain(), id.path()), (*domain, *path));
        assert_eq!(id.trust_domain_owned().as_str(), *domain);
        assert_eq!(id.without_scheme(), format!("{domain}{path}"));
        assert_eq!(
            id.namespace().zip(id.service_account()),
            *kubernetes,
            "{text}"
        );
    }
}

/// (15) Paths are case-sensitive.
#[test]
fn ids_that_differ_in_case_are_different() {
    let parse = |text| SpiffeId::parse(text).unwrap();
    assert_ne!(parse("spiffe://td/a"), parse("spiffe://td/A"));
}

/// (14) Up to 2048 bytes, of which the trust domain has up to 255.
#[test]
fn lengths_are_bounded_exactly() {
    let id = |length: usize| format!("spiffe://td/{}", "a".repeat(length - 12));
    assert!(SpiffeId::parse(&id(2048)).is_ok());
    assert!(SpiffeId::parse(&id(2049)).is_err());
    assert!(TrustDomain::new(&"a".repeat(255)).is_ok());
    assert!(TrustDomain::new(&"a".repeat(256)).is_err());
    let domain = TrustDomain::new("td").unwrap();
    assert!(SpiffeId::workload(&domain, &"n".repeat(1000), &"s".repeat(2000)).is_err());
}

#[test]
fn ids_that_break_a_rule_are_refused_with_a_message_of_one_line() {
    let long_domain = format!("spiffe://{}/a", "a".repeat(256));
    let cases = [
        ("", "does not start with"),
        ("td/a", "does not start with"),
        // (1), (15): we refuse what another parser may normalise.
        ("http://td/a", "does not start with"),
        ("SPIFFE://td/a", "does not start with"),
        ("spiffe:/td/a", "does not start with"),
        (" spiffe://td/a", "does not start with"),
        // (2)
        ("spiffe://", "the trust domain is empty"),
        ("spiffe:///a", "the trust domain is empty"),
        // (3), (4)
        ("spiffe://td/a?x=1", "a query"),
        ("spiffe://td?x", "a query"),
        ("spiffe://td/a#x", "a fragment"),
        ("spiffe://td#x", "a fragment"),
        // (5)
        ("spiffe://td:80/a", "a port"),
        ("spiffe://td:/a", "a port"),
        ("spiffe://user@td/a", "user information"),
        ("spiffe://user:password@td/a", "a port"),
        // (6), (7), (8)
        ("spiffe://TD/a", "must be lower-case"),
        ("spiffe://tD/a", "must be lower-case"),
        ("spiffe://t%64/a", "percent-encoding"),
        ("spiffe://t d/a", "may have only"),
        ("spiffe://t\u{e9}/a", "may have only"),
        ("spiffe://[::1]/a", "may have only"),
        (&long_domain, "longer than 255 bytes"),
        // (10) to (13)
        ("spiffe://td/%61", "percent-encoding"),
        ("spiffe://td/a%2fb", "percent-encoding"),
        ("spiffe://td/", "is empty"),
        ("spiffe://td/a/", "is empty"),
        ("spiffe://td//a", "is empty"),
        ("spiffe://td/./a", "'.' and '..'"),
        ("spiffe://td/a/..", "'.' and '..'"),
        ("spiffe://td/a\0", "may have only"),
        ("spiffe://td/a\r\nb", "may have only"),
        ("spiffe://td/a\u{1b}[31m", "may have only"),
        ("spiffe://td/\u{e9}", "may have only"),
        ("spiffe://td/a\u{202e}b", "may have only"),
        ("spiffe://td/a;b", "may have only"),
        ("spiffe://td/a b", "may have only"),
        ("spiffe://td/a+b", "may have only"),
        ("spiffe://td/a\\b", "may have only"),
    ];
    for (text, problem) in cases {
        let error = SpiffeId::parse(text).expect_err(text);
        assert!(error.problem().contains(problem), "{text:?}: {error}");
        let shown = error.to_string();
        assert!(
            shown.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "{shown:?}"
        );
        assert!(shown.contains("is not a SPIFFE ID"), "{shown}");
    }
    let shown = SpiffeId::parse(&"\u{e9}".repeat(1_000_000))
        .unwrap_err()
        .to_string();
    assert!(shown.len() < 4096, "a long text is cut");
}

#[test]
fn a_workload_id_cannot_be_widened_by_its_parts() {
    let domain = TrustDomain::new("td").unwrap();
    let id = SpiffeId::workload(&domain, "a", "b").unwrap();
    assert_eq!(id.as_str(), "spiffe://td/ns/a/sa/b");
    let cases = [
        ("", "b", "a namespace"),
        ("a", "", "a service account"),
        ("a/sa/x", "b", "a namespace"),
        ("a", "b/c", "a service account"),
        ("..", "b", "a namespace"),
        ("a", "b c", "a service account"),
        ("a\n", "b", "a namespace"),
        ("a", "b%2f", "a service account"),
    ];
    for (namespace, account, named) in cases {
        let error = SpiffeId::workload(&domain, namespace, account).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(named), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
    let shown = TrustDomain::new("a/b").unwrap_err().to_string();
    assert!(shown.contains("is not a trust domain"), "{shown}");
}

/// The grammar of the specification, character by character.
fn is_valid(text: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    let any = |c: char| lower(c) || c.is_ascii_uppercase();
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or("");
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && domain.chars().all(lower)
        && segments.all(|s| !["", ".", ".."].contains(&s) && s.chars().all(any))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn parsing_agrees_with_the_grammar_and_keeps_the_text(
        text in "\\PC{0,64}|[sS]piffe://[a-zA-Z.:@%]{0,9}(/[a-zA-Z0-9._%?#-]{0,5}){0,4}|spiffe://[a-z]{1,4}(/[a-z.]{0,3}){0,4}|spiffe://t/[\\x00-\\x7f]{0,6}"
    ) {
        let parsed = SpiffeId::parse(&text);
        prop_assert_eq!(parsed.is_ok(), is_valid(&text));
        match parsed {
            Ok(id) => {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(format!("{}{}", id.trust_domain(), id.path()), id.without_scheme());
                prop_assert!(TrustDomain::new(id.trust_domain()).is_ok());
                if let Some((namespace, account)) = id.namespace().zip(id.service_account()) {
                    prop_assert_eq!(SpiffeId::workload(&id.trust_domain_owned(), namespace, account), Ok(id.clone()));
                }
            }
            Err(error) => prop_assert!(error.to_string().is_ascii()),
        }
    }
}
