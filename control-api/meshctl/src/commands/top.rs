//! `meshctl top`: what goes on between workloads right now, from two readings of their sidecars.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use mesh_auth::latency::{self, BUCKETS};
use mesh_proto::admin::{EdgeView, EdgesResponse, WorkloadEdges};
use mesh_proto::mesh::Edge;
use serde::Serialize;
use serde_json::json;

use super::edges::{self, Origin};
use crate::cli::{Format, TopArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Begins a screen anew: cursor to the top, the rest cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Debug, Serialize)]
struct Row {
    from: Origin,
    to: String,
    port: u32,
    requests_per_second: f64,
    /// Share of the requests that were not refused and did not fail; absent without requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
    denied_per_second: f64,
    connections_per_second: f64,
}

/// Compares readings until told to end.
pub(super) async fn run(
    admin: &mut Admin,
    arguments: TopArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let is_screen = format == Format::Table && !arguments.once && std::io::stdout().is_terminal();
    let (workload, namespace) = (
        arguments.workload.as_deref(),
        arguments.namespace.as_deref(),
    );
    let mut before = edges::read(admin, workload, namespace).await?;
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(arguments.interval.into()));
        tokio::select! {
            () = pause => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
        let after = edges::read(admin, workload, namespace).await?;
        let mut rows = compare(&before, &after);
        rows.truncate(arguments.limit.into());
        let value = json!({
            "interval_s": seconds(&before, &after), "edges": rows, "silent": after.silent,
        });
        let screen = || {
            let mut text = table(&rows);
            text.push_str(&edges::silence(&after.silent));
            text
        };
        if is_screen {
            output::write(&format!("{CLEAR}{}", screen()))?;
        } else {
            output::print(format, &value, screen)?;
            return Ok(ExitCode::SUCCESS);
        }
        before = after;
    }
}

#[allow(clippy::cast_precision_loss)] // An interval has few milliseconds.
fn seconds(before: &EdgesResponse, after: &EdgesResponse) -> f64 {
    ((after.at_unix_ms - before.at_unix_ms).max(1)) as f64 / 1_000.0
}

/// What happened between two readings, busiest first. A sidecar that was restarted counts from its start.
fn compare(before: &EdgesResponse, after: &EdgesResponse) -> Vec<Row> {
    let seconds = seconds(before, after);
    let mut earlier = BTreeMap::new();
    for to in &before.workloads {
        for view in &to.edges {
            if let Some(counts) = &view.counts {
                let key = key(to, view, counts.port);
                earlier.insert(key, counts);
            }
        }
    }
    let nothing = Edge::default();
    let mut rows = Vec::new();
    for to in &after.workloads {
        for view in &to.edges {
            let Some(counts) = &view.counts else {
                continue;
            };
            let key = key(to, view, counts.port);
            let earlier = earlier.get(&key).copied().unwrap_or(&nothing);
            let ends = edges::ends(to, view);
            rows.push(row(ends, earlier, counts, seconds));
        }
    }
    rows.sort_by(|a, b| {
        let busy = |row: &Row| {
            row.requests_per_second + row.denied_per_second + row.connections_per_second
        };
        busy(b)
            .total_cmp(&busy(a))
            .then_with(|| a.from.cmp(&b.from))
    });
    rows
}

/// What two readings have the same of.
fn key<'a>(
    teller: &'a WorkloadEdges,
    view: &EdgeView,
    port: u32,
) -> (&'a str, &'a str, (Origin, String), u32) {
    let ends = edges::ends(teller, view);
    (&teller.workload, &teller.instance, ends, port)
}

fn row((from, to): (Origin, String), before: &Edge, after: &Edge, seconds: f64) -> Row {
    let since = |value: fn(&Edge) -> u64| value(after).saturating_sub(value(before));
    #[allow(clippy::cast_precision_loss)]
    let rate = |count: u64| count as f64 / seconds;
    let requests = since(|e| e.requests);
    let mut buckets = spread(after);
    for (bucket, before) in buckets.iter_mut().zip(spread(before)) {
        *bucket = bucket.saturating_sub(before);
    }
    let served: u64 = buckets.iter().sum();
    #[allow(clippy::cast_precision_loss)]
    let percentile = |millionths| {
        (served > 0).then(|| latency::percentile(&buckets, millionths) as f64 / 1_000.0)
    };
    // Not of `requests`: a request that is counted between two looks at an edge may be in one of the two counts alone.
    let all = served + since(|e| e.denied);
    #[allow(clippy::cast_precision_loss)]
    let success = (all > 0).then(|| {
        let good = served.saturating_sub(since(|e| e.failed));
        good as f64 / all as f64
    });
    Row {
        from,
        to,
        port: after.port,
        requests_per_second: rate(requests),
        success,
        p50_us: percentile(500_000),
        p99_us: percentile(990_000),
        denied_per_second: rate(since(|e| e.denied)),
        connections_per_second: rate(since(|e| e.connections)),
    }
}

