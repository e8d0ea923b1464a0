//! `kind: LatencyBudget`.

use mesh_auth::latency::{self, Phase};
use mesh_proto::mesh;
use serde::{Deserialize, Serialize};

use super::Spec;
use super::metadata::Metadata;
use super::shapes::{Selector, nanos};
use crate::document::Resource;
use crate::error::FieldError;
use crate::kind::Kind;

/// The window of a budget that names none, seconds.
const DEFAULT_WINDOW: u32 = 3_600;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    #[default]
    Inbound,
    Outbound,
}

/// How long a phase of requests may take.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LatencyBudget {
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Direction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    target: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    threshold: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
}

impl Spec for LatencyBudget {
    const KIND: Kind = Kind::LatencyBudget;

    fn resource(&self, metadata: &Metadata, _: &str) -> Result<Resource, FieldError> {
        let selector = Selector::labels(self.selector.as_ref())?;
        let budget = mesh::LatencyBudget {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            selector,
            direction: match self.direction.unwrap_or_default() {
                Direction::Inbound => mesh::LatencyDirection::Inbound,
                Direction::Outbound => mesh::LatencyDirection::Outbound,
            }
            .into(),
            phase: self.phase()?.to_proto().into(),
            issuer: self.issuer.clone().unwrap_or_default(),
            target_millionths: self.target_millionths()?,
            threshold_nanos: self.threshold_nanos()?,
            window_seconds: self.window_seconds()?,
        };
        latency::Budget::parse(&budget)
            .map_err(|e| FieldError::new(format!("spec.{}", document_field(e.field)), e.problem))?;
        Ok(Resource::LatencyBudget(budget))
    }

    fn summary(&self) -> String {
        let phase = self.phase.as_deref().unwrap_or(Phase::Request.as_str());
        let mut text = format!("{} of {phase} at most {}", self.target, self.threshold);
        if let Some(issuer) = &self.issuer {
            text.push_str(&format!(", tokens of {issuer}"));
        }
        if self.direction == Some(Direction::Outbound) {
            text.push_str(", outbound");
        }
        text
    }
}

impl LatencyBudget {
    fn phase(&self) -> Result<Phase, FieldError> {
        let Some(text) = &self.phase else {
            return Ok(Phase::Request);
        };
        Phase::parse(text).ok_or_else(|| {
            FieldError::new(
                "spec.phase",
                format!(
                    "'{}' is no phase; there are {}",
                    text.escape_default(),
                    Phase::ALL.map(Phase::as_str).join(", ")
                ),
            )
        })
    }

    /// `p99`, `p99.9`.
    fn target_millionths(&self) -> Result<u32, FieldError> {
        let wrong = |problem: String| Err(FieldError::new("spec.target", problem));
        if self.target.is_empty() {
            return wrong("missing: name a percentile such as p99".into());
        }
        let percent = self.target.strip_prefix('p').and_then(|number| {
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(whole) || !digits(fraction) || whole.len() > 2 || fraction.len() > 4 {
                return None;
            }
            let padded = format!("{fraction:0<4}");
            Some(whole.parse::<u32>().ok()? * 10_000 + padded.parse::<u32>().ok()?)
        });
        match percent {
            Some(millionths @ 1..) => Ok(millionths),
            _ => wrong(format!(
                "'{}' is no percentile such as p50, p99 or p99.9",
                self.target.escape_default()
            )),
        }
    }

    fn threshold_nanos(&self) -> Result<u64, FieldError> {
        if self.threshold.is_empty() {
            return Err(FieldError::new(
                "spec.threshold",
                "missing: name a duration such as 300us",
            ));
        }
        nanos(&self.threshold).ok_or_else(|| {
            FieldError::new(
                "spec.threshold",
                format!(
                    "'{}' is not a duration such as 300us, 1.5ms or 2s",
                    self.threshold.escape_default()
                ),
            )
        })
    }

    fn window_seconds(&self) -> Result<u32, FieldError> {
        let Some(text) = &self.window else {
            return Ok(DEFAULT_WINDOW);
        };
        nanos(text)
            .filter(|nanos| nanos.is_multiple_of(NANOS_PER_SECOND))
            .and_then(|nanos| u32::try_from(nanos / NANOS_PER_SECOND).ok())
            .ok_or_else(|| {
                FieldError::new(
                    "spec.window",
                    format!(
                        "'{}' is not a duration of whole seconds such as 5m or 1h",
                        text.escape_default()
                    ),
                )
            })
    }
}

/// The field of the document by that of the resource.
fn document_field(field: &'static str) -> &'static str {
    match field {
        "target_millionths" => "target",
        "threshold_nanos" => "threshold",
        "window_seconds" => "window",
        other => other,
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_percentiles() {
        for (text, expected) in [
            ("p50", Some(500_000)),
            ("p99", Some(990_000)),
            ("p99.9", Some(999_000)),
            ("p99.9999", Some(999_999)),
            ("p5", Some(50_000)),
            ("p100", None),
            ("p0", None),
            ("99", None),
            ("p", None),
            ("p9.", None),
            ("p99.99999", None),
            ("p+9", None),
        ] {
            let budget = LatencyBudget {
                target: text.into(),
                ..LatencyBudget::default()
            };
            assert_eq!(budget.target_millionths().ok(), expected, "{text}");
        }
    }
}
