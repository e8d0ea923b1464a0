//! Captured traffic of an application to addresses of which its sidecar has to find out whether they are in the mesh.
//!
//! Needs root or user namespaces, `ip`, `nsenter` and `bash`, and nftables in the kernel.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use mesh_e2e::{Mesh, eventually, runs, signal};
use serde_json::Value;

/// Where the mesh's hub is reached.
const HUB: &str = "10.77.0.1";
/// A port of it on which somebody outside the mesh answers.
const OUTSIDE: u16 = 8088;

/// A server in the hub's namespace, ended when dropped.
struct Outside(Child);

impl Outside {
    fn start(mesh: &Mesh) -> Self {
        let (control_api, _) = mesh.control_api();
        let hub = format!("/proc/{control_api}/ns/net");
        let mut command = enter(control_api, &hub);
        let app = mesh.meshctl_command(&[]);
        command.arg(app.get_program());
        command.args(["demo-app", "--role", "payments"]);
        command.args(["--http", &format!("{HUB}:{OUTSIDE}")]);
        let ready = mesh.directory().join("ready/outside.json");
        command.arg("--ready-file").arg(&ready);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let it = Self(child.expect("nsenter runs"));
        eventually("somebody listens outside the mesh", || ready.is_file());
        it
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs what follows in the network namespace `net`, for which `of` is a process of the same users.
fn enter(of: u64, net: &str) -> Command {
    let users = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let mut command = Command::new("nsenter");
    if users("self") != users(&of.to_string()) {
        command.arg(format!("--user=/proc/{of}/ns/user"));
        command.arg("--preserve-credentials");
    }
    command.arg(format!("--net={net}"));
    command
}

/// What the application of `web` is answered at `address`; nothing: the connection was closed.
fn ask(mesh: &Mesh, address: &str, port: u16) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{address}/{port} && printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let net = mesh.namespace("web");
    let mut command = enter(mesh.sidecar("web"), net.to_str().expect("UTF-8"));
    let output = command
        .args(["timeout", "10", "bash", "-c", &script])
        .output();
    String::from_utf8_lossy(&output.expect("nsenter runs").stdout).into_owned()
}

fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

#[test]
fn who_is_outside_the_mesh_is_asked_and_without_an_answer_nobody_is_taken_for_it() {
    let mesh = Mesh::start(&["--netns"]);
    let _outside = Outside::start(&mesh);
    eventually("somebody outside answers", || {
        is_ok(&ask(&mesh, HUB, OUTSIDE))
    });
    // A workload's own address, and a service's: over the mesh, where policy decides.
    assert!(ask(&mesh, "10.77.0.4", 8080).starts_with("HTTP/1.1 403"));
    assert!(is_ok(&ask(&mesh, "10.96.0.3", 80)));

    let (control_api, _) = mesh.control_api();
    signal("KILL", control_api);
    eventually("the control API is gone", || !runs(control_api));
    assert!(is_ok(&ask(&mesh, HUB, OUTSIDE)), "known to be nobody");
    assert!(is_ok(&ask(&mesh, "10.96.0.3", 80)), "known to be somebody");
    // It may be in the mesh, and is: nothing is sent there in the clear.
    assert_eq!(ask(&mesh, "10.77.0.3", 8080), "");
}

/// The rows of `meshctl edges` or `top` that the caller's sidecar told or that have no mutual TLS, from `demo/web`.
fn rows_of_web(output: &[u8]) -> Vec<Value> {
    let told: Value = serde_json::from_slice(output).expect("JSON");
    let mut rows = told["edges"].as_array().expect("edges").clone();
    rows.retain(|row| row["from"]["name"] == "demo/web" && row["from"]["mtls"] == false);
    rows
}

#[test]
fn calls_to_where_no_sidecar_is_are_told_by_the_caller() {
    let mesh = Mesh::start(&["--netns"]);
    let _outside = Outside::start(&mesh);
    // The same server once more, as a workload without a sidecar.
    mesh.apply(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {{name: legacy-1, namespace: demo, labels: {{app: legacy}}}}\n\
         spec: {{serviceAccount: legacy, addresses: [{HUB}], meshProtocol: None}}\n---\n\
         apiVersion: postern.dev/v1alpha1\nkind: Service\nmetadata: {{name: legacy, namespace: demo}}\n\
         spec: {{addresses: [10.96.0.88], selector: {{app: legacy}}, ports: [{{port: 80, targetPort: {OUTSIDE}, protocol: TCP}}]}}\n"
    ));
    eventually("the service answers", || {
        is_ok(&ask(&mesh, "10.96.0.88", 80))
    });
    assert!(is_ok(&ask(&mesh, HUB, OUTSIDE)));
    let mut rows = Vec::new();
    eventually("both are told of", || {
        rows = rows_of_web(&mesh.meshctl(&["edges", "-o", "json"]).stdout);
        rows.len() >= 2
    });
    for port in [80, u64::from(OUTSIDE)] {
        let row = rows.iter().find(|row| row["port"] == port);
        let row = row.unwrap_or_else(|| panic!("{port}: {rows:#?}"));
        let to = row["to"].as_str().expect("a name");
        assert_eq!(to, "demo/legacy-1 (10.77.0.1)");
        assert_eq!(row["told_by"], "caller");
        assert!(row["connections"].as_u64() >= Some(1), "{row:#}");
        assert!(row["received_bytes"].as_u64() > Some(0), "{row:#}");
        assert_eq!(row["failed"], 0);
    }
    let output = mesh.top_while(|| assert!(is_ok(&ask(&mesh, HUB, OUTSIDE))));
    let rows = rows_of_web(&output.stdout);
    let row = rows.iter().find(|row| row["port"] == OUTSIDE);
    let rate = row.and_then(|row| row["connections_per_second"].as_f64());
    assert!(rate > Some(0.0), "{rows:#?}");
}

