//! A whole mesh from the real programs, an application that records what reaches it, and peers that misbehave.
//!
//! Owns: starting `meshctl demo --hold` and ending it. Everything here panics with what went wrong: it is for tests.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

pub mod app;
pub mod collector;
pub mod envoy;
pub mod http;
pub mod oidc;
pub mod openssl;
pub mod prometheus;
pub mod promql;
pub mod sidecar;
pub mod tls;
pub mod token;
pub mod venv;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The real programs' directory; built there if a test of this crate alone runs.
fn programs() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let exe = std::env::current_exe().expect("a path");
        let directory = exe.ancestors().nth(2).expect("target/PROFILE").to_owned();
        let missing = ["meshctl", "control-api", "sidecar"]
            .into_iter()
            .any(|name| !directory.join(name).is_file());
        if missing {
            let built = Command::new(env!("CARGO"))
                .args(["build", "--locked", "-p", "meshctl"])
                .args(["-p", "mesh-control", "-p", "mesh-sidecar"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .expect("cargo runs");
            assert!(built.success(), "the programs were not built");
        }
        directory
    })
}

/// A running `meshctl demo --hold`.
#[derive(Debug)]
pub struct Mesh {
    child: Child,
    /// The control API, where a test started it again.
    control_api: Option<Child>,
    about: Value,
    scratch: tempfile::TempDir,
}

