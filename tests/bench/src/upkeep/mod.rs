//! What certificates must not be felt for: [`rotation`] forces renewals under load, [`outage`] takes the control API away.
//!
//! Both run two sidecars, `caller` and `called`, with a constant load from the one's application to the other's.

pub(crate) mod outage;
pub(crate) mod rotation;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::load::constant::{Constant, Outcome};
use crate::load::http1::{Answer, App, Connection};
use crate::mesh::{self, ControlApi, Sidecar, SidecarOptions};
use crate::ports;
use crate::programs::Ours;
use crate::report::Report;
use crate::wrk::Target;

/// Connections of the load.
const CONNECTIONS: u32 = 16;
const HTTP_PORT: u16 = 8080;
const TICK: Duration = Duration::from_millis(2);

/// Two sidecars with an application behind the second.
struct Couple {
    caller: Member,
    called: Member,
    target: Target,
    _app: App,
}

/// A sidecar that is asked on its admin port.
struct Member {
    sidecar: Sidecar,
}

/// What a sidecar says of its certificate and of the control API.
#[derive(Debug, Deserialize)]
struct Status {
    certificate: Option<Certificate>,
    degraded: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Certificate {
    serial: String,
    not_after: i64,
}

impl Couple {
    async fn start(ours: &Ours, api: &mut ControlApi) -> anyhow::Result<Self> {
        let app = App::start().await?;
        let [caller_port, called_port] = ports::free()?;
        let mut manifest = mesh::workload("caller", caller_port);
        manifest.push_str(&mesh::workload("probe", caller_port));
        manifest.push_str(&mesh::workload("called", called_port));
        manifest.push_str(&mesh::service("called", &[(80, HTTP_PORT, "HTTP")]));
        api.apply(&manifest).await?;
        let called = SidecarOptions {
            name: "called".to_owned(),
            mesh_port: called_port,
            apps: vec![(HTTP_PORT, app.address.to_string())],
            ..SidecarOptions::default()
        };
        let caller = SidecarOptions {
            name: "caller".to_owned(),
            mesh_port: caller_port,
            ..SidecarOptions::default()
        };
        let called = Member::start(ours, api, &called).await?;
        let caller = Member::start(ours, api, &caller).await?;
        let target = Target {
            address: caller.sidecar.ready.outbound.to_string(),
            host: "called".to_owned(),
        };
        Ok(Self {
            caller,
            called,
            target,
            _app: app,
        })
    }

    fn load(&self, rate: u32) -> Constant {
        Constant::start(&self.target, rate, CONNECTIONS)
    }
}

impl Member {
    async fn start(
        ours: &Ours,
        api: &mut ControlApi,
        options: &SidecarOptions,
    ) -> anyhow::Result<Self> {
        let sidecar = Sidecar::start(ours, api, options).await?;
        Ok(Self { sidecar })
    }

    /// One request; the admin port closes each connection.
    async fn ask(&self, method: &str, path: &str) -> anyhow::Result<Answer> {
        let mut admin = Connection::open(&self.sidecar.ready.admin.to_string()).await?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        admin.ask(request.as_bytes()).await
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.ask("GET", "/readyz").await?;
        let mut said: Value = serde_json::from_slice(&answer.body)?;
        serde_json::from_value(said["details"]["control"].take())
            .context("the sidecar does not say how it is")
    }

    async fn certificate(&self) -> anyhow::Result<Certificate> {
        let status = self.status().await?;
        status.certificate.context("the sidecar has no certificate")
    }

    /// Value of a metric without labels.
    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.ask("GET", "/metrics").await?;
        let text = String::from_utf8_lossy(&answer.body);
        let value = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        // What never happened is not listed.
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// Waits for another certificate than the one with this serial number.
    async fn renewed(&self, than: &str, limit: Duration) -> anyhow::Result<Certificate> {
        let end = Instant::now() + limit;
        loop {
            let certificate = self.certificate().await?;
            if certificate.serial != than {
                return Ok(certificate);
            }
            if Instant::now() > end {
                bail!("no new certificate within {limit:?}");
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Writes down what the load saw: nothing may have failed, and it must have been a load.
fn judge(report: &mut Report, outcome: &Outcome) {
    #[allow(clippy::cast_precision_loss)]
    let (answered, failed) = (outcome.answered as f64, outcome.failed as f64);
    report.figure("requests_answered", outcome.answered);
    report.at_least("requests_answered", Some(answered), 1.0);
    report.at_most("requests_failed", Some(failed), 0.0);
    for failure in &outcome.failures {
        report.problem(format!("a request failed: {failure}"));
    }
}

fn unix_now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}
