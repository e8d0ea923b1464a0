//! `mesh-bench trace`: requests web -> orders -> payments through the demo's mesh, and whether each is one trace.
//!
//! Every request must be one tree: a client span in the sidecar of `web`, under it a server and a client span in that of
//! `orders`, under that a server span in that of `payments`, and under each the phases that its time went into. The
//! collector is a real one, over gRPC; what it was sent is what is judged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use mesh_proto::opentelemetry::proto::common::v1::any_value::Value;
use mesh_proto::opentelemetry::proto::trace::v1::Span;
use mesh_proto::opentelemetry::proto::trace::v1::span::SpanKind;

use crate::args::Common;
use crate::collector::{Collector, Told};
use crate::demo;
use crate::exchange::Exchange;
use crate::kid::Kid;
use crate::machine::Machine;
use crate::ports;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::{median, quantile};

/// Least part of a sidecar's own time that its phases account for.
const ACCOUNTED: f64 = 0.95;
/// Time for the last spans to come after the last request.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Phases in which a sidecar waits for somebody else.
const WAITING: [&str; 2] = ["postern.upstream", "postern.response"];
/// The spans of a request that are no phases: service, kind, and the place of its parent in this list.
const TREE: [(&str, SpanKind, Option<usize>); 4] = [
    ("demo/web", SpanKind::Client, None),
    ("demo/orders", SpanKind::Server, Some(0)),
    ("demo/orders", SpanKind::Client, Some(1)),
    ("demo/payments", SpanKind::Server, Some(2)),
];
const SECRET: &str = "s3cret";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Requests
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) requests: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("trace", Machine::look(&Programs::default()).await);
    let count = if arguments.common.quick {
        50
    } else {
        arguments.requests
    };
    let outcome = measure(count, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(count: u32, report: &mut Report) -> anyhow::Result<()> {
    let collector = Collector::keeping().await?;
    let ours = Ours::find().await?;
    let folder = ports::folder()?;
    let (_demo, web) = start(&ours, &collector, folder.path()).await?;
    say(&format!("{count} requests"));
    let mut asked = Vec::new();
    for number in 1..=count {
        let trace = u128::from(number).to_be_bytes();
        let line = format!(
            "traceparent: 00-{}-00000000000000aa-01\r\ncookie: sid={SECRET}\r\n",
            hex(&trace)
        );
        let path = format!("/call-payments?token={SECRET}");
        let answer = Exchange::get(web, "orders", &path, line.as_bytes()).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        asked.push(trace.to_vec());
    }
    let deadline = Instant::now() + ARRIVAL;
    let expected = u64::from(count) * TREE.len() as u64;
    while collector.requests() < expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A batch is counted span by span: the phases of the last one may still be on the way.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut traces = collector.traces();
    let (mut whole, mut shares, mut own_us) = (0u32, Vec::new(), Vec::new());
    let mut complaints = BTreeSet::new();
    for trace in &asked {
        let told = traces.remove(trace).unwrap_or_default();
        match judge(&told) {
            Ok(spans) => {
                whole += 1;
                shares.extend(spans.iter().map(|s| s.accounted));
                own_us.extend(spans.iter().map(|s| s.own_us));
            }
            Err(error) => {
                complaints.insert(format!("{error:#}"));
            }
        }
    }
    for complaint in complaints.iter().take(3) {
        report.problem(complaint);
    }
    let told: Vec<_> = collector.traces().into_values().flatten().collect();
    let leaked = told
        .iter()
        .filter(|t| format!("{:?}", t.span).contains(SECRET));
    report.figure("requests", count);
    report.figure("spans", told.len());
    report.figure("own_time_us.median", median(&own_us));
    report.figure("own_time_us.p99", quantile(&own_us, 0.99));
    report.figure("accounted.median", median(&shares));
    let least = shares.iter().copied().min_by(f64::total_cmp);
    report.at_least("accounted_least", least, ACCOUNTED);
    report.at_least("whole_traces_share", Some(share(whole, count)), 1.0);
    report.at_most("spans_with_a_secret", Some(leaked.count() as f64), 0.0);
    Ok(())
}

fn share(part: u32, of: u32) -> f64 {
    f64::from(part) / f64::from(of)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One span of a request.
struct Judged {
    /// Time in which the sidecar did not wait for the next one or for the application.
    own_us: f64,
    /// The part of it that its phases account for.
    accounted: f64,
}

/// Whether the spans of one trace are the tree of a request.
fn judge(told: &[Told]) -> anyhow::Result<Vec<Judged>> {
    let mut found: Vec<&Span> = Vec::new();
    for (service, kind, parent) in TREE {
        let mut matching = told
            .iter()
            .filter(|t| t.service == service && t.span.kind() == kind);
        let span = &matching
            .next()
            .with_context(|| format!("no {kind:?} span of {service}"))?
            .span;
        ensure!(
            matching.next().is_none(),
            "two {kind:?} spans of {service} in one trace"
        );
        if let Some(parent) = parent {
            ensure!(
                span.parent_span_id == found[parent].span_id,
                "the {kind:?} span of {service} is not under the one before it"
            );
        }
        found.push(span);
    }
    let internal = told
        .iter()
        .filter(|t| t.span.kind() == SpanKind::Internal)
        .count();
    ensure!(
        internal + TREE.len() == told.len(),
        "spans of another kind in the trace"
    );
    found.into_iter().map(|span| account(span, told)).collect()
}

/// What the phases of a span account for.
fn account(span: &Span, told: &[Told]) -> anyhow::Result<Judged> {
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    let mut phases: Vec<&Span> = told
        .iter()
        .map(|t| &t.span)
        .filter(|s| s.parent_span_id == span.span_id && s.kind() == SpanKind::Internal)
        .collect();
    phases.sort_by_key(|p| p.start_time_unix_nano);
    let mut last = start;
    let (mut waited, mut worked) = (0, 0);
    for phase in phases {
        let took = phase.end_time_unix_nano - phase.start_time_unix_nano;
        ensure!(
            phase.start_time_unix_nano >= last && phase.end_time_unix_nano <= end,
            "{} overlaps another phase or its span",
            phase.name
        );
        ensure!(
            phase.attributes.iter().any(|a| a.key == "postern.phase"
                && matches!(
                    a.value.as_ref().and_then(|v| v.value.as_ref()),
                    Some(Value::StringValue(_))
                )),
            "{} does not say its phase",
            phase.name
        );
        last = phase.end_time_unix_nano;
        if WAITING.contains(&phase.name.as_str()) {
            waited += took;
        } else {
            worked += took;
        }
    }
    let own = (end - start)
        .checked_sub(waited)
        .context("more waiting than time")?;
    Ok(Judged {
        own_us: own as f64 / 1e3,
        accounted: if own == 0 {
            1.0
        } else {
            worked as f64 / own as f64
        },
    })
}

/// The demo's mesh with every sidecar sending its spans to `collector`; where the application of `web` calls others.
async fn start(
    ours: &Ours,
    collector: &Collector,
    folder: &Path,
) -> anyhow::Result<(Kid, SocketAddr)> {
    say("starting the demo's mesh");
    let (kid, workloads) = demo::start(ours, folder, |command| {
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
            .env("OTEL_BSP_SCHEDULE_DELAY", "200");
    })
    .await?;
    Ok((kid, workloads.web.sidecar.outbound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(service: &str, kind: SpanKind, ids: (u8, u8), times: (u64, u64)) -> Told {
        let mut span = Span {
            trace_id: vec![1; 16],
            span_id: vec![ids.0; 8],
            parent_span_id: vec![ids.1; 8],
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            name: "postern.admit".to_owned(),
            ..Span::default()
        };
        span.set_kind(kind);
        span.attributes
            .push(mesh_proto::opentelemetry::proto::common::v1::KeyValue {
                key: "postern.phase".to_owned(),
                value: Some(mesh_proto::opentelemetry::proto::common::v1::AnyValue {
                    value: Some(Value::StringValue("admit".to_owned())),
                }),
            });
        Told {
            service: service.to_owned(),
            span,
        }
    }

    fn tree() -> Vec<Told> {
        vec![
            told("demo/web", SpanKind::Client, (1, 9), (0, 100)),
            told("demo/orders", SpanKind::Server, (2, 1), (10, 90)),
            told("demo/orders", SpanKind::Client, (3, 2), (20, 80)),
            told("demo/payments", SpanKind::Server, (4, 3), (30, 70)),
        ]
    }

    #[test]
    fn a_tree_is_judged_by_what_its_phases_account_for() {
        let mut spans = tree();
        spans.push(told("demo/web", SpanKind::Internal, (5, 1), (0, 40)));
        spans.push(told("demo/web", SpanKind::Internal, (6, 1), (40, 90)));
        spans[5].span.name = "postern.upstream".to_owned();
        let judged = judge(&spans).unwrap();
        assert!((judged[0].accounted - 0.8).abs() < 1e-9);
        assert!((judged[0].own_us - 0.05).abs() < 1e-9);
        assert!(judged[1].accounted.abs() < 1e-9, "nothing is told of it");
    }

    #[test]
    fn what_is_no_tree_is_said() {
        let mut torn = tree();
        torn[2].span.parent_span_id = vec![7; 8];
        let mut twice = tree();
        twice.push(told("demo/web", SpanKind::Client, (8, 9), (0, 1)));
        let mut overlapping = tree();
        overlapping.push(told("demo/web", SpanKind::Internal, (5, 1), (50, 101)));
        for (spans, says) in [
            (torn, "not under"),
            (twice, "two"),
            (overlapping, "overlaps"),
            (tree().split_off(1), "no Client span of demo/web"),
        ] {
            let error = format!("{:#}", judge(&spans).err().unwrap());
            assert!(error.contains(says), "{error}");
        }
    }
}