/// All buckets of an edge that names those that are not empty.
fn spread(edge: &Edge) -> Vec<u64> {
    let mut buckets = vec![0; BUCKETS];
    for (bucket, count) in edge.buckets.iter().zip(&edge.counts) {
        if let Some(held) = buckets.get_mut(*bucket as usize) {
            *held += count;
        }
    }
    buckets
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "nothing was seen yet\n".to_owned();
    }
    let mut table = Table::new(&[
        "FROM", "TO", "PORT", "PROOF", "REQ/S", "OK", "P50", "P99", "DENIED/S", "OPAQUE/S",
    ]);
    let number = |value: f64| match value {
        0.0 => "0".to_owned(),
        v if v < 10.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    };
    let time = |micros: Option<f64>| micros.map_or_else(|| "-".to_owned(), moment::latency);
    for row in rows {
        let success = match row.success {
            None => Cell::toned("-", Tone::Dim),
            Some(share) if share >= 0.999 => {
                Cell::toned(format!("{:.1}%", share * 100.0), Tone::Good)
            }
            Some(share) => Cell::toned(format!("{:.1}%", share * 100.0), Tone::Bad),
        };
        let denied = match row.denied_per_second {
            d if d > 0.0 => Cell::toned(number(d), Tone::Bad),
            _ => "0".into(),
        };
        table.row([
            row.from.name.as_str().into(),
            row.to.as_str().into(),
            row.port.to_string().into(),
            edges::proof(row.from.mtls),
            number(row.requests_per_second).into(),
            success,
            time(row.p50_us).into(),
            time(row.p99_us).into(),
            denied,
            number(row.connections_per_second).into(),
        ]);
    }
    table.render(output::colour())
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh::edge;

    use super::*;

    fn reading(instance: &str, at: i64, requests: u64, failed: u64, denied: u64) -> EdgesResponse {
        let bucket = u32::try_from(latency::bucket(300_000)).expect("small");
        let counts = Edge {
            from: Some(edge::From::Peer("spiffe://td/ns/shop/sa/web".into())),
            port: 80,
            requests,
            failed,
            denied,
            buckets: vec![bucket],
            counts: vec![requests - denied],
            ..Edge::default()
        };
        let to = WorkloadEdges {
            workload: "shop/orders".into(),
            instance: instance.into(),
            edges: vec![EdgeView {
                counts: Some(counts),
                ..EdgeView::default()
            }],
            ..WorkloadEdges::default()
        };
        EdgesResponse {
            workloads: vec![to],
            at_unix_ms: at,
            ..EdgesResponse::default()
        }
    }

    #[test]
    fn a_request_that_is_counted_between_two_looks_makes_no_success_of_more_than_all() {
        let before = reading("a", 1_000, 100, 0, 0);
        for (requests, served) in [(40, 41), (41, 40)] {
            let mut after = reading("a", 3_000, 100 + requests, 0, 0);
            if let Some(counts) = &mut after.workloads[0].edges[0].counts {
                counts.counts = vec![100 + served];
            }
            assert_eq!(compare(&before, &after)[0].success, Some(1.0));
        }
    }

    #[test]
    fn two_readings_make_rates_and_a_restart_counts_from_its_start() {
        let before = reading("a", 1_000, 100, 0, 0);
        let rows = compare(&before, &reading("a", 3_000, 140, 2, 10));
        let row = &rows[0];
        assert!((row.requests_per_second - 20.0).abs() < 1e-9);
        assert!((row.denied_per_second - 5.0).abs() < 1e-9);
        assert_eq!(row.success, Some(28.0 / 40.0));
        assert!(row.p99_us.is_some_and(|p| (300.0..=330.0).contains(&p)));
        let text = table(&rows);
        for part in ["shop/web", "mTLS", "20", "70.0%", "5.0"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let rows = compare(&before, &reading("b", 3_000, 10, 0, 0));
        assert!((rows[0].requests_per_second - 5.0).abs() < 1e-9);
        let rows = compare(&before, &reading("a", 3_000, 100, 0, 0));
        assert_eq!((rows[0].success, rows[0].p50_us), (None, None));
    }
}
