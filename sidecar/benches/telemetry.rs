//! What telling of a request costs the worker that served it: `cargo bench -p mesh-sidecar --bench telemetry`. Writing the
//! lines out and exporting the spans comes on top; `mesh-bench telemetry-cost` has the whole.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use divan::{Bencher, black_box};
use http::{HeaderMap, Request, StatusCode, request};
use mesh_auth::Reason;
use mesh_sidecar::ledger::Ledger;
use mesh_sidecar::telemetry::Metrics;
use mesh_sidecar::telemetry::access_log::{AccessLog, AccessLogSettings, Filter, Writer};
use mesh_sidecar::telemetry::observe::{Ended, EndedHttp, Line, Observer};
use mesh_sidecar::telemetry::watch::Watch;
use mesh_sidecar::worker::metrics::{Counters, Direction};
use mesh_trace::sampler::Root;
use mesh_trace::{Phase, Propagation, Sampler, Tracer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// What is told.
#[derive(Debug, Clone, Copy)]
enum Telling {
    /// Numbers.
    Metrics,
    /// And a line.
    Lines,
    /// And a span of every hundredth.
    SomeSpans,
    /// And a span of each.
    Spans,
}

fn head() -> request::Parts {
    let request = Request::get("http://orders/orders/7?page=2")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "application/json");
    request.body(()).unwrap().into_parts().0
}

fn log(writer: &Writer) -> AccessLog {
    let settings = AccessLogSettings {
        target: Path::new("/dev/null").into(),
        filter: Filter::All,
        sample: 1.0,
    };
    writer.log(&settings, 7)
}

#[divan::bench(args = [Telling::Metrics, Telling::Lines, Telling::SomeSpans, Telling::Spans], sample_size = 1000)]
fn a_request(bencher: Bencher<'_, '_>, telling: Telling) {
    let metrics = Metrics::new(1_000);
    let recorder = metrics.worker_recorder();
    let _installed = ::metrics::set_default_local_recorder(&recorder);
    let writer = Writer::start(Path::new("/dev/null")).unwrap();
    let share = match telling {
        Telling::SomeSpans => 0.01,
        _ => 1.0,
    };
    let sampler = Sampler {
        root: Root::ratio(share),
        ..Sampler::default()
    };
    let (tracer, queue) = match telling {
        Telling::Metrics | Telling::Lines => (Tracer::off(), None),
        _ => {
            let (tracer, queue) =
                Tracer::new(sampler, Propagation::default(), 2_048, Arc::default(), 5);
            (tracer, Some(queue))
        }
    };
    let lines = (!matches!(telling, Telling::Metrics)).then(|| log(&writer));
    let watch = Watch::new(&Ledger::new());
    let observer = Observer::new(tracer, lines, watch, Some(&recorder));
    let counters = Counters::new();
    let head = head();
    let id: Arc<str> = "spiffe://cluster.local/ns/shop/sa/web".into();
    let policy: Arc<str> = "shop/readers".into();
    let mut told = 0;
    bencher.bench_local(|| {
        let mut headers = HeaderMap::with_capacity(8);
        let mut observation = observer.observe(Direction::Inbound);
        observer.begin(&mut observation, &mut headers);
        observation.timeline.mark(Phase::Admit);
        observation.timeline.mark(Phase::Token);
        observation.allowed(Reason::AllowedByPolicy, || Some(Arc::clone(&policy)));
        observation.timeline.mark(Phase::Policy);
        observation.timeline.mark(Phase::Connect);
        observation.timeline.mark(Phase::Upstream);
        counters.decided(Some("shop/readers"), true);
        counters.request(Direction::Inbound, StatusCode::OK, 0, 1_024);
        observer.request_ended(&mut observation, |_| Ended {
            line: Line::Http(EndedHttp {
                head: &head,
                status: Some(StatusCode::OK),
                grpc_status: None,
            }),
            peer_address: Some(([10, 0, 0, 7], 40_000).into()),
            port: 8080,
            peer_id: Some(Arc::clone(&id)),
            own_id: Some(Arc::clone(&id)),
            sent: 0,
            received: 1_024,
            error: None,
        });
        told += 1;
        if told % 512 == 0
            && let Some(queue) = &queue
        {
            queue.try_iter().for_each(drop);
        }
        black_box(&headers);
    });
}