/// An HTTP/1.1 connection of `web`'s application that stays open.
struct Kept(Child);

impl Kept {
    fn open(mesh: &Mesh, address: &str) -> Self {
        // For each line that comes in: a request, and the status line of its answer.
        let script = format!(
            "exec 3<>/dev/tcp/{address}/80; while read -r _; do printf 'HEAD / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; \
             read -r status <&3; while read -r line <&3 && [ \"$line\" != $'\\r' ]; do :; done; echo \"$status\"; done"
        );
        let net = mesh.namespace("web");
        let mut command = enter(mesh.sidecar("web"), net.to_str().expect("UTF-8"));
        command.args(["timeout", "60", "bash", "-c", &script]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("nsenter runs"))
    }

    /// The status of another request.
    fn status(&mut self) -> String {
        let input = self.0.stdin.as_mut().expect("piped");
        input.write_all(b"\n").expect("it reads");
        let mut line = String::new();
        let output = self.0.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_connection_that_stays_open_follows_what_becomes_of_its_destination() {
    let mesh = Mesh::start(&["--netns"]);
    let service = |app: &str| {
        format!(
            "apiVersion: postern.dev/v1alpha1\nkind: Service\nmetadata: {{name: late, namespace: demo}}\n\
             spec: {{addresses: [10.96.0.77], selector: {{app: {app}}}, ports: [{{port: 80, targetPort: 8080, protocol: HTTP}}]}}\n"
        )
    };
    mesh.apply(&service("orders"));
    let mut kept = Kept::open(&mesh, "10.96.0.77");
    assert_eq!(kept.status(), "200");
    mesh.apply(&service("payments"));
    eventually("other workloads answer", || kept.status() == "403");
    mesh.apply(&service("orders"));
    eventually("the first answer again", || kept.status() == "200");
    let deleted = mesh.meshctl(&["delete", "service", "late", "-n", "demo"]);
    assert!(deleted.status.success());
    eventually("nobody answers any more", || kept.status() == "404");
}

#[test]
fn what_cannot_be_asked_about_passes_in_the_clear_only_where_that_was_said() {
    let flag = "--sidecar-flag=--egress=allow-unresolved";
    for (arguments, passes) in [(&["--netns", flag][..], true), (&["--netns"], false)] {
        let mesh = Mesh::start(arguments);
        let _outside = Outside::start(&mesh);
        let (control_api, _) = mesh.control_api();
        signal("KILL", control_api);
        eventually("the control API is gone", || !runs(control_api));
        let answer = || is_ok(&ask(&mesh, HUB, OUTSIDE));
        if passes {
            eventually("it passes", answer);
        } else {
            assert!(!answer());
        }
    }
}
