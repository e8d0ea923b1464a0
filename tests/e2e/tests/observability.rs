//! What lies in `deploy/observability`: rules hold their cases, and every query speaks of what the programs export.
#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_e2e::prometheus::Prometheus;
use mesh_e2e::promql::{Mentions, mentions};
use mesh_e2e::token::{self, ISSUER, Issuer};
use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

/// Labels that Prometheus adds when it scrapes.
const OF_SCRAPE: [&str; 2] = ["instance", "job"];
/// Exported where the kernel says so of a cgroup, which not every machine does.
const OF_THE_MACHINE: [&str; 2] = [
    "postern_cpu_periods_total",
    "postern_cpu_throttled_periods_total",
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/observability")
}

/// Each expression with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let rules = std::fs::read_to_string(directory().join("prometheus/rules.yaml")).expect("there");
    for (number, line) in rules.lines().enumerate() {
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            all.push((format!("rules.yaml:{}", number + 1), expression.to_owned()));
        }
    }
    let count = rules.matches("expr:").count();
    assert_eq!(all.len(), count, "every expression is on one line");
    for name in ["operators", "security"] {
        let file = directory().join(format!("grafana/{name}.json"));
        let text = std::fs::read_to_string(file).expect("there");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(dashboard["uid"], format!("postern-{name}"));
        assert!(dashboard["schemaVersion"].as_u64() >= Some(39));
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().expect("an expression");
                let expression = expression
                    .replace("$__rate_interval", "1m")
                    .replace("$instance", ".*");
                assert!(!expression.contains('$'), "a variable: {expression}");
                all.push((format!("{name}: {}", panel["title"]), expression));
            }
        }
        for variable in dashboard["templating"]["list"]
            .as_array()
            .expect("variables")
        {
            if let Some(query) = variable["query"]["query"].as_str() {
                let inner = query.strip_prefix("label_values(").expect("label_values");
                let (series, _) = inner.split_once(',').expect("a series");
                all.push((format!("{name}: variable"), series.to_owned()));
            }
        }
    }
    all
}

/// The series that recording rules make, with their labels.
fn recorded() -> BTreeMap<String, BTreeSet<String>> {
    let rules = std::fs::read_to_string(directory().join("prometheus/rules.yaml")).expect("there");
    let mut made = BTreeMap::new();
    let mut name = None;
    for line in rules.lines().map(str::trim) {
        if let Some(record) = line.strip_prefix("- record: ") {
            name = Some(record.to_owned());
        } else if let (Some(expression), Some(name)) = (line.strip_prefix("expr: "), name.take()) {
            made.insert(name, mentions(expression).grouping);
        }
    }
    made
}

/// Adds the series of an exposition, with their labels.
fn read_exposition(text: &str, series: &mut BTreeMap<String, BTreeSet<String>>) {
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Mentions { series: found, .. } = mentions(line.rsplit_once(' ').expect("a value").0);
        for (name, labels) in found {
            series.entry(name).or_default().extend(labels);
        }
    }
}

