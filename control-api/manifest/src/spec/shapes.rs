//! Shapes that several kinds share.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize, Serializer};

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
