//! What a `LatencyBudget` says, checked.

use mesh_proto::mesh;

/// Shortest and longest threshold, nanoseconds: below lies the clock's own noise, above is nobody's budget.
const THRESHOLD: std::ops::RangeInclusive<u64> = 1_000..=60_000_000_000;
/// Shortest and longest window, seconds.
const WINDOW: std::ops::RangeInclusive<u32> = 60..=86_400;
/// Longest issuer.
const MAX_ISSUER: usize = 2_048;
const MILLION: u32 = 1_000_000;

/// What of a request is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// All of it.
    Request,
    /// The sidecar's own part.
    Own,
    /// From the head to the decision that it may be looked at.
    Admit,
    /// Verifying the token.
    Token,
    /// Waiting for what only somebody else knows about the token.
    Introspect,
    /// The policy decision.
    Policy,
    /// Finding an endpoint and a connection to it.
    Connect,
    /// The TLS handshake: inbound, of a connection; outbound, of one that was opened for a request.
    Handshake,
    /// To the head of the response.
    Upstream,
    /// From the head of the response to its end.
    Response,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 10] = [
        Self::Request,
        Self::Own,
        Self::Admit,
        Self::Token,
        Self::Introspect,
        Self::Policy,
        Self::Connect,
        Self::Handshake,
        Self::Upstream,
        Self::Response,
    ];

    /// As documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Own => "own",
            Self::Admit => "admit",
            Self::Token => "token",
            Self::Introspect => "introspect",
            Self::Policy => "policy",
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Upstream => "upstream",
            Self::Response => "response",
        }
    }

    /// The phase that documents call `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// On the wire.
    pub const fn to_proto(self) -> mesh::LatencyPhase {
        match self {
            Self::Request => mesh::LatencyPhase::Request,
            Self::Own => mesh::LatencyPhase::Own,
            Self::Admit => mesh::LatencyPhase::Admit,
            Self::Token => mesh::LatencyPhase::Token,
            Self::Introspect => mesh::LatencyPhase::Introspect,
            Self::Policy => mesh::LatencyPhase::Policy,
            Self::Connect => mesh::LatencyPhase::Connect,
            Self::Handshake => mesh::LatencyPhase::Handshake,
            Self::Upstream => mesh::LatencyPhase::Upstream,
            Self::Response => mesh::LatencyPhase::Response,
        }
    }

    fn of_proto(phase: i32) -> Option<Self> {
        let phase = mesh::LatencyPhase::try_from(phase).ok()?;
        Self::ALL.into_iter().find(|own| own.to_proto() == phase)
    }
}

/// Direction of requests, as seen by the sidecar that measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From others to the workload.
    Inbound,
    /// From the workload to others.
    Outbound,
}

/// A budget: so large a share of these requests must not spend more than that in this phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// `namespace/name`.
    pub name: Box<str>,
    /// Which requests.
    pub direction: Direction,
    /// What of them.
    pub phase: Phase,
    /// Only those with a verified token of this issuer; `None`: all.
    pub issuer: Option<Box<str>>,
    /// The share, millionths; less than a million.
    pub target_millionths: u32,
    /// The threshold, nanoseconds.
    pub threshold_nanos: u64,
    /// What the share is of, seconds.
    pub window_seconds: u32,
}

