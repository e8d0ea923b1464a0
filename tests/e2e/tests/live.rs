//! The live view: what ends at a workload's sidecar, as operators see it.
#![allow(clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::sync::mpsc;

use mesh_e2e::{Mesh, eventually, http};
use serde_json::Value;

/// A running `meshctl tap`.
struct Tap {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Tap {
    fn start(mesh: &Mesh, workload: &str, arguments: &[&str]) -> Self {
        let mut child = mesh
            .meshctl_command(&[&["tap", workload, "-o", "json"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("meshctl runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Calls until something is seen: the tap is on.
    fn after(&self, mut call: impl FnMut()) -> Value {
        let mut seen = None;
        eventually("the tap sees something", || {
            call();
            seen = self.lines.try_recv().ok();
            seen.is_some()
        });
        serde_json::from_str(&seen.expect("just seen")).expect("JSON")
    }

    /// Ends it as Ctrl-C does; what it said on standard error.
    fn end(mut self) -> String {
        mesh_e2e::signal("INT", u64::from(self.child.id()));
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("text");
        said
    }
}

fn call(mesh: &Mesh, host: &str, path: &str) -> u16 {
    let headers = "cookie: sid=s3cret\r\nauthorization: Basic czNjcmV0OnMzY3JldA==\r\n";
    http::get(mesh.address("web", "outbound"), host, path, headers).status
}

#[test]
fn a_tap_shows_requests_and_decisions_as_they_happen_and_no_secret() {
    let mesh = Mesh::start(&[]);
    let all = Tap::start(&mesh, "demo/orders", &[]);
    let web = Tap::start(
        &mesh,
        "demo/web",
        &["--direction", "outbound", "--path", "/only"],
    );
    let denied = Tap::start(&mesh, "demo/payments", &["--denied", "--peer", "demo/web"]);
    let seen = all.after(|| assert_eq!(call(&mesh, "orders", "/x?token=s3cret"), 200));
    assert_eq!(seen["direction"], "inbound");
    assert_eq!(
        (&seen["method"], &seen["path"]),
        (&"GET".into(), &"/x".into())
    );
    assert_eq!(seen["status"], 200);
    assert_eq!(
        seen["peer"],
        "spiffe://demo.postern.internal/ns/demo/sa/web"
    );
    assert!(seen["phases_us"]["upstream"].is_number(), "{seen:#}");

    let refused = denied.after(|| assert_eq!(call(&mesh, "payments", "/p?a=s3cret"), 403));
    assert_eq!(refused["verdict"], "deny");
    assert!(refused["reason"].is_string());
    let id = refused["decision_id"].as_str().expect("an id");
    let why = mesh.meshctl(&["authz", "why", id]);
    assert!(
        String::from_utf8_lossy(&why.stdout).contains(id),
        "the id leads to the explanation"
    );
    let own = web.after(|| assert_eq!(call(&mesh, "orders", "/only/this"), 200));
    assert_eq!(own["direction"], "outbound");
    assert_eq!(own["path"], "/only/this");

    // What was decided is told of what began after the tap did. Of many at once some are not shown: more are asked for.
    let mut last = Value::Null;
    eventually("the tap sees the last", || {
        assert_eq!(call(&mesh, "orders", "/last"), 200);
        let lines = all.lines.try_iter();
        let mut seen = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
        seen.find(|seen| seen["path"] == "/last")
            .inspect(|seen| last = seen.clone())
            .is_some()
    });
    assert_eq!(last["verdict"], "allow", "{last:#}");

    let mut told = format!("{seen} {refused} {own} {last}");
    for tap in [all, web, denied] {
        told.push_str(&tap.end());
    }
    for secret in ["s3cret", "czNjcmV0"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn a_tap_keeps_to_its_rate_and_says_what_it_left_out() {
    let mesh = Mesh::start(&[]);
    let tap = Tap::start(&mesh, "demo/orders", &["--rate", "1", "--for", "4s"]);
    tap.after(|| {
        for _ in 0..20 {
            assert_eq!(call(&mesh, "orders", "/"), 200);
        }
    });
    let output = tap.child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("were not shown"), "{said}");
}

#[test]
fn a_tap_of_a_workload_that_is_not_there_is_refused_and_one_without_sidecar_waits() {
    let mesh = Mesh::start(&[]);
    let output = mesh.meshctl(&["tap", "demo/nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("'demo/nobody' is not registered"), "{said}");
    mesh.apply(
        "apiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {name: idle-1, namespace: demo}\nspec: {serviceAccount: idle, addresses: [127.0.0.9]}\n",
    );
    let output = mesh.meshctl(&["tap", "demo/idle-1", "--for", "1s"]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no sidecar tells"), "{said}");
}

fn told(mesh: &Mesh, arguments: &[&str]) -> Value {
    let output = mesh.meshctl(&[arguments, &["-o", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn edge<'a>(told: &'a Value, from: &str, to: &str, mtls: bool) -> Option<&'a Value> {
    let edges = told["edges"].as_array().expect("edges");
    edges.iter().find(|edge| {
        let name = edge["from"]["name"].as_str().expect("a name");
        name.contains(from) && edge["to"] == to && edge["from"]["mtls"] == mtls
    })
}

#[test]
fn edges_say_who_talks_to_whom_and_how_that_was_proved() {
    let mesh = Mesh::start(&[]);
    for _ in 0..3 {
        assert_eq!(call(&mesh, "orders", "/call-payments"), 200);
    }
    assert_eq!(call(&mesh, "payments", "/"), 403);
    let inbound = mesh.address("orders", "inbound");
    let refused = http::get(inbound, "orders", "/", "");
    assert_eq!(refused.status, 403, "plaintext: {}", refused.text());

    let all = told(&mesh, &["edges"]);
    let to_orders = edge(&all, "demo/web", "demo/orders", true).expect("web -> orders");
    assert_eq!(to_orders["requests"], 3, "{all:#}");
    assert_eq!(
        (&to_orders["failed"], &to_orders["denied"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        to_orders["from"]["spiffe_id"],
        "spiffe://demo.postern.internal/ns/demo/sa/web"
    );
    assert_eq!(
        to_orders["from"]["workloads"],
        serde_json::json!(["demo/web"])
    );
    let chain = edge(&all, "demo/orders", "demo/payments", true).expect("orders -> payments");
    assert_eq!(chain["requests"], 3);
    let denied = edge(&all, "demo/web", "demo/payments", true).expect("web -> payments");
    assert_eq!(
        (&denied["requests"], &denied["denied"]),
        (&1.into(), &1.into())
    );
    assert!(denied["port"].as_u64() > Some(0), "{denied:#}");
    let plain = edge(&all, "127.0.0.", "demo/orders", false).expect("plaintext");
    assert_eq!(plain["denied"], 1, "{plain:#}");
    let only = told(&mesh, &["edges", "demo/orders", "--plaintext"]);
    assert_eq!(only["edges"].as_array().map(Vec::len), Some(1));
}

#[test]
fn top_tells_rates_of_the_interval_and_nothing_else() {
    let mesh = Mesh::start(&[]);
    for _ in 0..50 {
        assert_eq!(call(&mesh, "orders", "/"), 200);
    }
    let output = mesh.top_while(|| assert_eq!(call(&mesh, "orders", "/"), 200));
    assert_eq!(output.status.code(), Some(0));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = edge(&rows, "demo/web", "demo/orders", true).expect("web -> orders");
    assert!(
        row["requests_per_second"].as_f64().expect("a rate") > 1.0,
        "{row:#}"
    );
    assert_eq!(row["success"], 1.0);
    let (p50, p99) = (row["p50_us"].as_f64(), row["p99_us"].as_f64());
    assert!(p50.expect("p50") > 0.0 && p50 <= p99, "{row:#}");
    let quiet = told(&mesh, &["top", "--interval", "1s"]);
    let row = edge(&quiet, "demo/web", "demo/orders", true).expect("web -> orders");
    assert_eq!(row["requests_per_second"], 0.0, "{row:#}");
}
