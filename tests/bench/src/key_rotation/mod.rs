//! `mesh-bench key-rotation`: an issuer changes its keys under load, and then is away for longer than every interval.
//!
//! Each request carries a token of its own, signed with the newest key at once when it is published, so that no cache of
//! tokens helps and no key is known ahead; every fourth is signed with the key before, which stays published. A 401 is
//! wrong by definition. While the issuer is away, tokens of known keys are judged as ever: no failure at all.

mod provider;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::provider::Provider;
use crate::args::Common;
use crate::exchange::Exchange;
use crate::machine::Machine;
use crate::mesh::{self, ControlApi, NAMESPACE, Sidecar, SidecarOptions};
use crate::mirror;
use crate::ports;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;

const SERVICE: &str = "server";
const CLIENT: &str = "client";
const PORT: u16 = 8080;
/// Requests that are under way at one time.
const CALLERS: usize = 4;
/// The longest interval that the control API is started with.
const LONGEST: Duration = Duration::from_secs(2);
const FLAGS: [&str; 7] = [
    "--allow-local-fetch",
    "--key-refresh-min",
    "1s",
    "--key-refresh-max",
    "2s",
    "--key-refetch",
    "1s",
];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How often the keys change
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rotations: u32,
}

/// What became of the requests of a while.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    good: u64,
    unauthorized: u64,
    /// 503: told to try again.
    later: u64,
    other: u64,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.unauthorized += other.unauthorized;
        self.later += other.later;
        self.other += other.other;
        self.slowest = self.slowest.max(other.slowest);
    }

    fn figures(self) -> serde_json::Value {
        json!({
            "good": self.good, "status_401": self.unauthorized, "status_503": self.later,
            "other": self.other, "slowest_ms": self.slowest.as_secs_f64() * 1e3,
        })
    }

    fn failures(self) -> u64 {
        self.unauthorized + self.later + self.other
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("key-rotation", Machine::look(&Programs::find()).await);
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (rotations, between) = if arguments.common.quick {
        (2, Duration::from_secs(2))
    } else {
        (arguments.rotations, Duration::from_secs(3))
    };
    let provider = Provider::start().await?;
    let world = World::start(&provider).await?;
    let outbound = world.client.ready.outbound;

    say(&format!("{rotations} changes of keys ..."));
    let mut rotating = Tally::default();
    for _ in 0..rotations {
        provider.rotate()?;
        rotating.add(load(&provider, outbound, between).await?);
    }
    report.figure("rotations", rotations);
    report.figure("key_sets_fetched", provider.fetched());
    report.figure("while_keys_change", rotating.figures());

    let away = LONGEST * 4;
    say(&format!("the issuer is away for {away:?} ..."));
    provider.set_away(true);
    let refused_before = provider.refused();
    let outage = load(&provider, outbound, away).await?;
    report.figure("seconds_away", away.as_secs());
    report.figure("longest_interval_seconds", LONGEST.as_secs());
    report.figure("fetches_refused", provider.refused() - refused_before);
    report.figure("while_the_issuer_is_away", outage.figures());

    say("the issuer is back with another key ...");
    provider.set_away(false);
    provider.rotate()?;
    let back = load(&provider, outbound, between).await?;
    report.figure("when_it_is_back", back.figures());

    #[allow(clippy::cast_precision_loss)] // Thousands.
    let number = |count: u64| Some(count as f64);
    let wrong = rotating.unauthorized + back.unauthorized;
    report.at_most("wrong_401", number(wrong), 0.0);
    report.at_most("other_failures", number(rotating.other + back.other), 0.0);
    report.at_most("failures_while_away", number(outage.failures()), 0.0);
    report.at_least("good_while_keys_change", number(rotating.good), 50.0);
    report.at_least("good_while_away", number(outage.good), 50.0);
    // An outage that nobody noticed shows nothing.
    let noticed = number(provider.refused() - refused_before);
    report.at_least("fetches_refused_while_away", noticed, 1.0);
    Ok(())
}

/// Asks with new tokens for a while.
async fn load(
    provider: &Arc<Provider>,
    outbound: SocketAddr,
    time: Duration,
) -> anyhow::Result<Tally> {
    let end = Instant::now() + time;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let provider = Arc::clone(provider);
        callers.spawn(async move {
            let mut tally = Tally::default();
            let mut count = caller;
            while Instant::now() < end {
                count += 1;
                let token = provider.token(count.is_multiple_of(4))?;
                let lines = format!("Authorization: Bearer {token}\r\n");
                let asked = Instant::now();
                let answer = Exchange::get(outbound, SERVICE, "/", lines.as_bytes()).await?;
                tally.slowest = tally.slowest.max(asked.elapsed());
                match answer.status {
                    200 => tally.good += 1,
                    401 => tally.unauthorized += 1,
                    503 => tally.later += 1,
                    _ => tally.other += 1,
                }
            }
            anyhow::Ok(tally)
        });
    }
    let mut tally = Tally::default();
    while let Some(caller) = callers.join_next().await {
        tally.add(caller.context("a caller panicked")??);
    }
    Ok(tally)
}

struct World {
    client: Sidecar,
    _server: Sidecar,
    _api: ControlApi,
    _app: JoinSet<()>,
}

impl World {
    async fn start(provider: &Provider) -> anyhow::Result<Self> {
        let ours = Ours::find().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let mut app = JoinSet::new();
        app.spawn(mirror::serve(listener));
        let mut api = ControlApi::start(&ours, &FLAGS).await?;
        let [client_port, server_port] = ports::free()?;
        let mut manifest = mesh::workload(CLIENT, client_port);
        manifest.push_str(&mesh::workload(SERVICE, server_port));
        manifest.push_str(&mesh::service(SERVICE, &[(80, PORT, "HTTP")]));
        manifest.push_str(&format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: idp, namespace: {NAMESPACE}}}\n\
             spec:\n  selector: {{matchLabels: {{app: {SERVICE}}}}}\n\
             \x20 jwtRules: [{{issuer: \"{}\", audiences: [shop], required: true, timeout: 5s}}]\n",
            provider.issuer()
        ));
        api.apply(&manifest).await?;
        let server = SidecarOptions {
            name: SERVICE.to_owned(),
            mesh_port: server_port,
            apps: vec![(PORT, address)],
            ..SidecarOptions::default()
        };
        let server = Sidecar::start(&ours, &mut api, &server).await?;
        let client = SidecarOptions {
            name: CLIENT.to_owned(),
            mesh_port: client_port,
            ..SidecarOptions::default()
        };
        let client = Sidecar::start(&ours, &mut api, &client).await?;
        let world = Self {
            client,
            _server: server,
            _api: api,
            _app: app,
        };
        world.wait_for_keys(provider).await?;
        Ok(world)
    }

    /// Before the first key set arrives the answer is 503.
    async fn wait_for_keys(&self, provider: &Provider) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = format!("Authorization: Bearer {}\r\n", provider.token(false)?);
            let outbound = self.client.ready.outbound;
            let answer = Exchange::get(outbound, SERVICE, "/", lines.as_bytes()).await?;
            match answer.status {
                200 => return Ok(()),
                503 if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => anyhow::bail!("the first keys did not come: {}", answer.text()),
            }
        }
    }
}
