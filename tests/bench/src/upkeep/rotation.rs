//! `mesh-bench rotation`: certificates are replaced a thousand times under a constant load.
//!
//! Caller and called take turns. After each renewal of the called one a handshake sees which certificate its mesh port
//! serves: the one that it says it holds, and not one that is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use mesh_auth::tls::{self, Identity};
use mesh_auth::{SpiffeId, TrustDomain};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Couple, Member, judge, unix_now};
use crate::args::Common;
use crate::machine::Machine;
use crate::mesh::{ControlApi, NAMESPACE, TRUST_DOMAIN};
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::statistics::quantile;
use crate::{say, sim};

/// Time for one renewal.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Renewals that are forced, both sidecars together
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) rotations: u32,
    /// Requests per second meanwhile
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) rate: u32,
    /// Lifetime of a certificate, seconds: shorter than the run, so that a stale one is over in it
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=3_600))]
    pub(crate) lifetime: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("rotation", Machine::look(&Programs::find()).await);
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (rotations, rate) = if arguments.common.quick {
        (20, 100)
    } else {
        (arguments.rotations, arguments.rate)
    };
    let ours = Ours::find().await?;
    let lifetime = format!("{}s", arguments.lifetime);
    let mut api = ControlApi::start(&ours, &["--certificate-lifetime", &lifetime]).await?;
    let couple = Couple::start(&ours, &mut api).await?;
    let mut probe = Probe::new(&mut api).await?;
    let load = couple.load(rate);
    say(&format!("{rotations} rotations under {rate} requests/s"));
    let started = Instant::now();
    let (mut took, mut served) = (Vec::new(), Served::default());
    for turn in 0..rotations {
        let of_called = turn % 2 == 0;
        let member = if of_called {
            &couple.called
        } else {
            &couple.caller
        };
        let begun = Instant::now();
        let serial = rotate(member).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        if of_called {
            probe
                .look(&mut api, &couple.called, &serial, &mut served)
                .await?;
        }
        if (turn + 1) % 100 == 0 {
            say(&format!(
                "{} rotations, {} requests",
                turn + 1,
                load.answered()
            ));
        }
    }
    let outcome = load.stop().await;
    let mut stale = 0.0;
    for member in [&couple.caller, &couple.called] {
        stale += member.metric("postern_certificate_stale_total").await?;
    }
    report.figure("seconds", started.elapsed().as_secs_f64());
    report.figure("certificate_lifetime_seconds", arguments.lifetime);
    report.figure("requests_per_second", rate);
    report.figure("rotation_p50_ms", quantile(&took, 0.5));
    report.figure("rotation_p99_ms", quantile(&took, 0.99));
    report.figure("certificates_looked_at", served.looked);
    judge(report, &outcome);
    report.at_least(
        "rotations",
        Some(f64::from(rotations)),
        f64::from(rotations),
    );
    report.at_most("expired_served", Some(f64::from(served.expired)), 0.0);
    report.at_most(
        "served_other_than_held",
        Some(f64::from(served.other) + stale),
        0.0,
    );
    Ok(())
}

/// Forces one renewal; returns the new certificate's serial number.
async fn rotate(member: &Member) -> anyhow::Result<String> {
    let before = member.certificate().await?;
    let answer = member.ask("POST", "/certificates/rotate").await?;
    if answer.status != 202 {
        bail!("POST /certificates/rotate was answered {}", answer.status);
    }
    Ok(member.renewed(&before.serial, PATIENCE).await?.serial)
}

/// What the mesh port was seen to serve.
#[derive(Debug, Default)]
struct Served {
    looked: u32,
    expired: u32,
    other: u32,
}

/// A workload that only looks at certificates.
struct Probe {
    target: sim::Target,
    identity: Identity,
    called: SpiffeId,
}

impl Probe {
    async fn new(api: &mut ControlApi) -> anyhow::Result<Self> {
        let target = api.target()?;
        let identity = enrol(api, &target).await?;
        let domain = TrustDomain::new(TRUST_DOMAIN)?;
        Ok(Self {
            target,
            identity,
            called: SpiffeId::workload(&domain, NAMESPACE, "called")?,
        })
    }

    /// Looks which certificate is served, of which `held` is the serial number that it should have.
    async fn look(
        &mut self,
        api: &mut ControlApi,
        member: &Member,
        held: &str,
        served: &mut Served,
    ) -> anyhow::Result<()> {
        // Its own ends as early as everybody's.
        if self.identity.not_after() - unix_now() < 5 {
            self.identity = enrol(api, &self.target).await?;
        }
        let config = self.target.peer_config(&self.identity, &self.called)?;
        let tcp = TcpStream::connect(member.sidecar.ready.mesh).await?;
        served.looked += 1;
        let handshake = TlsConnector::from(Arc::clone(&config)).connect(tls::server_name(), tcp);
        let stream = match handshake.await {
            Ok(stream) => stream,
            // The only fault of a certificate that its own control API made a moment ago.
            Err(error) if error.to_string().contains("expired") => {
                served.expired += 1;
                return Ok(());
            }
            Err(error) => return Err(error).context("the called sidecar's mesh port"),
        };
        let peer = tls::peer_of(stream.get_ref().1)?;
        let serial: String = peer.serial().iter().map(|b| format!("{b:02x}")).collect();
        served.expired += u32::from(peer.not_after() <= unix_now());
        served.other += u32::from(serial != held);
        Ok(())
    }
}

async fn enrol(api: &mut ControlApi, target: &sim::Target) -> anyhow::Result<Identity> {
    let token = api.join_token(&format!("{NAMESPACE}/probe")).await?;
    sim::enrol(target, &token).await
}
