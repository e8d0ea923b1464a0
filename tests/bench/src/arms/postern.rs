//! Two sidecars of the demo's mesh: `web`, which is called, and `orders`, whose application is ours.

use super::Pair;
use super::nginx::App;
use crate::demo;
use crate::ports;
use crate::programs::Ours;
use crate::wrk::Target;

pub(crate) async fn start(ours: &Ours, app: &App) -> anyhow::Result<Pair> {
    let folder = ports::folder()?;
    let (kid, workloads) = demo::start(ours, folder.path(), |command| {
        command.arg("--app").arg(format!("orders={}", app.address));
    })
    .await?;
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
