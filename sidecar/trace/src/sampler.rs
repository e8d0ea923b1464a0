//! Whether a trace is recorded, decided at its start (OpenTelemetry's samplers), and whether a request is kept all the same
//! when it ended badly.

use std::time::Duration;

use crate::context::Incoming;
use crate::id::TraceId;

/// What is decided where there is no parent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Root {
    /// Every trace.
    Always,
    /// None.
    Never,
    /// Those whose identifier lies below this bound, of 2^63.
    Below(u64),
}

impl Root {
    /// A share of traces, `0.0..=1.0`.
    pub fn ratio(share: f64) -> Self {
        if share >= 1.0 {
            return Self::Always;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bound = (share.max(0.0) * 9_223_372_036_854_775_808.0) as u64;
        Self::Below(bound)
    }

    fn decide(self, trace: TraceId) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Below(bound) => trace.low() >> 1 < bound,
        }
    }
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// The caller's decision stands.
    pub parent_based: bool,
    /// Where it does not, or there is none.
    pub root: Root,
    /// A request that took this long or longer is kept whatever was decided at its start.
    pub slow: Duration,
}

impl Default for Sampler {
    /// OpenTelemetry's default, `parentbased_always_on`.
    fn default() -> Self {
        Self {
            parent_based: true,
            root: Root::Always,
            slow: Duration::from_secs(1),
        }
    }
}

impl Sampler {
    /// The decision at the start.
    pub fn decide(&self, incoming: Incoming, trace: TraceId) -> bool {
        match incoming {
            Incoming::Under(parent) if self.parent_based => parent.is_sampled(),
            Incoming::Decided(sampled) if self.parent_based => sampled,
            _ => self.root.decide(trace),
        }
    }

    /// Whether a request that was not sampled is kept at its end.
    pub fn keeps(&self, denied: bool, took: Duration) -> bool {
        denied || took >= self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Parent, SAMPLED};
    use crate::id::IdSource;

    #[test]
    fn the_callers_decision_stands_when_it_is_asked() {
        let ids = IdSource::new(3);
        let under = |flags| {
            Incoming::Under(Parent {
                trace: ids.trace(),
                span: ids.span(),
                flags,
            })
        };
        let trace = ids.trace();
        let sampler = Sampler {
            root: Root::Never,
            ..Sampler::default()
        };
        assert!(sampler.decide(under(SAMPLED), trace));
        assert!(!sampler.decide(under(0), trace));
        assert!(!sampler.decide(Incoming::Nothing, trace));
        let alone = Sampler {
            parent_based: false,
            root: Root::Always,
            ..sampler
        };
        assert!(alone.decide(under(0), trace));
    }

    #[test]
    fn a_ratio_samples_its_share_and_the_same_traces_everywhere() {
        let ids = IdSource::new(11);
        for share in [0.0, 0.01, 0.5, 1.0] {
            let root = Root::ratio(share);
            let traces: Vec<_> = (0..20_000).map(|_| ids.trace()).collect();
            let kept = traces.iter().filter(|t| root.decide(**t)).count();
            let off = (f64::from(u32::try_from(kept).unwrap()) / 20_000.0 - share).abs();
            assert!(off < 0.015, "{share}: {kept}");
            assert_eq!(
                kept,
                traces
                    .iter()
                    .filter(|t| Root::ratio(share).decide(**t))
                    .count()
            );
        }
    }

    #[test]
    fn what_ended_badly_is_kept() {
        let sampler = Sampler::default();
        assert!(sampler.keeps(true, Duration::ZERO));
        assert!(sampler.keeps(false, sampler.slow));
        assert!(!sampler.keeps(false, Duration::from_millis(1)));
    }
}
