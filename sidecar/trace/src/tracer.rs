//! One worker's side of tracing: begins spans, writes their context on, and hands what is kept to the exporter.
//!
//! Handing over is one try on a bounded queue: a full one drops the span and counts it. The exporter looks at the queue by
//! the clock and is woken once for many spans, not by a request.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use http::HeaderMap;
use metrics::{Counter, counter};
use tokio::sync::Notify;

use crate::context::{Incoming, Propagation, RANDOM, SAMPLED};
use crate::id::{IdSource, SpanId, TraceId};
use crate::sampler::Sampler;
use crate::span::Span;

/// A span that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The trace.
    pub trace: TraceId,
    /// This span.
    pub span: SpanId,
    /// The caller's; `None` for a root.
    pub parent: Option<SpanId>,
    /// Decided at the start: it is recorded.
    pub sampled: bool,
}

/// Spans that are dropped without a try after the queue was full.
const PASSING: u32 = 32;

/// Begins and ends the spans of one worker.
#[derive(Debug)]
pub struct Tracer {
    on: Option<On>,
    ids: IdSource,
}

#[derive(Debug)]
struct On {
    sampler: Sampler,
    propagation: Propagation,
    queue: SyncSender<Box<Span>>,
    /// Spans handed over since the exporter was woken, and how many it is woken for.
    unseen: Cell<usize>,
    wake_at: usize,
    /// Spans that are still to be dropped without a try.
    passing: Cell<u32>,
    exporter: Arc<Notify>,
    dropped: Counter,
}

/// The exporter's end of one worker's queue.
pub type Queue = Receiver<Box<Span>>;

impl Tracer {
    /// Does nothing: contexts pass through as they come.
    pub fn off() -> Self {
        Self {
            on: None,
            ids: IdSource::new(0),
        }
    }

    /// A tracer with a queue of `capacity` spans, which wakes `exporter` well before that is full.
    pub fn new(
        sampler: Sampler,
        propagation: Propagation,
        capacity: usize,
        exporter: Arc<Notify>,
        seed: u64,
    ) -> (Self, Queue) {
        let (sender, receiver) = sync_channel(capacity.max(1));
        let on = On {
            sampler,
            propagation,
            queue: sender,
            unseen: Cell::new(0),
            wake_at: (capacity / 4).max(1),
            passing: Cell::new(0),
            exporter,
            dropped: counter!("postern_spans_dropped_total", "reason" => "queue_full"),
        };
        let tracer = Self {
            on: Some(on),
            ids: IdSource::new(seed),
        };
        (tracer, receiver)
    }

    /// True when spans are made at all.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Begins the span of a request and makes it the parent of what comes after. An unrecorded span under a parent leaves
    /// the parent in place.
    pub fn start(&self, headers: &mut HeaderMap) -> Option<Started> {
        let on = self.on.as_ref()?;
        let incoming = on.propagation.read(headers);
        let (trace, parent, flags) = match incoming {
            Incoming::Under(parent) => (parent.trace, Some(parent.span), parent.flags & RANDOM),
            _ => (self.ids.trace(), None, RANDOM),
        };
        let sampled = on.sampler.decide(incoming, trace);
        let started = Started {
            trace,
            span: self.ids.span(),
            parent,
            sampled,
        };
        let flags = flags | if sampled { SAMPLED } else { 0 };
        match incoming {
            Incoming::Under(parent) if !sampled && !parent.is_sampled() => {}
            _ => on
                .propagation
                .write(headers, trace, started.span, flags, parent.is_some()),
        }
        Some(started)
    }

    /// Begins the span of an opaque connection, which carries no context.
    pub fn start_connection(&self) -> Option<Started> {
        self.start(&mut HeaderMap::new())
    }

    /// Whether a span is worth making: sampled, or kept for how it ended.
    pub fn keeps(&self, started: Started, denied: bool, took: Duration) -> bool {
        self.on
            .as_ref()
            .is_some_and(|on| started.sampled || on.sampler.keeps(denied, took))
    }