/// Everything that needs something to happen, in one mesh: tokens of an issuer, policies that are tried and that watch, keys
/// that cannot be fetched, a budget.
fn documents(issuer: &Issuer) -> String {
    format!(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  jwtRules:
  - {{issuer: {ISSUER}, audiences: [orders], jwks: '{jwks}'}}
  - {{issuer: "https://away.test", audiences: [orders], jwksUri: "https://127.0.0.1:9/keys"}}
---
apiVersion: postern.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: tried, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  dryRun: true
  action: DENY
  rules: [{{to: [{{operation: {{paths: ["/tried"]}}}}]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: watched, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  action: AUDIT
  rules: [{{to: [{{operation: {{paths: ["/*"]}}}}]}}]
---
apiVersion: postern.dev/v1alpha1
kind: LatencyBudget
metadata: {{name: tight, namespace: demo}}
spec: {{selector: {{matchLabels: {{app: orders}}}}, target: p50, threshold: 1us, window: 1m}}
"#,
        jwks = issuer.jwks()
    )
}

#[test]
fn rules_hold_their_cases() {
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "rules_test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(directory().join("prometheus"))
            .output()
            .expect("promtool runs (apt-get install prometheus)");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{errors}");
    }
    let rules = std::fs::read_to_string(directory().join("prometheus/rules.yaml")).expect("there");
    let cases =
        std::fs::read_to_string(directory().join("prometheus/rules_test.yaml")).expect("there");
    for alert in rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
    {
        assert!(
            cases.contains(&format!("alertname: {alert}\n")),
            "no case for {alert}"
        );
    }
}

#[test]
fn every_query_speaks_of_what_the_programs_export() {
    // Accepts connections and never says a word: spans are lost.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let mesh = Mesh::with_environment(
        &["--access-log"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ],
    );
    let issuer = Issuer::new("k1");
    mesh.apply(&documents(&issuer));
    let good = token::bearer(&issuer.sign(&issuer.header(), &token::claims()));
    let call = |host: &str, path: &str| {
        let outbound = mesh.address("web", "outbound");
        http::get(outbound, host, path, &good).status
    };
    eventually("orders tries, watches and counts", || {
        assert_eq!(call("orders", "/tried"), 200);
        assert_eq!(call("payments", "/"), 403);
        let text = mesh.metrics("orders");
        text.contains("postern_policy_dry_run_total{")
            && text.contains("postern_latency_budget_breached{")
    });

    let directory = tempfile::tempdir().expect("a directory");
    let sidecars: Vec<_> = ["web", "orders", "payments"]
        .iter()
        .map(|w| mesh.address(w, "admin"))
        .collect();
    let control = [mesh.control_api_metrics_address()];
    let rules = self::directory().join("prometheus/rules.yaml");
    let jobs: [(&str, &[_]); 2] = [("sidecars", &sidecars), ("postern-control-api", &control)];
    let prometheus = Prometheus::start(directory.path(), &jobs, Some(&rules));
    eventually("every target is scraped without an error", || {
        prometheus.all_up()
    });

    // What is open ends: the last thing that has to happen.
    let id = "spiffe://demo.postern.internal/ns/demo/sa/web";
    assert!(
        mesh.meshctl(&["revoke", "id", id, "--wait"])
            .status
            .success()
    );
    let mut exported = BTreeMap::new();
    eventually("connections that ended", || {
        for workload in ["web", "orders", "payments"] {
            read_exposition(&mesh.metrics(workload), &mut exported);
        }
        exported.contains_key("postern_connections_ended_total")
    });
    read_exposition(&mesh.control_api_metrics(), &mut exported);
    exported.extend(recorded());
    exported.insert("up".into(), BTreeSet::new());
    for name in OF_THE_MACHINE {
        exported.entry(name.into()).or_default();
    }

    let mut wrong = Vec::new();
    for (place, expression) in expressions() {
        let said = mentions(&expression);
        assert!(!said.series.is_empty(), "{place}: {expression}");
        let mut known: BTreeSet<&str> = OF_SCRAPE.into();
        for (name, labels) in &said.series {
            let Some(has) = exported.get(name) else {
                wrong.push(format!("{place}: nobody exports {name}"));
                continue;
            };
            known.extend(has.iter().map(String::as_str));
            for label in labels {
                if !has.contains(label) && !OF_SCRAPE.contains(&label.as_str()) {
                    wrong.push(format!("{place}: {name} has no label {label}"));
                }
            }
        }
        for label in said.grouping {
            if !known.contains(label.as_str()) {
                wrong.push(format!("{place}: nothing in it has a label {label}"));
            }
        }
        if prometheus.query(&expression).is_none() {
            wrong.push(format!("{place}: Prometheus does not take {expression}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    eventually("rules are evaluated without an error", || {
        let groups = prometheus.ask("/api/v1/rules").unwrap_or_default();
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<_> = groups
            .iter()
            .flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
}
