//! Shapes that several kinds share.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::FieldError;
use crate::names;

/// A field that the language has and this version does not enforce: whatever it holds, it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsupported;

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom(
            "not supported, and ignoring it would change what the policy means: remove the field",
        ))
    }
}

impl Serialize for Unsupported {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

/// `selector: {matchLabels: ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(default)]
    pub(crate) match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// The labels of `spec.selector`; without one, none: every workload.
    pub(crate) fn labels(selector: Option<&Self>) -> Result<BTreeMap<String, String>, FieldError> {
        let labels = selector.map(|s| s.match_labels.clone()).unwrap_or_default();
        names::labels("spec.selector.matchLabels", &labels)?;
        Ok(labels)
    }
}

/// A port that may be written as a number or, as Istio does, as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(pub(crate) u32);

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;
        impl Visitor<'_> for PortVisitor {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port (1..65535)")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Port, E> {
                match u16::try_from(value) {
                    Ok(port @ 1..) => Ok(Port(port.into())),
                    _ => Err(E::custom(format!("{value} is not a port (1..65535)"))),
                }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Port, E> {
                self.visit_u64(u64::try_from(value).unwrap_or(0))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Port, E> {
                // Digits only: `+80`, `0080` and ` 80` are spellings that others might read otherwise.
                match text.parse::<u16>() {
                    Ok(port @ 1..) if port.to_string() == text => Ok(Port(port.into())),
                    _ => Err(E::custom(format!(
                        "'{}' is not a port (1..65535)",
                        text.escape_default()
                    ))),
                }
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

/// A duration as Kubernetes and protobuf write it: `1h30m`, `5s`, `1.5s`, `250ms`. At most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(u64);

/// Longest duration, milliseconds.
const MAX_MILLIS: u64 = 3_650 * 86_400 * 1_000;

impl Seconds {
    /// In milliseconds; what does not fit is as long as fits.
    pub(crate) fn millis(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// In whole seconds.
    pub(crate) fn whole(self, path: &str) -> Result<u32, crate::error::FieldError> {
        if !self.0.is_multiple_of(1_000) {
            return Err(crate::error::FieldError::new(path, "must be whole seconds"));
        }
        // At most ten years.
        Ok(u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX))
    }

    fn parse(text: &str) -> Option<Self> {
        // Finer than a millisecond is nobody's deadline.
        let nanos = nanos(text).filter(|nanos| nanos.is_multiple_of(1_000_000))?;
        let millis = nanos / 1_000_000;
        (millis <= MAX_MILLIS).then_some(Self(millis))
    }
}

/// A duration in nanoseconds, with units down to those: `1h30m`, `1.5ms`, `300us`.
pub(crate) fn nanos(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, tail) = after.split_at(unit_end);
        let unit: u64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            // U+00B5 and U+03BC look the same, and both are typed.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return None;
        }
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = fraction.parse::<u64>().ok()?.checked_mul(unit)?;
        if !part.is_multiple_of(scale) {
            return None;
        }
        total = whole
            .parse::<u64>()
            .ok()?
            .checked_mul(unit)?
            .checked_add(part / scale)?
            .checked_add(total)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1_000) {
            serializer.collect_str(&format_args!("{}s", self.0 / 1_000))
        } else {
            serializer.collect_str(&format_args!("{}ms", self.0))
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "'{}' is not a duration such as 30s, 1h30m or 250ms",
                text.escape_default()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Seconds, nanos};

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        for (text, millis) in [
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("1h30m", Some(5_400_000)),
            ("0s", Some(0)),
            ("1h0m1s", Some(3_601_000)),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("5 s", None),
            ("5d", None),
            (".s", None),
            ("1.s", None),
            ("1.2.3s", None),
            ("1.0005s", None),
            ("99999999999999999999s", None),
            ("99999999h", None),
        ] {
            assert_eq!(Seconds::parse(text).map(|s| s.0), millis, "{text}");
        }
    }

    #[test]
    fn durations_reach_down_to_nanoseconds() {
        for (text, expected) in [
            ("300us", Some(300_000)),
            ("300\u{b5}s", Some(300_000)),
            ("300\u{3bc}s", Some(300_000)),
            ("1.5ms", Some(1_500_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("7ns", Some(7)),
            ("1.5ns", None),
            ("300", None),
            ("", None),
            ("-1ms", None),
            ("1 ms", None),
            ("1d", None),
            ("99999999999h", None),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }
}
