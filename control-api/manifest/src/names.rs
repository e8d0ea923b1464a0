//! Names as Kubernetes knows them (DNS-1123), labels, hosts and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::FieldError;

const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;
/// Entries of one list; far more than any real document has.
pub(crate) const MAX_ENTRIES: usize = 10_000;

fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Checks a DNS-1123 label: the name of a namespace, say.
///
/// # Errors
/// Says what it is to be; `path` is where it stands.
pub fn label(path: &str, text: &str) -> Result<(), FieldError> {
    if is_label(text) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!(
            "'{}' is not a DNS-1123 label: use lower-case letters, digits and '-', at most {MAX_LABEL}, beginning and \
             ending with a letter or digit",
            text.escape_default()
        ),
    ))
}

/// Checks a DNS-1123 subdomain: labels joined by dots.
pub(crate) fn subdomain(path: &str, text: &str) -> Result<(), FieldError> {
    if text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_label) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!(
            "'{}' is not a DNS-1123 name: use lower-case letters, digits, '-' and '.', at most {MAX_SUBDOMAIN}",
            text.escape_default()
        ),
    ))
}

/// Checks a host name that requests carry.
pub(crate) fn host(path: &str, text: &str) -> Result<(), FieldError> {
    let problem = if text.bytes().any(|b| b.is_ascii_uppercase()) {
        "has upper-case letters: write it in lower case"
    } else if text.contains(':') {
        "has a port or is an address: write the host name alone"
    } else if text.len() > MAX_SUBDOMAIN
        || text.is_empty()
        || text.split('.').any(|part| {
            !(1..=MAX_LABEL).contains(&part.len())
                || part
                    .bytes()
                    .any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b)))
        })
    {
        "is not a host name"
    } else {
        return Ok(());
    };
    Err(FieldError::new(
        path,
        format!("'{}' {problem}", text.escape_default()),
    ))
}

/// Checks labels, or a selector's.
pub(crate) fn labels(path: &str, labels: &BTreeMap<String, String>) -> Result<(), FieldError> {
    for (key, value) in labels {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key.as_str()),
        };
        if !is_qualified(name)
            || prefix.is_some_and(|p| p.len() > MAX_SUBDOMAIN || !p.split('.').all(is_label))
        {
            return Err(FieldError::new(
                path,
                format!("'{}' is not a label name", key.escape_default()),
            ));
        }
        if !value.is_empty() && !is_qualified(value) {
            return Err(FieldError::new(
                format!("{path}.{key}"),
                format!(
                    "'{}' is not a label value: use letters, digits, '-', '_' and '.', at most {MAX_LABEL}",
                    value.escape_default()
                ),
            ));
        }
    }
    Ok(())
}

fn is_qualified(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_LABEL
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && edge(text.chars().next())
        && edge(text.chars().last())
}

/// Parses addresses into network order.
pub(crate) fn addresses(path: &str, texts: &[String]) -> Result<Vec<Vec<u8>>, FieldError> {
    at_most(path, texts.len())?;
    let mut addresses = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let fail = |problem: &str| {
            FieldError::new(
                format!("{path}[{i}]"),
                format!("'{}' {problem}", text.escape_default()),
            )
        };
        let address: IpAddr = text.parse().map_err(|_| fail("is not an IP address"))?;
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(fail(
                "cannot be the address of one instance: it is unspecified or multicast",
            ));
        }
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        if addresses.contains(&bytes) {
            return Err(fail("is listed twice"));
        }
        addresses.push(bytes);
    }
    Ok(addresses)
}

/// Reads a moment (RFC 3339) as Unix seconds; parts of a second are dropped.
pub(crate) fn moment(path: &str, text: &str) -> Result<i64, FieldError> {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map(time::OffsetDateTime::unix_timestamp)
        .map_err(|_| {
            FieldError::new(
                path,
                format!(
                    "'{}' is not a moment as RFC 3339 writes it, e.g. 2026-01-31T12:00:00Z",
                    text.escape_default()
                ),
            )
        })
}

/// Refuses lists that are longer than any real one.
pub(crate) fn at_most(path: &str, len: usize) -> Result<(), FieldError> {
    if len > MAX_ENTRIES {
        return Err(FieldError::new(
            path,
            format!("has {len} entries, more than {MAX_ENTRIES}: split the document"),
        ));
    }
    Ok(())
}

/// Checks a port number.
pub(crate) fn port(path: &str, value: u32) -> Result<u32, FieldError> {
    match u16::try_from(value) {
        Ok(1..) => Ok(value),
        _ => Err(FieldError::new(
            path,
            format!("{value} is not a port (1..65535)"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dns_1123() {
        for good in ["a", "a-1", "0", &"a".repeat(63)] {
            assert!(label("x", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "ä",
            "../x",
            &"a".repeat(64),
        ] {
            assert!(label("x", bad).is_err(), "{bad}");
        }
        for good in ["a", "a.b", "istio-1.example"] {
            assert!(subdomain("x", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a/b", &"a.".repeat(127)] {
            assert!(subdomain("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_lower_case_without_port() {
        for good in ["orders", "orders.example", "a_b.c"] {
            assert!(host("x", good).is_ok(), "{good}");
        }
        for bad in ["", "Orders", "orders:80", "a..b", "a b", "::1", "a/", "*.a"] {
            assert!(host("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_canonical_and_of_one_instance() {
        let parsed = addresses(
            "a",
            &["10.0.0.1".into(), "::ffff:10.0.0.2".into(), "::1".into()],
        );
        let parsed = parsed.expect("addresses");
        assert_eq!(parsed[1], [10, 0, 0, 2]);
        assert_eq!(parsed[2].len(), 16);
        for bad in [
            "",
            "10.0.0",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "10.0.0.1/8",
            "localhost",
        ] {
            assert!(addresses("a", &[bad.into()]).is_err(), "{bad}");
        }
        let twice = addresses("a", &["10.0.0.1".into(), "::ffff:10.0.0.1".into()]);
        assert!(twice.expect_err("twice").to_string().contains("a[1]"));
    }

    #[test]
    fn labels_are_those_of_kubernetes() {
        let of = |k: &str, v: &str| labels("l", &BTreeMap::from([(k.to_owned(), v.to_owned())]));
        assert!(of("app", "web").is_ok() && of("app.kubernetes.io/name", "").is_ok());
        for (k, v) in [
            ("", "a"),
            ("a b", "c"),
            ("a", "b c"),
            ("/a", "b"),
            ("A/b/c", "d"),
            ("a", "-"),
        ] {
            assert!(of(k, v).is_err(), "{k}={v}");
        }
    }
}
