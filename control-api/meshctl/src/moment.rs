//! Points in time and spans, as people read them. Pure: `now` is always passed.

use std::time::{SystemTime, UNIX_EPOCH};

/// This machine's clock, Unix seconds.
pub(crate) fn unix_now() -> i64 {
    i64::try_from(unix_now_ms() / 1000).unwrap_or(i64::MAX)
}

/// This machine's clock, Unix milliseconds.
pub(crate) fn unix_now_ms() -> i128 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_millis()).unwrap_or(i128::MAX),
    }
}

/// A span as its largest unit or two: `42s`, `3m10s`, `5h`, `12d`.
pub(crate) fn span(seconds: i64) -> String {
    let s = seconds.unsigned_abs();
    let pair = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match s {
        0..60 => format!("{s}s"),
        60..600 => pair(s / 60, "m", s % 60, "s"),
        600..7_200 => format!("{}m", s / 60),
        7_200..86_400 => pair(s / 3_600, "h", s % 3_600 / 60, "m"),
        86_400..864_000 => pair(s / 86_400, "d", s % 86_400 / 3_600, "h"),
        _ => format!("{}d", s / 86_400),
    }
}

/// A short time in its unit, three digits: `42.1µs`, `300µs`, `1.2ms`, `2.5s`.
pub(crate) fn latency(micros: f64) -> String {
    let (value, unit) = match micros {
        m if m < 999.5 => (m, "µs"),
        m if m < 999_500.0 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    let text = match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

/// How far a moment lies ahead or back: `in 23h`, `3m ago`; `-` for an unknown one (0).
pub(crate) fn relative(at: i64, now: i64) -> String {
    match at {
        0 => "-".to_owned(),
        at if at > now => format!("in {}", span(at - now)),
        at => format!("{} ago", span(now - at)),
    }
}

/// Time of day in UTC, to the millisecond: `12:00:01.123`.
pub(crate) fn time_of_day(unix_ms: i64) -> String {
    let ms = unix_ms.rem_euclid(86_400_000);
    let (s, ms) = (ms / 1_000, ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3_600, s / 60 % 60, s % 60)
}

/// RFC 3339 in UTC, or `-` for an unknown moment (0).
pub(crate) fn rfc3339(at: i64) -> String {
    if at == 0 {
        return "-".to_owned();
    }
    time::OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|t| {
            t.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_three_digits_and_a_unit() {
        for (micros, text) in [
            (0.0, "0µs"),
            (0.256, "0.26µs"),
            (42.14, "42.1µs"),
            (300.0, "300µs"),
            (999.6, "1ms"),
            (1_234.0, "1.23ms"),
            (2_500_000.0, "2.5s"),
        ] {
            assert_eq!(latency(micros), text);
        }
    }

    #[test]
    fn spans_name_their_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (190, "3m10s"),
            (3_599, "59m"),
            (7_200, "2h"),
            (7_260, "2h1m"),
            (86_400, "1d"),
            (90_000, "1d1h"),
            (864_000, "10d"),
            (-5, "5s"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn moments_are_ahead_back_or_unknown() {
        assert_eq!(relative(0, 100), "-");
        assert_eq!(relative(160, 100), "in 1m");
        assert_eq!(relative(100, 100), "0s ago");
        assert_eq!(relative(40, 100), "1m ago");
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(0), "-");
    }
}
