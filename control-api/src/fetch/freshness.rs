//! What the headers of an answer say about how long it is good for (RFC 9111) and how to ask again (RFC 9110 §13).

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, header};

/// No `max-age` counts for more than this (RFC 9111 §1.2.2 lets larger ones be read as 2^31).
const LONGEST: u64 = 1 << 31;

/// What an answer says about its own age.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freshness {
    /// How long from now it is good for; `None`: the server does not say.
    pub lifetime: Option<Duration>,
    /// Its entity tag, for `If-None-Match`.
    pub etag: Option<HeaderValue>,
    /// When it was changed, for `If-Modified-Since`.
    pub last_modified: Option<HeaderValue>,
}

impl Freshness {
    /// Reads the headers of an answer that arrived at `now`, Unix seconds. What cannot be read counts as stale.
    pub fn of(headers: &HeaderMap, now: i64) -> Self {
        Self {
            lifetime: lifetime(headers, now),
            etag: headers.get(header::ETAG).cloned(),
            last_modified: headers.get(header::LAST_MODIFIED).cloned(),
        }
    }

    /// Adds the conditions under which a server answers 304 instead of sending the same again.
    pub fn condition(&self, headers: &mut HeaderMap) {
        if let Some(etag) = &self.etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        } else if let Some(modified) = &self.last_modified {
            headers.insert(header::IF_MODIFIED_SINCE, modified.clone());
        }
    }
}

fn lifetime(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let declared = match cache_control(headers) {
        Some(seconds) => seconds,
        None => expires(headers, now)?,
    };
    let age = headers
        .get(header::AGE)
        .and_then(|v| v.to_str().ok())
        .map_or(0, |text| seconds(text).unwrap_or(declared));
    Some(Duration::from_secs(declared.saturating_sub(age)))
}

/// Seconds by `Cache-Control`: the shortest of what it says. `s-maxage` is for shared caches, which this is not.
fn cache_control(headers: &HeaderMap) -> Option<u64> {
    let mut shortest = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        let Ok(text) = value.to_str() else {
            return Some(0);
        };
        for directive in text.split(',').map(str::trim) {
            let (name, argument) = directive
                .split_once('=')
                .map_or((directive, None), |(name, argument)| {
                    (name.trim_end(), Some(argument.trim().trim_matches('"')))
                });
            let limit = match name.to_ascii_lowercase().as_str() {
                // A field list after `no-cache=` concerns those fields; being strict costs one request more.
                "no-store" | "no-cache" => 0,
                "max-age" => argument.and_then(seconds).unwrap_or(0),
                _ => continue,
            };
            shortest = Some(shortest.map_or(limit, |held: u64| held.min(limit)));
        }
    }
    shortest
}

/// Seconds until `Expires`, by the server's own clock where it sends `Date`. An invalid date is in the past.
fn expires(headers: &HeaderMap, now: i64) -> Option<u64> {
    let expires = headers.get(header::EXPIRES)?;
    let from = headers.get(header::DATE).and_then(date).unwrap_or(now);
    let until = date(expires).map_or(0, |at| at.saturating_sub(from));
    Some(u64::try_from(until).unwrap_or(0).min(LONGEST))
}

fn date(value: &HeaderValue) -> Option<i64> {
    let at = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// `delta-seconds` (RFC 9111 §1.2.2): digits only, however many.
fn seconds(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(LONGEST).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1994-11-06T08:49:37Z.
    const NOW: i64 = 784_111_777;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        map
    }

    #[test]
    fn how_long_an_answer_is_good_for() {
        type Lines = &'static [(&'static str, &'static str)];
        let cases: &[(Lines, Option<u64>)] = &[
            (&[], None),
            (&[("cache-control", "max-age=300")], Some(300)),
            (&[("cache-control", "public, MAX-AGE = 300")], Some(300)),
            (&[("cache-control", "max-age=\"300\"")], Some(300)),
            (&[("cache-control", "max-age=300, max-age=60")], Some(60)),
            (
                &[
                    ("cache-control", "max-age=300"),
                    ("cache-control", "no-cache"),
                ],
                Some(0),
            ),
            (&[("cache-control", "no-store")], Some(0)),
            (&[("cache-control", "no-cache=\"set-cookie\"")], Some(0)),
            (&[("cache-control", "max-age=-1")], Some(0)),
            (&[("cache-control", "max-age=1.5")], Some(0)),
            (&[("cache-control", "max-age")], Some(0)),
            (
                &[("cache-control", "max-age=99999999999999999999999")],
                Some(LONGEST),
            ),
            (&[("cache-control", "s-maxage=10, public")], None),
            (&[("cache-control", "xmax-age=10")], None),
            (
                &[("cache-control", "max-age=300"), ("age", "100")],
                Some(200),
            ),
            (&[("cache-control", "max-age=300"), ("age", "400")], Some(0)),
            (&[("cache-control", "max-age=300"), ("age", "x")], Some(0)),
            (&[("expires", "Sun, 06 Nov 1994 08:59:37 GMT")], Some(600)),
            (
                &[
                    ("expires", "Sun, 06 Nov 1994 08:59:37 GMT"),
                    ("date", "Sun, 06 Nov 1994 08:58:37 GMT"),
                ],
                Some(60),
            ),
            (&[("expires", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0)),
            (&[("expires", "0")], Some(0)),
            (
                &[
                    ("expires", "Sun, 06 Nov 1994 08:59:37 GMT"),
                    ("cache-control", "max-age=5"),
                ],
                Some(5),
            ),
        ];
        for (lines, expected) in cases {
            assert_eq!(
                Freshness::of(&headers(lines), NOW).lifetime,
                expected.map(Duration::from_secs),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn an_entity_tag_is_the_better_condition() {
        let mut asked = HeaderMap::new();
        Freshness::of(
            &headers(&[
                ("etag", "W/\"1\""),
                ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ]),
            NOW,
        )
        .condition(&mut asked);
        assert_eq!(asked, headers(&[("if-none-match", "W/\"1\"")]));
    }

    proptest! {
        #[test]
        fn no_header_makes_an_answer_good_for_ever_or_panics(
            control in "[ -~]{0,60}", expires in "[ -~]{0,40}", age in "[ -~]{0,24}", now in any::<i64>()
        ) {
            let lines = headers(&[("cache-control", &control), ("expires", &expires), ("age", &age)]);
            let lifetime = Freshness::of(&lines, now).lifetime;
            prop_assert!(lifetime.is_none_or(|l| l.as_secs() <= LONGEST));
        }

        #[test]
        fn the_shortest_max_age_counts_wherever_it_stands(ages in proptest::collection::vec(0u64..100_000, 1..6)) {
            let text: Vec<_> = ages.iter().map(|a| format!("max-age={a}")).collect();
            let map = headers(&[("cache-control", &text.join(" ,\t"))]);
            let shortest = ages.iter().copied().min().map(Duration::from_secs);
            prop_assert_eq!(Freshness::of(&map, NOW).lifetime, shortest);
        }
    }
}
