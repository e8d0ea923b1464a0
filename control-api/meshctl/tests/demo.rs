//! `meshctl demo` through the real programs: everything it promises holds, and it leaves nothing behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const ALWAYS: [&str; 21] = [
    "web-to-orders",
    "forged-identity-header",
    "web-to-payments",
    "orders-to-payments",
    "outsider-plaintext",
    "outsider-without-certificate",
    "tcp-echo",
    "grpc",
    "server-speaks-first",
    "upgrade",
    "token-valid",
    "token-missing",
    "token-expired",
    "token-wrong-audience",
    "token-forged-unsigned",
    "token-forged-with-public-key",
    "token-stolen",
    "token-bound-to-certificate",
    "token-stolen-with-certificate",
    "token-revoked-while-open",
    "latency",
];

/// What is said of tokens: the code that callers, logs and metrics see.
const TOKENS: [(&str, &str); 10] = [
    ("token-valid", "200, subject alice"),
    ("token-missing", "401 token_missing"),
    ("token-expired", "401 token_expired"),
    ("token-wrong-audience", "401 token_wrong_audience"),
    ("token-forged-unsigned", "401 token_algorithm"),
    ("token-forged-with-public-key", "401 token_algorithm"),
    ("token-stolen", "401 token_binding_mismatch"),
    ("token-bound-to-certificate", "200, subject alice"),
    (
        "token-stolen-with-certificate",
        "401 token_binding_mismatch",
    ),
    ("token-revoked-while-open", "401 token_revoked"),
];

/// `meshctl demo` with a temporary directory of its own. Programs beside it are used as they are; where they are missing,
/// meshctl builds them.
fn demo(arguments: &[&str], tmp: &Path) -> Command {
    let meshctl = Path::new(env!("CARGO_BIN_EXE_meshctl"));
    let mut command = Command::new(meshctl);
    command.arg("demo").args(arguments).env("TMPDIR", tmp);
    for (variable, program) in [
        ("POSTERN_CONTROL_API_BIN", "control-api"),
        ("POSTERN_SIDECAR_BIN", "sidecar"),
    ] {
        let beside = meshctl.with_file_name(program);
        if beside.is_file() {
            command.env(variable, beside);
        }
    }
    command
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn assert_all_hold(output: &Output, names: &[&str]) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no JSON ({e}): {}", said(output)));
    assert_eq!(report["ok"], true, "{report:#}\n{}", said(output));
    let got: Vec<&str> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(got, names);
    for (name, code) in TOKENS {
        let check = report["checks"].as_array().into_iter().flatten();
        let got = check
            .filter(|check| check["name"] == name)
            .find_map(|check| check["got"].as_str());
        assert!(
            got.is_some_and(|got| got.ends_with(code)),
            "{name}: {got:?}"
        );
    }
    assert_eq!(output.status.code(), Some(0));
}

