//! Tells callers who ask for it how long authenticating their request took: `x-auth-timing`, in the syntax of
//! `Server-Timing` (W3C Server Timing §3), milliseconds with three decimals.
//!
//! Only callers of the workload's own trust domain are told, and only of requests that were let in: how long a refusal
//! took is nobody's business. The phases are those of spans and metrics, up to the connection to the application.

use std::fmt::Write as _;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, response};
use mesh_auth::SpiffeId;
use mesh_http1::BodyLength;
use mesh_trace::{Phase, Timeline};

use super::source::Source;
use crate::http::body::BodyError;
use crate::http::forward::Downstream;
use crate::worker::Worker;

/// Asks, in a request with any value, and tells, in its response.
const AUTH_TIMING: HeaderName = HeaderName::from_static("x-auth-timing");

/// Takes the question out of a request. True if it is to be answered.
pub(super) fn is_asked(worker: &Worker, source: &Source, headers: &mut HeaderMap) -> bool {
    if headers.remove(AUTH_TIMING).is_none() {
        return false;
    }
    let snapshot = worker.snapshot();
    let domain = snapshot.identity().map(SpiffeId::trust_domain);
    let peer = source.peer.as_ref();
    domain.is_some() && peer.map(|p| p.id().trust_domain()) == domain
}

/// Adds the timing to the response that goes through it.
pub(super) struct Telling<'a, D> {
    downstream: &'a mut D,
    timing: Option<HeaderValue>,
}

impl<'a, D> Telling<'a, D> {
    /// Tells what `timeline` says so far, if that `is_asked` for.
    pub(super) fn new(downstream: &'a mut D, timeline: &Timeline, is_asked: bool) -> Self {
        Self {
            downstream,
            timing: is_asked.then(|| write(timeline)).flatten(),
        }
    }
}

impl<D: Downstream> Downstream for Telling<'_, D> {
    type Sink = D::Sink;

    fn informational(&mut self, head: response::Parts) -> Result<(), BodyError> {
        self.downstream.informational(head)
    }

    fn respond(
        &mut self,
        mut head: response::Parts,
        length: BodyLength,
    ) -> Result<Self::Sink, BodyError> {
        if let Some(timing) = self.timing.take() {
            head.headers.insert(AUTH_TIMING, timing);
        }
        self.downstream.respond(head, length)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.downstream.poll_flush(cx)
    }
}

/// `None` where nothing was timed.
fn write(timeline: &Timeline) -> Option<HeaderValue> {
    let mut text = String::with_capacity(96);
    let own = |phase: &Phase| phase.is_own() && *phase != Phase::Connect;
    for (phase, _, took) in timeline.phases().filter(|(phase, ..)| own(phase)) {
        let separator = if text.is_empty() { "" } else { ", " };
        let (name, micros) = (phase.as_str(), took.as_micros());
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{separator}{name};dur={}.{:03}",
            micros / 1_000,
            micros % 1_000
        );
    }
    HeaderValue::try_from(text).ok().filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn phases_of_authentication_are_told_in_milliseconds() {
        let mut timeline = Timeline::start();
        let at = |micros| timeline.started() + Duration::from_micros(micros);
        let moments = [
            (Phase::Admit, at(3)),
            (Phase::Token, at(1_050)),
            (Phase::Policy, at(1_051)),
            (Phase::Connect, at(1_070)),
        ];
        assert_eq!(write(&timeline), None);
        for (phase, moment) in moments {
            timeline.mark_at(phase, moment);
        }
        assert_eq!(
            write(&timeline).unwrap(),
            "admit;dur=0.003, token;dur=1.047, policy;dur=0.001"
        );
    }
}
