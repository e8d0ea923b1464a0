//! A real Prometheus, as Debian ships it.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::http;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one in `directory` that scrapes each job's targets every second, and evaluates the rules of a file.
    #[must_use]
    pub fn start(directory: &Path, jobs: &[(&str, &[SocketAddr])], rules: Option<&Path>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let configuration = directory.join("prometheus.yml");
        let mut text = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n".to_owned();
        if let Some(rules) = rules {
            let rules = std::path::absolute(rules).expect("a path");
            let _ = writeln!(text, "rule_files: [\"{}\"]", rules.display());
        }
        text.push_str("scrape_configs:\n");
        for (job, targets) in jobs {
            let targets: Vec<_> = targets.iter().map(|t| format!("\"{t}\"")).collect();
            let targets = targets.join(", ");
            let _ = writeln!(
                text,
                "- job_name: {job}\n  static_configs: [{{targets: [{targets}]}}]"
            );
        }
        std::fs::write(&configuration, text).expect("written");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus runs (apt-get install prometheus)");
        Self { child, address }
    }

    /// The `data` of a successful answer of its API.
    #[must_use]
    pub fn ask(&self, path: &str) -> Option<Value> {
        std::net::TcpStream::connect(self.address).ok()?;
        let answer = http::get(self.address, &self.address.to_string(), path, "");
        let answer: Value = serde_json::from_str(&answer.text()).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// What an expression is now; `None` when it is none.
    #[must_use]
    pub fn query(&self, expression: &str) -> Option<Value> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
        self.ask(&format!("/api/v1/query?query={encoded}"))
    }

    /// Whether every target was scraped without an error.
    #[must_use]
    pub fn all_up(&self) -> bool {
        let data = self.ask("/api/v1/targets").unwrap_or_default();
        let targets = data["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        !targets.is_empty() && targets.iter().all(|t| t["health"] == "up")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
