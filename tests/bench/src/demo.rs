//! The mesh of `meshctl demo`, as somebody sees it who holds it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::kid::Kid;
use crate::programs::Ours;

/// Time for the demo's whole mesh to start.
const START: Duration = Duration::from_secs(60);

/// What the demo says once its mesh runs.
#[derive(Debug, Deserialize)]
struct Announcement {
    workloads: Workloads,
}

/// The workloads that are asked, or looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Workloads {
    pub(crate) web: Workload,
    pub(crate) orders: Workload,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Workload {
    pub(crate) sidecar: Sidecar,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sidecar {
    pub(crate) pid: u32,
    /// Where its application calls others.
    pub(crate) outbound: SocketAddr,
}

/// Starts it with one worker per sidecar and waits until it runs. `arrange` adds arguments and environment.
pub(crate) async fn start(
    ours: &Ours,
    folder: &Path,
    arrange: impl FnOnce(&mut Command),
) -> anyhow::Result<(Kid, Workloads)> {
    let mut command = Command::new(&ours.meshctl);
    command
        .args(["demo", "--hold", "--json", "--workers", "1"])
        .env("POSTERN_CONTROL_API_BIN", &ours.control_api)
        .env("POSTERN_SIDECAR_BIN", &ours.sidecar)
        .stdout(Stdio::piped());
    arrange(&mut command);
    let mut kid = Kid::start("meshctl-demo", command, folder)?;
    let output = kid.stdout().context("the demo has no output")?;
    let line = tokio::time::timeout(START, BufReader::new(output).lines().next_line())
        .await
        .with_context(|| {
            format!(
                "the demo is not ready after {START:?}; {}",
                kid.last_words()
            )
        })??
        .with_context(|| format!("the demo ended; {}", kid.last_words()))?;
    let Announcement { workloads } = announcement(&line)?;
    Ok((kid, workloads))
}

fn announcement(line: &str) -> anyhow::Result<Announcement> {
    serde_json::from_str(line).with_context(|| format!("the demo said {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_line_is_read() {
        let line = r#"{"control_api":{"pid":1},"dir":"/tmp/x","workloads":{
            "web":{"sidecar":{"pid":2,"outbound":"127.0.0.1:7","mesh":"127.0.0.1:8"}},
            "orders":{"sidecar":{"pid":3,"outbound":"127.0.0.1:9"}}}}"#;
        let Announcement { workloads } = announcement(line).unwrap();
        assert_eq!(workloads.web.sidecar.outbound.port(), 7);
        assert_eq!(workloads.orders.sidecar.pid, 3);
        assert!(announcement("ready").is_err());
    }
}
