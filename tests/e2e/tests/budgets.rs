//! Latency budgets: from a document to counts at every sidecar, breaches that `meshctl` and metrics tell, and spans of
//! requests that were over.
#![allow(clippy::expect_used)]

use mesh_e2e::collector::Collector;
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

const BUDGETS: &str = "
apiVersion: postern.dev/v1alpha1
kind: LatencyBudget
metadata: {name: tight, namespace: demo}
spec: {selector: {matchLabels: {app: orders}}, target: p50, threshold: 1us, window: 1m}
---
apiVersion: postern.dev/v1alpha1
kind: LatencyBudget
metadata: {name: wide, namespace: postern-system}
spec: {phase: policy, target: p50, threshold: 60s, window: 1m}
---
apiVersion: postern.dev/v1alpha1
kind: LatencyBudget
metadata: {name: calls, namespace: demo}
spec: {selector: {matchLabels: {app: web}}, direction: outbound, phase: own, target: p90, threshold: 30s}
";

fn budgets(mesh: &Mesh, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = mesh.meshctl(&[&["budget", "-o", "json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), value["budgets"].clone())
}

fn row<'a>(rows: &'a Value, name: &str) -> &'a Value {
    let rows = rows.as_array().expect("rows");
    let found = rows.iter().find(|row| row["budget"] == name);
    found.unwrap_or_else(|| panic!("{name}: {rows:#?}"))
}

#[test]
fn a_breach_is_told_by_meshctl_metrics_and_the_spans_that_were_over() {
    let collector = Collector::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.grpc);
    let mesh = Mesh::with_environment(
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ],
    );
    mesh.apply(BUDGETS);
    eventually("orders holds its budgets", || {
        let admin = mesh.address("orders", "admin");
        let dump = http::get(admin, &admin.to_string(), "/config_dump", "").text();
        dump.contains("demo/tight") && dump.contains("postern-system/wide")
    });
    let mut rows = Value::Null;
    eventually("tight is breached, the others are met", || {
        for _ in 0..10 {
            assert_eq!(mesh.call_orders().status, 200);
        }
        let (code, told) = budgets(&mesh, &[]);
        rows = told;
        let state = |name| row(&rows, name)["state"].clone();
        let done = state("demo/tight") == "breached"
            && state("postern-system/wide") == "met"
            && state("demo/calls") == "met";
        assert!(
            !done || code == Some(1),
            "a breach is exit code 1: {code:?}"
        );
        done
    });
    let tight = row(&rows, "demo/tight");
    let sidecars = tight["sidecars"].as_array().expect("sidecars");
    assert_eq!(sidecars.len(), 1, "the selector selects: {tight:#}");
    assert_eq!(sidecars[0]["workload"], "demo/orders");
    assert_eq!(tight["over"], tight["requests"]);
    assert_eq!(tight["burn_rate"], 2.0, "{tight:#}");
    assert!(tight["percentile_us"].as_f64().expect("a number") > 1.0);
    let (code, _) = budgets(&mesh, &["wide"]);
    assert_eq!(code, Some(0), "that one is met");

    let text = mesh.metrics("orders");
    for series in [
        "postern_latency_budget_breached{budget=\"demo/tight\"} 1\n",
        "postern_latency_budget_breached{budget=\"postern-system/wide\"} 0\n",
        "postern_latency_budget_burn_rate{budget=\"demo/tight\",window=\"short\"} 2\n",
        "postern_latency_budget_threshold_seconds{budget=\"demo/tight\"} 0.000001\n",
        "postern_latency_budget_allowed_ratio{budget=\"demo/tight\"} 0.5\n",
        "postern_latency_budget_over_total{budget=\"demo/tight\"}",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    let control = mesh.control_api_metrics();
    assert!(
        control.contains("postern_control_latency_budgets_breached 1\n"),
        "{control}"
    );

    let check = mesh.meshctl(&["check"]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.contains("latency budgets: demo/tight at demo/orders is breached"),
        "{check}"
    );

    let of = |workload: &str| {
        let service = format!("demo/{workload}");
        let spans = collector.spans();
        spans
            .into_iter()
            .filter(|s| s["resource"]["service.name"] == service.as_str())
            .count()
    };
    eventually("spans of requests over their budget", || of("orders") > 0);
    assert_eq!(of("web"), 0, "within its budget and not sampled");

    let deleted = mesh.meshctl(&["delete", "latencybudget", "tight", "-n", "demo"]);
    assert!(deleted.status.success());
    eventually("a budget that is gone alarms nobody", || {
        mesh.metrics("orders")
            .contains("postern_latency_budget_breached{budget=\"demo/tight\"} 0\n")
    });
    let (code, rows) = budgets(&mesh, &[]);
    assert_eq!((code, rows.as_array().map(Vec::len)), (Some(0), Some(2)));
}

#[test]
fn a_budget_that_makes_no_sense_is_refused_with_its_field_and_line() {
    let mesh = Mesh::start(&[]);
    for (spec, field, line) in [
        (
            "  target: p99\n  threshold: 300",
            "spec.threshold",
            "t.yaml:6",
        ),
        ("  target: 99\n  threshold: 1ms", "spec.target", "t.yaml:5"),
        (
            "  phase: tokens\n  target: p99\n  threshold: 1ms",
            "spec.phase",
            "t.yaml:5",
        ),
        (
            "  direction: outbound\n  issuer: https://idp.test\n  target: p99\n  threshold: 1ms",
            "spec.issuer",
            "t.yaml:6",
        ),
        (
            "  target: p99\n  threshold: 1ms\n  window: 1s",
            "spec.window",
            "t.yaml:7",
        ),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.yaml");
        let text = format!(
            "apiVersion: postern.dev/v1alpha1\nkind: LatencyBudget\nmetadata: {{name: b, namespace: demo}}\nspec:\n{spec}\n"
        );
        std::fs::write(&file, text).expect("written");
        let output = mesh.meshctl(&["apply", "-f", file.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(field) && said.contains(line),
            "{field} {line}: {said}"
        );
    }
}
