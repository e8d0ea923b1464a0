//! Two sidecars of the demo's mesh: `web`, which is called, and `orders`, whose application is ours.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::Pair;
use super::nginx::App;
use crate::kid::Kid;
use crate::ports;
use crate::programs::Ours;
use crate::wrk::Target;

/// Time for the demo's whole mesh to start.
const START: Duration = Duration::from_secs(60);

/// What the demo says once its mesh runs.
#[derive(Debug, Deserialize)]
struct Announcement {
    workloads: Workloads,
}

#[derive(Debug, Deserialize)]
struct Workloads {
    web: Workload,
    orders: Workload,
}

#[derive(Debug, Deserialize)]
struct Workload {
    sidecar: Sidecar,
}

#[derive(Debug, Deserialize)]
struct Sidecar {
    pid: u32,
    outbound: SocketAddr,
}

pub(crate) async fn start(ours: &Ours, app: &App) -> anyhow::Result<Pair> {
    let folder = ports::folder()?;
    let mut command = Command::new(&ours.meshctl);
    command
        .args(["demo", "--hold", "--json", "--workers", "1", "--app"])
        .arg(format!("orders={}", app.address))
        .env("POSTERN_CONTROL_API_BIN", &ours.control_api)
        .env("POSTERN_SIDECAR_BIN", &ours.sidecar)
        .stdout(Stdio::piped());
    let mut kid = Kid::start("meshctl-demo", command, folder.path())?;
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
    let target = Target {
        address: workloads.web.sidecar.outbound.to_string(),
        host: "orders".to_owned(),
    };
    let mut pair = Pair {
        target,
        grpc: None,
        tls: None,
        client: workloads.web.sidecar.pid,
        server: workloads.orders.sidecar.pid,
        kids: vec![kid],
        _folder: Some(folder),
    };
    pair.answers(&app.body).await?;
    Ok(pair)
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
