//! How long each phase of a request took: a fixed array and the moment of the last mark.
//!
//! Phases follow each other without gaps: a mark gives everything since the mark before to one phase. So the phases of a
//! request add up to the request, and a span's children account for all of it.

use std::time::{Duration, Instant};

/// A phase on the way of a request or connection, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Phase {
    /// From the head of the request to the decision that it may be looked at: admission, reserved headers.
    Admit,
    /// Verifying the token, from the cache or not.
    Token,
    /// Waiting for what only somebody else knows about the token: keys, an issuer.
    Introspect,
    /// The policy decision.
    Policy,
    /// Finding an endpoint and a connection to it.
    Connect,
    /// The TLS handshake of a connection that this request had to open.
    Handshake,
    /// From the request's start on the upstream connection to the head of the response.
    Upstream,
    /// From the head of the response to its end.
    Response,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 8] = [
        Self::Admit,
        Self::Token,
        Self::Introspect,
        Self::Policy,
        Self::Connect,
        Self::Handshake,
        Self::Upstream,
        Self::Response,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
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

    /// The name of the child span.
    pub const fn span_name(self) -> &'static str {
        match self {
            Self::Admit => "postern.admit",
            Self::Token => "postern.token",
            Self::Introspect => "postern.introspect",
            Self::Policy => "postern.policy",
            Self::Connect => "postern.connect",
            Self::Handshake => "postern.handshake",
            Self::Upstream => "postern.upstream",
            Self::Response => "postern.response",
        }
    }

    /// True for the sidecar's own work; the others wait for somebody else.
    pub const fn is_own(self) -> bool {
        !matches!(self, Self::Upstream | Self::Response)
    }
}

/// The phases of one request.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    started: Instant,
    last: Instant,
    nanos: [u64; Phase::ALL.len()],
    stopped: bool,
}

impl Timeline {
    /// Starts now.
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            nanos: [0; Phase::ALL.len()],
            stopped: false,
        }
    }

    /// Never moves: marks read no clock, and no phase takes time.
    pub fn stopped() -> Self {
        Self {
            stopped: true,
            ..Self::start()
        }
    }

    /// Gives the time since the last mark to `phase`.
    pub fn mark(&mut self, phase: Phase) {
        if !self.stopped {
            self.mark_at(phase, Instant::now());
        }
    }

    /// As [`Self::mark`], at a moment that was read already.
    pub fn mark_at(&mut self, phase: Phase, now: Instant) {
        if self.stopped {
            return;
        }
        if let Some(elapsed) = now.checked_duration_since(self.last) {
            // Five hundred years fit.
            let seconds = elapsed.as_secs().wrapping_mul(1_000_000_000);
            self.nanos[phase as usize] += seconds.wrapping_add(elapsed.subsec_nanos().into());
            self.last = now;
        }
    }

    /// What `phase` took.
    pub fn of(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.nanos[phase as usize])
    }

    /// From the start to the last mark.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.total_nanos())
    }

    /// The same in nanoseconds.
    pub fn total_nanos(&self) -> u64 {
        // Phases have no gaps.
        self.nanos.iter().sum()
    }

    /// Nanoseconds by phase, in the order of [`Phase::ALL`]; 0: it did not come by.
    pub fn nanos(&self) -> &[u64; Phase::ALL.len()] {
        &self.nanos
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When the last mark was made.
    pub fn ended(&self) -> Instant {
        self.last
    }

    /// The phases that took any time, in order, with their offsets from the start.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, Duration, Duration)> + '_ {
        let mut offset = 0;
        Phase::ALL.into_iter().filter_map(move |phase| {
            let took = self.nanos[phase as usize];
            let start = offset;
            offset += took;
            (took > 0).then_some((
                phase,
                Duration::from_nanos(start),
                Duration::from_nanos(took),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_to_the_whole() {
        let mut timeline = Timeline::start();
        let start = timeline.started();
        let at = |micros| start + Duration::from_micros(micros);
        timeline.mark_at(Phase::Admit, at(3));
        timeline.mark_at(Phase::Token, at(5));
        timeline.mark_at(Phase::Policy, at(6));
        timeline.mark_at(Phase::Upstream, at(96));
        timeline.mark_at(Phase::Response, at(100));
        assert_eq!(timeline.total(), Duration::from_micros(100));
        let sum: Duration = timeline.phases().map(|(_, _, took)| took).sum();
        assert_eq!(sum, timeline.total());
        let phases: Vec<_> = timeline.phases().map(|(p, s, _)| (p, s)).collect();
        assert_eq!(phases[1], (Phase::Token, Duration::from_micros(3)));
        assert_eq!(phases.last().unwrap().1, Duration::from_micros(96));
    }

    #[test]
    fn a_stopped_one_stands_still() {
        let mut timeline = Timeline::stopped();
        timeline.mark(Phase::Admit);
        timeline.mark_at(Phase::Upstream, timeline.started() + Duration::from_secs(1));
        assert_eq!(timeline.total(), Duration::ZERO);
        assert_eq!(timeline.phases().count(), 0);
    }

    #[test]
    fn a_mark_in_the_past_takes_nothing_away() {
        let mut timeline = Timeline::start();
        let start = timeline.started();
        timeline.mark_at(Phase::Token, start + Duration::from_micros(10));
        timeline.mark_at(Phase::Policy, start);
        assert_eq!(timeline.of(Phase::Policy), Duration::ZERO);
        assert_eq!(timeline.total(), Duration::from_micros(10));
    }
}
