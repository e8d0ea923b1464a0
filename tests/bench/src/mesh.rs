//! Our own programs, started one by one: a control API, documents, sidecars. For measurements that need another mesh
//! than the demo's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use mesh_proto::admin::admin_service_client::AdminServiceClient;
use mesh_proto::admin::{ApplyRequest, CreateJoinTokenRequest, StatusRequest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::Command;
use tonic::transport::{Channel, Endpoint};

use crate::exchange::Exchange;
use crate::kid::Kid;
use crate::ports;
use crate::programs::Ours;
use crate::sim;

/// Trust domain of every mesh that is started here.
pub(crate) const TRUST_DOMAIN: &str = "bench.postern";
/// Namespace of the workloads of a measurement.
pub(crate) const NAMESPACE: &str = "bench";

/// Time for one program to be ready.
const START: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(2);
/// Most bytes of an answer of the administration service.
const MOST: usize = 256 << 20;

/// A running control API with an empty store of its own.
pub(crate) struct ControlApi {
    pub(crate) kid: Kid,
    pub(crate) ready: ControlApiReady,
    pub(crate) admin: AdminServiceClient<Channel>,
    /// From its start until it answered.
    pub(crate) start_up: Duration,
    folder: TempDir,
}

/// What the control API says when it is ready.
#[derive(Debug, Deserialize)]
pub(crate) struct ControlApiReady {
    pub(crate) grpc: SocketAddr,
    pub(crate) admin_socket: PathBuf,
    pub(crate) trust_bundle: PathBuf,
}

impl ControlApi {
    /// Starts one; `flags` are added to its command line.
    pub(crate) async fn start(ours: &Ours, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = ports::folder()?;
        Self::start_in(ours, folder, flags).await
    }

    /// Starts one over the store that another left in its folder.
    pub(crate) async fn start_in(
        ours: &Ours,
        folder: TempDir,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(ours, folder, anywhere, flags).await
    }

    /// The same where sidecars expect it.
    pub(crate) async fn start_at(
        ours: &Ours,
        folder: TempDir,
        listen: SocketAddr,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let ready_file = folder.path().join("control-api.json");
        // A leftover of an earlier run would be taken for an answer.
        let _ = std::fs::remove_file(&ready_file);
        let mut command = Command::new(&ours.control_api);
        command
            .args(["run", "--metrics", "127.0.0.1:0"])
            .args(["--listen", &listen.to_string()])
            .args(["--trust-domain", TRUST_DOMAIN])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(log_unless_said(flags))
            .args(flags)
            .stdout(Stdio::null());
        let started = Instant::now();
        let mut kid = Kid::start("control-api", command, folder.path())?;
        let ready: ControlApiReady = ready(&mut kid, &ready_file).await?;
        let start_up = started.elapsed();
        let admin = connect(&ready.admin_socket).await?;
        Ok(Self {
            kid,
            ready,
            admin,
            start_up,
            folder,
        })
    }

    /// Ends it as SIGTERM does; what it stored stays in the folder that is returned.
    pub(crate) fn stop(self) -> TempDir {
        drop(self.kid);
        self.folder
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) -> TempDir {
        self.kid.kill();
        self.folder
    }

    /// Stores documents. Returns the revision after it.
    pub(crate) async fn apply(&mut self, manifest: &str) -> anyhow::Result<u64> {
        let request = ApplyRequest {
            manifest: manifest.to_owned(),
            source: "mesh-bench".to_owned(),
            ..ApplyRequest::default()
        };
        let applied = self.admin.apply(request).await;
        Ok(applied
            .context("documents were not applied")?
            .into_inner()
            .revision)
    }

    /// A join token for `namespace/name`.
    pub(crate) async fn join_token(&mut self, workload: &str) -> anyhow::Result<String> {
        let request = CreateJoinTokenRequest {
            workload: workload.to_owned(),
            ttl_seconds: 3_600,
        };
        let made = self.admin.create_join_token(request).await;
        Ok(made
            .with_context(|| format!("no join token for {workload}"))?
            .into_inner()
            .token)
    }

    /// Waits until every connected sidecar has acknowledged everything of `revision`. Returns the times since `started`, as
    /// fine as the status is asked for.
    pub(crate) async fn acknowledged(
        &mut self,
        revision: u64,
        sidecars: usize,
        started: Instant,
        limit: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut times: BTreeMap<String, Duration> = BTreeMap::new();
        loop {
            let status = self.admin.status(StatusRequest {}).await?.into_inner();
            let at = started.elapsed();
            for sidecar in status.sidecars {
                if sidecar.connected && sidecar.acked_revision >= revision {
                    times.entry(sidecar.workload).or_insert(at);
                }
            }
            if times.len() >= sidecars {
                return Ok(times.into_values().collect());
            }
            if at > limit {
                bail!(
                    "revision {revision} was acknowledged by {} of {sidecars} sidecars within {limit:?}",
                    times.len()
                );
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Files of the authority's certificate and key.
    pub(crate) fn authority(&self) -> (PathBuf, PathBuf) {
        let data = self.folder.path().join("data");
        (data.join("ca.pem"), data.join("ca.key"))
    }

    /// Where simulated sidecars connect to.
    pub(crate) fn target(&self) -> anyhow::Result<sim::Target> {
        let pem = std::fs::read(&self.ready.trust_bundle)
            .with_context(|| format!("{} is not there", self.ready.trust_bundle.display()))?;
        sim::Target::new(self.ready.grpc, TRUST_DOMAIN, &pem)
    }
}

async fn connect(socket: &Path) -> anyhow::Result<AdminServiceClient<Channel>> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://control-api.postern.internal")
        .connect_with_connector(connector)
        .await
        .context("the control API's admin socket does not answer")?;
    Ok(AdminServiceClient::new(channel)
        .max_decoding_message_size(MOST)
        .max_encoding_message_size(MOST))
}

/// What a sidecar is started with.
#[derive(Debug, Default)]
pub(crate) struct SidecarOptions {
    /// Name of its workload in [`NAMESPACE`], which is registered already.
    pub(crate) name: String,
    /// Its mesh port, as registered.
    pub(crate) mesh_port: u16,
    /// Where application ports are served.
    pub(crate) apps: Vec<(u16, String)>,
    /// Explicit listeners for opaque services, as `HOST:PORT`.
    pub(crate) tcp_services: Vec<String>,
    /// Other flags.
    pub(crate) flags: Vec<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What to run it under, with arguments: a profiler, say. Empty: nothing.
    pub(crate) under: Vec<OsString>,
}

/// A running sidecar in explicit mode, with one worker unless its flags say otherwise.
pub(crate) struct Sidecar {
    pub(crate) kid: Kid,
    pub(crate) ready: SidecarReady,
    /// From its start until it was ready.
    pub(crate) start_up: Duration,
    _folder: TempDir,
}

/// What a sidecar says when it is ready.
#[derive(Debug, Deserialize)]
pub(crate) struct SidecarReady {
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) mesh: SocketAddr,
    pub(crate) admin: SocketAddr,
    #[serde(default)]
    pub(crate) tcp_services: BTreeMap<String, SocketAddr>,
}

impl Sidecar {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(
        ours: &Ours,
        api: &mut ControlApi,
        options: &SidecarOptions,
    ) -> anyhow::Result<Self> {
        let token = api
            .join_token(&format!("{NAMESPACE}/{}", options.name))
            .await?;
        Self::start_with(ours, &api.ready, options, &token).await
    }

    /// Starts one with a join token made before, and waits until it is ready: several can be started at the same time.
    pub(crate) async fn start_with(
        ours: &Ours,
        api: &ControlApiReady,
        options: &SidecarOptions,
        join_token: &str,
    ) -> anyhow::Result<Self> {
        let folder = ports::folder()?;
        let workload = format!("{NAMESPACE}/{}", options.name);
        let token = folder.path().join("token");
        std::fs::write(&token, join_token)?;
        let ready_file = folder.path().join("ready.json");
        let mut command = match options.under.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&ours.sidecar);
                command
            }
            None => Command::new(&ours.sidecar),
        };
        command
            .args(["run", "--mode", "explicit"])
            .args(one_worker_unless_said(&options.flags))
            .args(["--workload", &workload])
            .args(["--control-api", &api.grpc.to_string()])
            .args(["--trust-domain", TRUST_DOMAIN])
            .arg("--trust-bundle")
            .arg(&api.trust_bundle)
            .arg("--join-token-file")
            .arg(&token)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(["--mesh", &format!("127.0.0.1:{}", options.mesh_port)])
            .args(["--drain-timeout", "1s"])
            .args(log_unless_said(&options.flags))
            .stdout(Stdio::null());
        for flag in [
            "--outbound",
            "--inbound",
            "--admin",
            "--metrics",
            "--readiness",
        ] {
            command.args([flag, "127.0.0.1:0"]);
        }
        if let Some((port, _)) = options.apps.first() {
            command.args(["--inbound-port", &port.to_string()]);
        }
        for (port, address) in &options.apps {
            command.args(["--app", &format!("{port}={address}")]);
        }
        for service in &options.tcp_services {
            command.args(["--tcp-service", &format!("127.0.0.1:0={service}")]);
        }
        command.args(&options.flags);
        command.envs(
            options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        let started = Instant::now();
        let mut kid = Kid::start(&format!("sidecar-{}", options.name), command, folder.path())?;
        let ready = ready(&mut kid, &ready_file).await?;
        let start_up = started.elapsed();
        Ok(Self {
            kid,
            ready,
            start_up,
            _folder: folder,
        })
    }
}