    /// Hands a span to the exporter, or drops it when that is behind: then the next few are not even made.
    pub fn hand_over(&self, span: impl FnOnce() -> Span) {
        let Some(on) = &self.on else {
            return;
        };
        let passing = on.passing.get();
        if passing > 0 {
            on.passing.set(passing - 1);
            on.dropped.increment(1);
            return;
        }
        if on.queue.try_send(Box::new(span())).is_err() {
            on.passing.set(PASSING);
            on.dropped.increment(1);
            return;
        }
        let unseen = on.unseen.get() + 1;
        if unseen < on.wake_at {
            on.unseen.set(unseen);
        } else {
            on.unseen.set(0);
            on.exporter.notify_one();
        }
    }
}

/// The text of a SPIFFE ID, shared by the spans of a connection.
pub type SharedText = Arc<str>;

#[cfg(test)]
pub(crate) mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::sampler::Root;
    use crate::{SpanKind, Subject, Timeline};

    pub(crate) fn span(started: Started) -> Span {
        Span {
            started,
            kind: SpanKind::Server,
            at: std::time::SystemTime::UNIX_EPOCH,
            timeline: Timeline::start(),
            subject: Subject::Connection,
            peer_address: None,
            port: 0,
            peer_id: None,
            own_id: None,
            verdict: None,
            sent: 0,
            received: 0,
            error: None,
        }
    }

    fn tracer(root: Root, capacity: usize) -> (Tracer, Queue) {
        let sampler = Sampler {
            root,
            ..Sampler::default()
        };
        let exporter = Arc::new(Notify::new());
        Tracer::new(sampler, Propagation::default(), capacity, exporter, 5)
    }

    #[test]
    fn the_next_hop_is_told_of_this_span() {
        let (tracer, _queue) = tracer(Root::Always, 4);
        let mut headers = HeaderMap::new();
        let first = tracer.start(&mut headers).unwrap();
        assert!(first.sampled && first.parent.is_none());
        let second = tracer.start(&mut headers).unwrap();
        assert_eq!(
            (second.trace, second.parent),
            (first.trace, Some(first.span))
        );
    }

    #[test]
    fn an_unrecorded_span_leaves_its_parent_in_place() {
        let (tracer, _queue) = tracer(Root::Always, 4);
        let mut headers = HeaderMap::new();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        headers.insert("traceparent", HeaderValue::from_static(parent));
        assert!(!tracer.start(&mut headers).unwrap().sampled);
        assert_eq!(headers["traceparent"], parent);
    }

    #[test]
    fn an_unsampled_root_keeps_those_after_it_from_beginning_traces_of_their_own() {
        let (tracer, _queue) = tracer(Root::Never, 4);
        let mut headers = HeaderMap::new();
        let started = tracer.start(&mut headers).unwrap();
        assert!(headers["traceparent"].to_str().unwrap().ends_with("-02"));
        assert!(!tracer.keeps(started, false, Duration::ZERO));
        assert!(
            tracer.keeps(started, true, Duration::ZERO),
            "denials are kept"
        );
    }

    #[test]
    fn a_full_queue_drops_and_does_not_wait() {
        let (tracer, queue) = tracer(Root::Always, 2);
        let started = tracer.start_connection().unwrap();
        for _ in 0..5 {
            tracer.hand_over(|| span(started));
        }
        assert_eq!(queue.try_iter().count(), 2);
        let made = Cell::new(0);
        for _ in 0..PASSING {
            tracer.hand_over(|| {
                made.set(made.get() + 1);
                span(started)
            });
        }
        assert_eq!(
            made.get(),
            2,
            "after two that were dropped before, one was tried anew"
        );
        drop(queue);
        tracer.hand_over(|| span(started));
    }

    #[tokio::test]
    async fn the_exporter_is_woken_once_for_many_spans() {
        let exporter = Arc::new(Notify::new());
        let (tracer, _queue) = Tracer::new(
            Sampler::default(),
            Propagation::default(),
            8,
            Arc::clone(&exporter),
            5,
        );
        let started = tracer.start_connection().unwrap();
        let mut woken = Vec::new();
        for _ in 0..6 {
            tracer.hand_over(|| span(started));
            let notified = exporter.notified();
            let mut notified = std::pin::pin!(notified);
            woken.push(notified.as_mut().enable());
        }
        assert_eq!(woken, [false, true, false, true, false, true]);
    }

    #[test]
    fn off_is_transparent() {
        let tracer = Tracer::off();
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("as it came"));
        assert!(tracer.start(&mut headers).is_none() && !tracer.is_on());
        assert_eq!(headers["traceparent"], "as it came");
    }
}