fn assert_empty(folder: &Path) {
    let left: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("there")
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn every_check_holds_on_loopback() {
    let tmp = tempfile::tempdir().expect("a directory");
    let output = demo(&["--once", "--json"], tmp.path())
        .output()
        .expect("meshctl runs");
    assert_all_hold(&output, &ALWAYS);
    assert_empty(tmp.path());
}

/// Needs root or user namespaces, `ip` from iproute2, and nftables in the kernel; fails without them.
#[test]
fn every_check_holds_in_network_namespaces_and_no_plaintext_crosses_the_wire() {
    let tmp = tempfile::tempdir().expect("a directory");
    let output = demo(&["--once", "--json", "--netns"], tmp.path())
        .output()
        .expect("meshctl runs");
    let mut names = ALWAYS.to_vec();
    names.insert(names.len() - 1, "no-plaintext-on-the-wire");
    assert_all_hold(&output, &names);
    assert_empty(tmp.path());
}

/// A held demo; ended when dropped.
struct Held {
    child: Child,
    described: Value,
}

impl Held {
    fn start(arguments: &[&str], tmp: &Path) -> Self {
        let all = [&["--hold", "--json"], arguments].concat();
        let mut child = demo(&all, tmp)
            .stdout(Stdio::piped())
            .spawn()
            .expect("meshctl runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        let described =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON ({e}): {line:?}"));
        Self { child, described }
    }

    fn pids(&self) -> Vec<u64> {
        let sidecars = ["web", "orders", "payments"]
            .map(|w| &self.described["workloads"][w]["sidecar"]["pid"]);
        sidecars
            .into_iter()
            .chain([&self.described["control_api"]["pid"]])
            .map(|p| p.as_u64().expect("a pid"))
            .collect()
    }

    fn get(&self, workload: &str, host: &str) -> String {
        let outbound = self.described["workloads"][workload]["sidecar"]["outbound"]
            .as_str()
            .expect("an address");
        let mut stream = TcpStream::connect(outbound).expect("connects");
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).expect("small"))
            .expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it lives");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn alive(pid: u64) -> bool {
    // A process that ended and was not waited for has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn eventually_gone(pids: &[u64]) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| alive(*pid)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_held_demo_answers_through_the_mesh_and_leaves_nothing_behind() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut held = Held::start(&[], tmp.path());
        assert_eq!(held.described["trust_domain"], "demo.postern.internal");
        assert!(Path::new(held.described["dir"].as_str().expect("a path")).is_dir());
        for field in ["spiffe_id", "service", "app"] {
            assert!(
                held.described["workloads"]["orders"][field].is_string(),
                "{field}"
            );
        }
        assert!(held.get("web", "orders").starts_with("HTTP/1.1 200 "));
        assert!(held.get("web", "payments").starts_with("HTTP/1.1 403 "));
        let pids = held.pids();
        assert!(pids.iter().all(|pid| alive(*pid)));
        held.signal(signal);
        assert_eq!(held.child.wait().expect("ends").code(), Some(0));
        assert!(eventually_gone(&pids));
        assert_empty(tmp.path());
    }
}

#[test]
fn a_killed_demo_takes_its_programs_along() {
    let tmp = tempfile::tempdir().expect("a directory");
    let held = Held::start(&[], tmp.path());
    let pids = held.pids();
    held.signal(rustix::process::Signal::KILL);
    assert!(eventually_gone(&pids));
}

#[test]
fn an_outside_app_and_an_extra_policy_take_effect() {
    let tmp = tempfile::tempdir().expect("a directory");
    let folder = tempfile::tempdir().expect("a directory");
    let policy = folder.path().join("deny.yaml");
    std::fs::write(
        &policy,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: extra, namespace: demo}\n\
         spec:\n  selector: {matchLabels: {app: payments}}\n  action: ALLOW\n  rules:\n  - from:\n    - source: {principals: [\"*/sa/web\"]}\n",
    )
    .expect("written");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let app = format!("orders={}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).expect("a request") > 2 {
            line.clear();
        }
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\noutside\n")
            .expect("answered");
    });
    let held = Held::start(
        &["--app", &app, "--policy", policy.to_str().expect("text")],
        tmp.path(),
    );
    assert_eq!(
        held.described["workloads"]["orders"]["app"],
        app["orders=".len()..]
    );
    let answer = held.get("web", "orders");
    assert!(answer.ends_with("outside\n"), "{answer}");
    server.join().expect("served");
    let answer = held.get("web", "payments");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_program_that_dies_early_is_quoted() {
    let tmp = tempfile::tempdir().expect("a directory");
    let script = tmp.path().join("broken");
    std::fs::write(&script, "#!/bin/sh\necho the disk is full >&2\nexit 7\n").expect("written");
    let mut permissions = script.metadata().expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&script, permissions).expect("set");
    let output = demo(&["--once"], tmp.path())
        .env("POSTERN_CONTROL_API_BIN", &script)
        .env("POSTERN_SIDECAR_BIN", &script)
        .output()
        .expect("meshctl runs");
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("control-api ended early") && text.contains("the disk is full"),
        "{text}"
    );
}

#[test]
fn a_named_program_that_is_no_file_is_wrong_usage() {
    let tmp = tempfile::tempdir().expect("a directory");
    let output = demo(&["--once"], tmp.path())
        .env("POSTERN_SIDECAR_BIN", "/nowhere")
        .output()
        .expect("meshctl runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
