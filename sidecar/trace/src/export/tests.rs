use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;

fn span(settings: &Settings) -> (crate::Tracer, Queue, Span) {
    let (tracer, queue) = settings.tracer(7);
    let span = crate::tracer::tests::span(tracer.start_connection().expect("it is on"));
    (tracer, queue, span)
}

fn settings(endpoint: std::net::SocketAddr) -> Settings {
    let get = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{endpoint}")),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" | "OTEL_BSP_SCHEDULE_DELAY" => Some("1".into()),
        _ => None,
    };
    Settings::read(get, "x").expect("good").expect("on")
}

#[test]
fn pauses_grow_to_a_bound_and_differ() {
    let mut backoff = Backoff::new(3);
    let pauses: Vec<_> = (0..12).map(|_| backoff.pause()).collect();
    for (index, pause) in pauses.iter().enumerate() {
        let longest = (FIRST_PAUSE * (1 << index)).min(LONGEST_PAUSE);
        assert!(*pause >= longest / 2 && *pause <= longest, "{pauses:?}");
    }
    assert_ne!(pauses[10], pauses[11]);
    backoff.reset();
    assert!(backoff.pause() <= FIRST_PAUSE);
}

#[tokio::test]
async fn a_collector_that_answers_with_noise_is_not_called_again_for_every_batch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let settings = settings(listener.local_addr().expect("an address"));
    let called = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&called);
    let collector = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            calls.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move { while stream.write_all(&[0xAA; 4096]).await.is_ok() {} });
        }
    });
    let (tracer, queue, span) = span(&settings);
    // More batches than could wait their turn; each is one span.
    for _ in 0..500 {
        tracer.hand_over(|| span.clone());
    }
    let mut exporter = Exporter::new(settings, vec![queue], None, 5).expect("it starts");
    let _ = tokio::time::timeout(FIRST_PAUSE * 2, exporter.run()).await;
    collector.abort();
    // At once, after the first pause of at least half its length, and after the second.
    let called = called.load(Ordering::Relaxed);
    assert!((1..=4).contains(&called), "{called} connections");
}
