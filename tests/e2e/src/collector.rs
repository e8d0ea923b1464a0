//! A real OTLP collector, made of the messages that OpenTelemetry publishes, and what it was sent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::venv;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    /// Port for gRPC.
    pub grpc: u64,
    /// Port for protobuf over HTTP.
    pub http: u64,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// Starts it on free ports of loopback.
    #[must_use]
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/collector.py");
        let mut child = Command::new(venv::programs().join("python"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("readable");
        let ports: Value = serde_json::from_str(&first).expect("JSON");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&spans);
        // Ends with the program's output, which ends with the program.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span = serde_json::from_str(&line).expect("JSON");
                told.lock().expect("not poisoned").push(span);
            }
        });
        Self {
            child,
            grpc: ports["grpc"].as_u64().expect("a port"),
            http: ports["http"].as_u64().expect("a port"),
            spans,
        }
    }

    /// The spans that came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("not poisoned").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