/// Why a budget makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BudgetError {
    /// The resource's field.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Budget {
    /// Checks what `message` says.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn parse(message: &mesh::LatencyBudget) -> Result<Self, BudgetError> {
        let wrong = |field, problem: String| Err(BudgetError { field, problem });
        let direction = match mesh::LatencyDirection::try_from(message.direction) {
            Ok(mesh::LatencyDirection::Inbound) => Direction::Inbound,
            Ok(mesh::LatencyDirection::Outbound) => Direction::Outbound,
            Err(_) => return wrong("direction", format!("{} is unknown", message.direction)),
        };
        let Some(phase) = Phase::of_proto(message.phase) else {
            return wrong("phase", format!("{} is unknown", message.phase));
        };
        if direction == Direction::Outbound
            && matches!(phase, Phase::Token | Phase::Introspect | Phase::Policy)
        {
            return wrong(
                "phase",
                format!("'{}' is no phase of outbound requests", phase.as_str()),
            );
        }
        if message.issuer.len() > MAX_ISSUER {
            return wrong("issuer", format!("is longer than {MAX_ISSUER} bytes"));
        }
        if !message.issuer.is_empty() && phase == Phase::Handshake {
            return wrong("issuer", "a handshake has no token: leave it out".into());
        }
        if !message.issuer.is_empty() && direction == Direction::Outbound {
            return wrong(
                "issuer",
                "tokens are verified inbound: leave it out, or measure the inbound direction"
                    .into(),
            );
        }
        if !(1..MILLION).contains(&message.target_millionths) {
            return wrong(
                "target_millionths",
                "must be more than p0 and less than p100".into(),
            );
        }
        if !THRESHOLD.contains(&message.threshold_nanos) {
            return wrong("threshold_nanos", "must be between 1us and 60s".into());
        }
        if !WINDOW.contains(&message.window_seconds) {
            return wrong("window_seconds", "must be between 1m and 24h".into());
        }
        Ok(Self {
            name: format!("{}/{}", message.namespace, message.name).into(),
            direction,
            phase,
            issuer: (!message.issuer.is_empty()).then(|| message.issuer.as_str().into()),
            target_millionths: message.target_millionths,
            threshold_nanos: message.threshold_nanos,
            window_seconds: message.window_seconds,
        })
    }

    /// True if `over` of `requests` are no more than the target lets be.
    pub fn is_met(&self, requests: u64, over: u64) -> bool {
        u128::from(over) * u128::from(MILLION)
            <= u128::from(requests) * u128::from(MILLION - self.target_millionths)
    }

    /// How many times faster than allowed the budget is used up when `over` of `requests` are over the threshold: 1 uses
    /// it up exactly, 0 not at all.
    pub fn burn_rate(&self, requests: u64, over: u64) -> f64 {
        if requests == 0 {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss)]
        let share = over as f64 / requests as f64;
        share * f64::from(MILLION) / f64::from(MILLION - self.target_millionths)
    }

    /// With fewer requests than this the target lets none be over: one slow request says nothing yet.
    pub fn fewest(&self) -> u64 {
        u64::from(MILLION.div_ceil(MILLION - self.target_millionths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> mesh::LatencyBudget {
        mesh::LatencyBudget {
            name: "b".into(),
            namespace: "shop".into(),
            phase: mesh::LatencyPhase::Token.into(),
            target_millionths: 990_000,
            threshold_nanos: 300_000,
            window_seconds: 3_600,
            ..Default::default()
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_at_its_field() {
        type Change = fn(&mut mesh::LatencyBudget);
        let cases: &[(Change, &str)] = &[
            (|m| m.direction = 9, "direction"),
            (|m| m.phase = 99, "phase"),
            (
                |m| {
                    m.phase = mesh::LatencyPhase::Handshake.into();
                    m.issuer = "https://idp".into();
                },
                "issuer",
            ),
            (|m| m.direction = 1, "phase"),
            (|m| m.target_millionths = 0, "target_millionths"),
            (|m| m.target_millionths = 1_000_000, "target_millionths"),
            (|m| m.threshold_nanos = 999, "threshold_nanos"),
            (|m| m.threshold_nanos = u64::MAX, "threshold_nanos"),
            (|m| m.window_seconds = 59, "window_seconds"),
            (|m| m.window_seconds = 86_401, "window_seconds"),
            (|m| m.issuer = "x".repeat(3_000), "issuer"),
            (
                |m| {
                    m.direction = 1;
                    m.phase = 0;
                    m.issuer = "https://idp".into();
                },
                "issuer",
            ),
        ];
        for (change, field) in cases {
            let mut message = message();
            change(&mut message);
            let error = Budget::parse(&message).expect_err(field);
            assert_eq!(error.field, *field, "{error}");
        }
        assert_eq!(
            Budget::parse(&message()).map(|b| b.name),
            Ok("shop/b".into())
        );
    }

    #[test]
    fn a_budget_is_met_while_no_more_are_over_than_the_target_lets_be() {
        let budget = Budget::parse(&message()).unwrap();
        assert_eq!(budget.fewest(), 100);
        for (requests, over, met, burn) in [
            (0, 0, true, 0.0),
            (100, 1, true, 1.0),
            (100, 2, false, 2.0),
            (1_000, 10, true, 1.0),
            (1_000, 11, false, 1.1),
            (100, 100, false, 100.0),
        ] {
            assert_eq!(budget.is_met(requests, over), met, "{over}/{requests}");
            let told = budget.burn_rate(requests, over);
            assert!((told - burn).abs() < 1e-9, "{over}/{requests}: {told}");
        }
    }
}
