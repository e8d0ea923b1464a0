//! The real `control-api`: it comes up, survives garbage on its port, keeps its state over a kill, ends on SIGTERM.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn control_api() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-api"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts the program over `data` and gives back its gRPC address once it says that it listens.
fn start(data: &Path, ready: &Path) -> (Program, String) {
    std::fs::remove_file(ready).ok();
    let child = control_api()
        .args(["run", "--trust-domain", "test.example"])
        .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data)
        .arg("--ready-file")
        .arg(ready)
        .spawn()
        .expect("the program starts");
    let mut program = Program(child);
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = std::fs::read_to_string(ready) {
            let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(said["trust_domain"], "test.example");
            return (program, said["grpc"].as_str().expect("an address").into());
        }
        assert!(program.0.try_wait().expect("a status").is_none(), "ended");
        assert!(Instant::now() < end, "not ready in time");
        std::thread::yield_now();
    }
}

#[test]
fn garbage_on_the_port_is_outlived() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (mut program, grpc) = start(&scratch.path().join("data"), &scratch.path().join("r"));
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 4096],
    ] {
        let mut stream = TcpStream::connect(&grpc).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(bytes).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(!answer.starts_with(b"HTTP/"), "no plaintext service");
    }
    TcpStream::connect(&grpc).expect("it still listens");
    assert!(program.0.try_wait().expect("a status").is_none());
}

#[test]
fn the_root_survives_a_kill_and_no_key_is_readable_by_others() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (data, ready) = (scratch.path().join("data"), scratch.path().join("r"));
    let (mut program, _) = start(&data, &ready);
    let root = std::fs::read(data.join("trust-bundle.pem")).expect("a bundle");
    program.0.kill().expect("killed");
    program.0.wait().expect("ended");
    let (_program, _) = start(&data, &ready);
    assert_eq!(
        root,
        std::fs::read(data.join("trust-bundle.pem")).expect("still there")
    );

    let mut keys = 0;
    for entry in std::fs::read_dir(&data).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_file() && std::fs::read_to_string(&path).is_ok_and(|t| t.contains("PRIVATE KEY"))
        {
            keys += 1;
            let mode = entry.metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
        }
    }
    assert!(keys > 0, "the authority keeps a key");
}

#[test]
fn sigterm_ends_it_with_zero() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (mut program, _) = start(&scratch.path().join("data"), &scratch.path().join("r"));
    let told = Command::new("kill")
        .args(["-TERM", &program.0.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(told.success());
    assert_eq!(program.0.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_wrong_trust_domain_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_control-api"))
        .args(["run", "--trust-domain", "Not A Domain", "--data-dir"])
        .arg(scratch.path().join("data"))
        .output()
        .expect("the program runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("trust") && said.contains("Not A Domain"),
        "{said}"
    );
}
