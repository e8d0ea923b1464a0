//! A real Prometheus scrapes a sidecar: it takes the whole page as OpenMetrics, and leads from a bucket to a trace.
#![allow(clippy::expect_used)]

use mesh_e2e::collector::Collector;
use mesh_e2e::prometheus::Prometheus;
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn prometheus_takes_every_metric_and_leads_from_a_bucket_to_a_trace() {
    let collector = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
    let mesh = Mesh::with_environment(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let line = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n");
    let answer = http::get(mesh.address("web", "outbound"), "orders", "/", &line);
    assert_eq!(answer.status, 200);
    let target = mesh.address("orders", "admin");
    let page = http::get(
        target,
        &target.to_string(),
        "/metrics",
        "accept: application/openmetrics-text; version=1.0.0\r\n",
    );
    assert!(
        http::field(&page.head, "content-type")
            .is_some_and(|t| t.starts_with("application/openmetrics-text")),
        "{}",
        page.head
    );
    for name in [
        "postern_connections_open ",
        "postern_pool_connections{pool=\"mesh\"} ",
        "postern_token_cache_entries ",
        "postern_decisions_total{policy=",
        "postern_certificate_age_seconds ",
        "postern_update_duration_seconds_count{stage=\"applied\"} ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
    ] {
        assert!(page.text().contains(name), "{name}: {}", page.text());
    }

    let directory = tempfile::tempdir().expect("a directory");
    let prometheus = Prometheus::start(directory.path(), &[("sidecars", &[target])], None);
    let mut last = Value::Null;
    eventually("a scrape", || {
        last = prometheus.ask("/api/v1/targets").unwrap_or_default();
        last["activeTargets"][0]["health"] == "up"
    });
    let exemplars = "/api/v1/query_exemplars?query=postern_request_duration_seconds_bucket&start=0&end=9999999999";
    let mut found = Value::Null;
    eventually("an exemplar with the trace", || {
        found = prometheus.ask(exemplars).unwrap_or_default();
        found.to_string().contains(TRACE)
    });
    let series = &found[0]["seriesLabels"];
    assert_eq!(series["direction"], "inbound", "{found}");
    // Everything on the page, not only up to a line that could not be read.
    let count = prometheus
        .ask("/api/v1/query?query=scrape_samples_scraped")
        .expect("an answer");
    let samples = page.text().lines().filter(|l| !l.starts_with('#')).count();
    let scraped: usize = count["result"][0]["value"][1]
        .as_str()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!(scraped >= samples, "{scraped} of {samples}");
}