impl Mesh {
    /// Starts it on loopback with further arguments and returns once everything is ready.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        Self::with_environment(arguments, &[])
    }

    /// As [`Self::start`], with further environment variables for every program.
    #[must_use]
    pub fn with_environment(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let programs = programs();
        let mut child = Command::new(programs.join("meshctl"))
            .args(["demo", "--hold", "--json"])
            .args(arguments)
            .envs(environment.iter().copied())
            .env("TMPDIR", scratch.path())
            .env("POSTERN_CONTROL_API_BIN", programs.join("control-api"))
            .env("POSTERN_SIDECAR_BIN", programs.join("sidecar"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("meshctl starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let about = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        Self {
            child,
            control_api: None,
            about,
            scratch,
        }
    }

    /// Starts it with `app` in place of the application of `orders`.
    #[must_use]
    pub fn with_orders(app: &app::App) -> Self {
        Self::start(&["--app", &format!("orders={}", app.address)])
    }

    /// An address (`outbound`, `inbound`, `mesh`, `admin`) of a workload's sidecar.
    #[must_use]
    pub fn address(&self, workload: &str, listener: &str) -> SocketAddr {
        let text = self.about["workloads"][workload]["sidecar"][listener].as_str();
        text.expect("an address").parse().expect("host:port")
    }

    /// The socket on which a workload's sidecar serves the Workload API and SDS.
    #[must_use]
    pub fn workload_api(&self, workload: &str) -> PathBuf {
        let path = &self.about["workloads"][workload]["sidecar"]["workload_api"];
        path.as_str().expect("a path").into()
    }

    /// The process of a workload's sidecar.
    #[must_use]
    pub fn sidecar(&self, workload: &str) -> u64 {
        let pid = &self.about["workloads"][workload]["sidecar"]["pid"];
        pid.as_u64().expect("a pid")
    }

    /// The network namespace of a workload, where each has its own.
    #[must_use]
    pub fn namespace(&self, workload: &str) -> PathBuf {
        let path = &self.about["workloads"][workload]["netns"];
        path.as_str().expect("--netns").into()
    }

    /// The control API: its process and its address.
    #[must_use]
    pub fn control_api(&self) -> (u64, SocketAddr) {
        let it = &self.about["control_api"];
        let grpc = it["grpc"].as_str().expect("an address");
        (
            it["pid"].as_u64().expect("a pid"),
            grpc.parse().expect("host:port"),
        )
    }

    /// Ends the control API and starts it again, elsewhere, with further environment variables.
    pub fn restart_control_api(&mut self, environment: &[(&str, &str)]) {
        let (pid, _) = self.control_api();
        signal("TERM", pid);
        eventually("the control API is gone", || !runs(pid));
        let ready = self.directory().join("ready/control-api.json");
        std::fs::remove_file(&ready).ok();
        let mut command = self.command("control-api");
        command
            .envs(environment.iter().copied())
            .stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        eventually("the control API is ready", || ready.is_file());
        let told: Value =
            serde_json::from_slice(&std::fs::read(&ready).expect("there")).expect("JSON");
        for part in ["grpc", "metrics"] {
            self.about["control_api"][part] = told[part].clone();
        }
        self.about["control_api"]["pid"] = child.id().into();
        self.control_api = Some(child);
    }

    /// What a workload's sidecar exports.
    #[must_use]
    pub fn metrics(&self, workload: &str) -> String {
        let admin = self.address(workload, "admin");
        http::get(admin, &admin.to_string(), "/metrics", "").text()
    }

    /// The lines of a workload's access log.
    #[must_use]
    pub fn access_log(&self, workload: &str) -> Vec<Value> {
        let logs = self.directory().join("logs");
        let text = std::fs::read_to_string(logs.join(format!("{workload}.access.jsonl")));
        text.unwrap_or_default()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// Has a workload's sidecar get another certificate.
    pub fn rotate(&self, workload: &str) {
        http::rotate(self.address(workload, "admin"));
    }

    /// The sum of the series of a workload's sidecar whose lines begin with `start`.
    pub fn counted(&self, workload: &str, start: &str) -> u64 {
        let text = self.metrics(workload);
        let values = text.lines().filter_map(|line| line.strip_prefix(start));
        let values = values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }

    /// What the control API's metrics listener says.
    #[must_use]
    pub fn control_api_metrics(&self) -> String {
        let address = self.control_api_metrics_address();
        http::get(address, &address.to_string(), "/metrics", "").text()
    }

    /// The control API's metrics listener.
    #[must_use]
    pub fn control_api_metrics_address(&self) -> SocketAddr {
        let ready = self.directory().join("ready/control-api.json");
        let told = std::fs::read(ready).expect("the control API is ready");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        let address = told["metrics"].as_str().expect("an address");
        address.parse().expect("host:port")
    }

    /// Runs `meshctl` against the mesh's control API.
    #[must_use]
    pub fn meshctl(&self, arguments: &[&str]) -> Output {
        let output = self.meshctl_command(arguments).output();
        output.expect("meshctl runs")
    }

    /// `meshctl` against the mesh's control API, not started yet.
    #[must_use]
    pub fn meshctl_command(&self, arguments: &[&str]) -> Command {
        let socket = self.about["control_api"]["admin_socket"].as_str();
        let mut command = Command::new(programs().join("meshctl"));
        command
            .args(arguments)
            .env("POSTERN_SOCKET", socket.expect("a path"));
        command
    }

    /// Applies documents.
    pub fn apply(&self, documents: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(documents.as_bytes()).expect("written");
        let path = file.path().to_str().expect("UTF-8");
        let output = self.meshctl(&["apply", "-f", path]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "meshctl apply: {errors}");
    }

    /// The roots to verify the control API with, PEM.
    #[must_use]
    pub fn trust_bundle(&self) -> PathBuf {
        let path = self.about["control_api"]["trust_bundle"].as_str();
        path.expect("a path").into()
    }

    /// The mesh's directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.about["dir"].as_str().expect("a path").into()
    }

    /// The listener of `web`'s sidecar for a TCP service, as `orders:7000`.
    #[must_use]
    pub fn tcp_service(&self, service: &str) -> SocketAddr {
        let file = self.directory().join("ready/sidecar-web.json");
        let ready = std::fs::read(file).expect("the sidecar is ready");
        let ready: Value = serde_json::from_slice(&ready).expect("JSON");
        let address = ready["tcp_services"][service].as_str();
        address.expect("an address").parse().expect("host:port")
    }

    /// What `web`'s sidecar answers to a request for `/` of `orders`.
    #[must_use]
    pub fn call_orders(&self) -> http::Answer {
        http::get(self.address("web", "outbound"), "orders", "/", "")
    }

    /// Kills the sidecar of `workload` and starts it again. Returns it, and what it says of itself once it is ready.
    #[must_use]
    pub fn kill_and_start(&self, workload: &str) -> (Child, Value) {
        let before = self.sidecar(workload);
        signal("KILL", before);
        eventually("the sidecar is gone", || !runs(before));
        let ready = format!("ready/sidecar-{workload}.json");
        let ready = self.directory().join(ready);
        std::fs::remove_file(&ready).expect("there");
        let mut again = self.command(&format!("sidecar-{workload}"));
        let again = again.spawn().expect("it starts");
        eventually("it is ready from its last good state", || ready.is_file());
        let told = std::fs::read(&ready).expect("there");
        (again, serde_json::from_slice(&told).expect("JSON"))
    }

    /// What `meshctl top` says of two seconds in which `call` is done again and again. It has begun with a reading by the time it
    /// is over: calls go on until then.
    #[must_use]
    pub fn top_while(&self, call: impl Fn() + Sync) -> Output {
        let top = self
            .meshctl_command(&["top", "--interval", "2s", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("meshctl runs");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    call();
                }
            });
            let output = top.wait_with_output();
            done.store(true, Ordering::Relaxed);
            calling.join().expect("it calls");
            output.expect("it ends")
        })
    }

    /// The command line of one of the mesh's programs, to run it again.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let script = self.directory().join("commands").join(format!("{name}.sh"));
        let mut command = Command::new("sh");
        command
            .arg(script)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut control_api) = self.control_api.take() {
            signal("TERM", u64::from(control_api.id()));
            control_api.wait().expect("it ends");
        }
        signal("TERM", u64::from(self.child.id()));
        let status = self.child.wait().expect("it ends");
        if !std::thread::panicking() {
            assert_eq!(status.code(), Some(0), "meshctl demo --hold");
            let left = std::fs::read_dir(self.scratch.path())
                .expect("there")
                .count();
            assert_eq!(left, 0, "left behind in {}", self.scratch.path().display());
        }
    }
}

/// Sends a signal by name.
pub fn signal(name: &str, pid: u64) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(sent.expect("kill runs").success(), "kill -{name} {pid}");
}

/// Whether a process runs (and is not merely waited for). It does while one of its threads does: what it held is held until then.
#[must_use]
pub fn runs(pid: u64) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    threads > 1 || stat.is_ok_and(|s| !s.contains(") Z "))
}

/// The most memory a process ever had resident, in KiB.
#[must_use]
pub fn peak_memory_kib(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let number = line.and_then(|l| l.split_whitespace().nth(1));
    number.expect("VmHWM").parse().expect("a number")
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::yield_now();
    }
}