impl Sidecar {
    /// Milliseconds from the arrival of its first certificate to being ready, as it measured them itself.
    pub(crate) async fn ready_after_certificate_ms(&self) -> anyhow::Result<f64> {
        let page = Exchange::get(self.ready.admin, "127.0.0.1", "/metrics", b"").await?;
        let step = |name| {
            start_up_seconds(page.body(), name)
                .with_context(|| format!("the metrics do not say when step {name} was reached"))
        };
        Ok((step("ready")? - step("certificate")?) * 1e3)
    }
}

/// When a step of the start was reached, seconds after its beginning.
fn start_up_seconds(metrics: &str, step: &str) -> Option<f64> {
    let series = format!("postern_start_up_seconds{{step=\"{step}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value?.parse().ok()
}

/// One worker, where the flags do not say how many.
fn one_worker_unless_said(flags: &[String]) -> &'static [&'static str] {
    if flags.iter().any(|flag| flag == "--workers") {
        &[]
    } else {
        &["--workers", "1"]
    }
}

/// Warnings only, where the flags do not say what to log.
fn log_unless_said<T: AsRef<str>>(flags: &[T]) -> &'static [&'static str] {
    if flags.iter().any(|flag| flag.as_ref() == "--log") {
        &[]
    } else {
        &["--log", "warn"]
    }
}

