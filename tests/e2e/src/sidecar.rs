//! One more sidecar for a workload that a test registered, in explicit mode on loopback.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Mesh, eventually, programs, signal};

/// The sidecar's process.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    directory: PathBuf,
}

impl Sidecar {
    /// Starts it for a registered workload, which a join token proves, with further arguments. Everything of it lies in
    /// `directory`.
    #[must_use]
    pub fn start(mesh: &Mesh, workload: &str, directory: &Path, arguments: &[&str]) -> Self {
        let token = directory.join("token");
        let file = token.to_str().expect("UTF-8");
        let made = mesh.meshctl(&["token", "create", workload, "--to", file]);
        let errors = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "meshctl token create: {errors}");
        let arguments = [&["--join-token-file", file], arguments].concat();
        Self::without_token(mesh, workload, directory, &arguments)
    }

    /// The same, with whatever the arguments say for a proof.
    #[must_use]
    pub fn without_token(
        mesh: &Mesh,
        workload: &str,
        directory: &Path,
        arguments: &[&str],
    ) -> Self {
        let log = File::create(directory.join("sidecar.log")).expect("a log");
        let (_, control_api) = mesh.control_api();
        let child = Command::new(programs().join("sidecar"))
            .args(["run", "--mode", "explicit", "--workload", workload])
            .args(["--control-api", &control_api.to_string()])
            .args(["--trust-domain", "demo.postern.internal", "--workers", "1"])
            .arg("--trust-bundle")
            .arg(mesh.trust_bundle())
            .arg("--ready-file")
            .arg(directory.join("ready.json"))
            .args(["--outbound", "127.0.0.1:0", "--inbound", "127.0.0.1:0"])
            .args(["--mesh", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--metrics", "127.0.0.1:0", "--readiness", "127.0.0.1:0"])
            .args(["--drain-timeout", "1s"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the sidecar starts");
        Self {
            child,
            directory: directory.to_owned(),
        }
    }

    /// What it says once it is ready.
    pub fn ready(&mut self) -> Value {
        let file = self.directory.join("ready.json");
        eventually("the sidecar is ready", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended ({status}): {}", self.log());
            }
            file.is_file()
        });
        serde_json::from_slice(&fs::read(file).expect("there")).expect("JSON")
    }

    /// One of its addresses.
    pub fn address(&mut self, listener: &str) -> SocketAddr {
        let ready = self.ready();
        let address = ready[listener].as_str().expect("an address");
        address.parse().expect("host:port")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("sidecar.log")).unwrap_or_default()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// Whether it runs still.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if self.runs() {
            signal("TERM", self.pid());
        }
        let status = self.child.wait().expect("it ends");
        if !std::thread::panicking() {
            assert_eq!(status.code(), Some(0), "{}", self.log());
        }
    }
}
