//! Many real sidecars of one control API, and callers with something open through each: how long it takes from a command to
//! the last thing closed.
//!
//! One application serves all of them. A caller is a workload without a sidecar of its own: it holds a certificate and speaks
//! to the mesh ports itself, so that what is measured is the sidecar that enforces, and nothing in between.

mod app;
mod caller;

pub(crate) use caller::{Caller, Kind, all_ended};

use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use mesh_auth::{SpiffeId, TrustDomain};

use crate::mesh::{self, ControlApi, NAMESPACE, Sidecar, SidecarOptions, TRUST_DOMAIN};
use crate::programs::Ours;
use crate::{memory, ports, say, sim};

/// Port of the application that sends opaque bytes back.
const ECHO_PORT: u16 = 7000;
/// Port of the application whose answers do not end.
const STREAM_PORT: u16 = 8080;
/// Sidecars that start at the same time.
const AT_ONCE: usize = 8;
/// How long anything may take before a measurement gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Running sidecars, all connected to one control API.
pub(crate) struct Fleet {
    sidecars: Vec<Sidecar>,
    _app: app::App,
}

impl Fleet {
    /// Registers `count` workloads, `member-0` and so on, starts a sidecar for each, and returns when all are ready. `flags`
    /// are added to their command lines.
    pub(crate) async fn start(
        ours: &Ours,
        api: &mut ControlApi,
        count: usize,
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let app = app::App::start().await?;
        let ports = ports::several(count)?;
        let name = |index: usize| format!("member-{index}");
        let mut manifest = String::new();
        for (index, port) in ports.iter().enumerate() {
            manifest.push_str(&mesh::workload(&name(index), *port));
        }
        api.apply(&manifest).await?;
        let mut tokens = Vec::with_capacity(count);
        for index in 0..count {
            tokens.push(
                api.join_token(&format!("{NAMESPACE}/{}", name(index)))
                    .await?,
            );
        }
        say(&format!("starting {count} sidecars"));
        let start = |index: usize| {
            let options = SidecarOptions {
                name: name(index),
                mesh_port: ports[index],
                apps: vec![
                    (ECHO_PORT, app.echo.to_string()),
                    (STREAM_PORT, app.streams.to_string()),
                ],
                flags: flags.to_vec(),
                ..SidecarOptions::default()
            };
            let (ready, token) = (&api.ready, &tokens[index]);
            async move { Sidecar::start_with(ours, ready, &options, token).await }
        };
        let sidecars = stream::iter(0..count)
            .map(start)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Self {
            sidecars,
            _app: app,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sidecars.len()
    }

    /// Resident memory of one in the middle, bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let middle = self.sidecars.get(self.len() / 2);
        memory::rss(middle.context("there are no sidecars")?.kid.pid())
    }

    /// Registers workload `name`, gets a certificate for it, and connects it to the mesh port of every sidecar.
    pub(crate) async fn caller(&self, api: &mut ControlApi, name: &str) -> anyhow::Result<Caller> {
        let [port] = ports::free()?;
        api.apply(&mesh::workload(name, port)).await?;
        let token = api.join_token(&format!("{NAMESPACE}/{name}")).await?;
        let target = api.target()?;
        let identity = sim::enrol(&target, &token).await?;
        let domain = TrustDomain::new(TRUST_DOMAIN)?;
        let mut caller = Caller::default();
        for (index, sidecar) in self.sidecars.iter().enumerate() {
            let expected = SpiffeId::workload(&domain, NAMESPACE, &format!("member-{index}"))?;
            let config = target.peer_config(&identity, &expected)?;
            caller
                .connect(sidecar.ready.mesh, config)
                .await
                .with_context(|| format!("{name} cannot connect to member-{index}"))?;
        }
        Ok(caller)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for sidecar in &mut self.sidecars {
            sidecar.kid.ask_to_end();
        }
    }
}
