//! What a person or a script sees of `meshctl` before any mesh is involved: exit codes, errors, nothing on standard output.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn meshctl(arguments: &[&str]) -> Output {
    command(arguments).output().expect("meshctl runs")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTERN_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_ends_with_two_and_says_why() {
    for (arguments, said) in [
        (&["nonsense"][..], "unrecognized subcommand"),
        (&[], "Usage"),
        (&["apply"], "--file"),
        (
            &["apply", "-f", "/nowhere.yaml"],
            "cannot read /nowhere.yaml",
        ),
        (&["delete", "Workload", "web"], "--namespace"),
        (&["token", "create", "web"], "NAMESPACE/NAME"),
        (&["token", "create", "demo/web", "--ttl", "1w"], "10m"),
        (&["get", "-o", "xml"], "xml"),
        (&["check", "--sidecar", "localhost"], "--sidecar"),
        (&["status", "--control-api", "127.0.0.1:1"], "--cert"),
        (
            &[
                "status",
                "--control-api",
                "127.0.0.1",
                "--cert",
                "c",
                "--key",
                "k",
                "--ca",
                "a",
            ],
            "HOST:PORT",
        ),
        (&["status", "--cert", "c"], "--control-api"),
        (&["demo", "--once", "--hold"], "--hold"),
        (
            &["demo", "--hold", "--app", "nobody=127.0.0.1:80"],
            "web, orders, payments",
        ),
        (&["demo", "--app", "orders=127.0.0.1:80"], "--hold"),
        (&["demo", "--workers", "0"], "--workers"),
    ] {
        let output = meshctl(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(said),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_unreachable_control_api_ends_with_three_and_a_next_step() {
    let folder = tempfile::tempdir().expect("a directory");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    let nowhere = folder.path().join("nowhere.sock");
    for (socket, why) in [(&nowhere, "no such socket"), (&dead, "nobody listens")] {
        let socket = socket.to_str().expect("text");
        for arguments in [
            &["status"][..],
            &["get", "workloads"],
            &["token", "list"],
            &["delete", "Workload", "a", "-n", "b"],
        ] {
            let output = meshctl(&[arguments, &["--socket", socket]].concat());
            assert_eq!(
                output.status.code(),
                Some(3),
                "{arguments:?}: {}",
                stderr(&output)
            );
            let said = stderr(&output);
            assert!(said.contains(why) && said.contains("next: "), "{said}");
        }
    }
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let output = command(&["status"])
        .env("POSTERN_SOCKET", "/nowhere/admin.sock")
        .output()
        .expect("meshctl runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("/nowhere/admin.sock"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn check_reports_an_unreachable_control_api_as_a_finding() {
    let output = meshctl(&["check", "--socket", "/nowhere/admin.sock", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    let last = report["checks"]
        .as_array()
        .and_then(|c| c.last())
        .expect("a finding");
    assert_eq!(last["ok"], false);
    assert!(
        last["next"]
            .as_str()
            .is_some_and(|next| next.contains("control-api run")),
        "{last}"
    );
}

#[test]
fn check_reads_a_sidecars_own_word() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let sidecar = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut request = [0; 512];
        let n = stream.read(&mut request).expect("a request");
        assert!(request[..n].starts_with(b"GET /readyz HTTP/1.1\r\n"));
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 44\r\n\r\n{\"ready\":false,\"reasons\":[\"no certificate\"]}\n")
            .expect("answered");
    });
    let output = meshctl(&[
        "check",
        "--socket",
        "/nowhere/admin.sock",
        "--sidecar",
        &address,
    ]);
    sidecar.join().expect("asked");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("not ready: no certificate"), "{said}");
    assert!(said.contains("2 problems"), "{said}");
    assert!(
        said.lines().all(|line| !line.contains('\x1b')),
        "no colours into a pipe"
    );
}

#[test]
fn broken_credentials_are_named_before_anything_is_dialled() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("operator.pem");
    std::fs::write(&file, "no certificate").expect("written");
    let file = file.to_str().expect("text");
    let output = meshctl(&[
        "status",
        "--control-api",
        "127.0.0.1:1",
        "--cert",
        file,
        "--key",
        file,
        "--ca",
        file,
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("operator.pem") && stderr(&output).contains("control-api init"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_manifest_may_come_from_standard_input() {
    let mut child = command(&["apply", "-f", "-", "--socket", "/nowhere/admin.sock"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("meshctl runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"kind: Workload\n")
        .expect("written");
    assert_eq!(
        child.wait_with_output().expect("ends").status.code(),
        Some(3),
        "read, then dialled"
    );
}