/// Waits for what a program writes when it is ready.
async fn ready<T: DeserializeOwned>(kid: &mut Kid, file: &Path) -> anyhow::Result<T> {
    let deadline = Instant::now() + START;
    loop {
        // Written whole before it is given its name.
        if let Ok(text) = std::fs::read(file) {
            return serde_json::from_slice(&text)
                .with_context(|| format!("{} cannot be read", file.display()));
        }
        kid.check()?;
        if Instant::now() > deadline {
            bail!("not ready after {START:?}; {}", kid.last_words());
        }
        tokio::time::sleep(TICK).await;
    }
}

/// A `Workload` document in [`NAMESPACE`], on loopback, with the labels `app: NAME`.
pub(crate) fn workload(name: &str, mesh_port: u16) -> String {
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {name}}}}}\n\
         spec: {{serviceAccount: {name}, addresses: [\"127.0.0.1\"], meshPort: {mesh_port}}}\n"
    )
}

/// A `Service` document in [`NAMESPACE`] that selects the workloads labelled `app: NAME`; ports as
/// `(port, target port, protocol)`.
pub(crate) fn service(name: &str, ports: &[(u16, u16, &str)]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|(port, target, protocol)| {
            format!("{{port: {port}, targetPort: {target}, protocol: {protocol}, name: p{port}}}")
        })
        .collect();
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{}]}}\n",
        ports.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_start_is_found_in_the_metrics() {
        let page = "# TYPE postern_start_up_seconds gauge\n\
                    postern_start_up_seconds{step=\"certificate\"} 0.031\n\
                    postern_start_up_seconds{step=\"ready\"} 0.0425\n";
        assert_eq!(start_up_seconds(page, "certificate"), Some(0.031));
        assert_eq!(start_up_seconds(page, "ready"), Some(0.0425));
        assert_eq!(start_up_seconds(page, "warm"), None);
    }
}
