//! What a rejection says, resource by resource.

use std::collections::BTreeMap;

/// Longest reason that is kept.
const MAX_REASON: usize = 1_024;

/// The reasons in a NACK.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reasons {
    /// The resources that were rejected; the others of the response are held.
    ByName(BTreeMap<String, String>),
    /// The whole response was rejected.
    All(String),
}

#[derive(serde::Deserialize)]
struct Rejection {
    name: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    severity: String,
}

impl Reasons {
    /// Reads the message of a NACK: `[{"name": ..., "reason": ..., "severity": ...}]` where some resources were applied, as
    /// our sidecars write it; a warning is about a resource that is held all the same. Any other text is about them all.
    pub(super) fn parse(message: &str) -> Self {
        let Ok(rejections) = serde_json::from_str::<Vec<Rejection>>(message) else {
            return Self::All(shorten(message));
        };
        // A NACK that names nothing rejects everything: what was not applied must never count as held.
        if rejections.is_empty() {
            return Self::All("rejected without a reason".into());
        }
        Self::ByName(
            rejections
                .into_iter()
                .filter(|r| r.severity != "warning")
                .map(|r| (r.name, shorten(&r.reason)))
                .collect(),
        )
    }

    pub(super) fn of(&self, name: &str) -> Option<&str> {
        match self {
            Self::ByName(reasons) => reasons.get(name).map(String::as_str),
            Self::All(reason) => Some(reason),
        }
    }
}

/// On one line, without what could confuse a terminal.
fn shorten(reason: &str) -> String {
    reason
        .chars()
        .take(MAX_REASON)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_is_about_what_it_names_or_about_everything() {
        let some = Reasons::parse(
            r#"[{"name":"a","reason":"bad\nport"},{"name":"b","severity":"warning"}]"#,
        );
        assert_eq!(some.of("a"), Some("bad port"));
        assert_eq!((some.of("b"), some.of("c")), (None, None));
        for text in [
            "out of order",
            "",
            "[]",
            r#"{"name":"a"}"#,
            r#"[{"reason":"x"}]"#,
        ] {
            assert!(Reasons::parse(text).of("anything").is_some(), "{text:?}");
        }
    }
}
