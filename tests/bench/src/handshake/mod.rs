//! `mesh-bench handshake`: what a mutual TLS handshake costs the server side, beside Envoy.
//!
//! CPU of the process of the server side per connection, from the scheduler's account: accept, handshake with a client
//! certificate, the prefaces of HTTP/2 both ways, end. Certificates are P-256 with one link from leaf to root, the cipher is
//! AES-128-GCM, everything shares one processor and the arms take turns; medians of rounds are judged. Ours and theirs are
//! compared with one key exchange, X25519; what the hybrid one that sidecars prefer costs is told.
//!
//! A full handshake is one with a client that was never seen: the chain is verified. Of a client that comes again a sidecar
//! knows the chain, and a client that resumes shows none. Envoy knows no chains, so for it the first two are one.

use anyhow::Context;
use clap::Args;

use crate::args::{Common, Placement};
use crate::arms::haproxy::Tokens;
use crate::arms::nginx::App;
use crate::arms::{envoy, mesh_pair};
use crate::beside;
use crate::load::callers::{Caller, Groups, Server};
use crate::placement::Processors;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::{median, range, ratio};
use crate::token::Issuer;

/// Ours over Envoy's, full handshakes.
const OVER_ENVOY: f64 = 0.65;
/// The same, of a chain that is known.
const KNOWN_OVER_ENVOY: f64 = 0.5;
/// A resumed handshake over a full one, ours.
const RESUMED_OVER_FULL: f64 = 0.5;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rounds, in each of which every arm takes its turn
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Handshakes per turn
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=4_000))]
    pub(crate) handshakes: u32,
    /// Only arms whose name contains this: for looking at one of them with a profiler. The limits then lack their figures
    #[arg(long)]
    pub(crate) only: Option<String>,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let measure =
        async |programs: &Programs, report: &mut Report| measure(arguments, programs, report).await;
    beside::envoy("handshake", arguments.common.install, measure).await
}

/// One line of the measurement.
struct Arm<'a> {
    name: &'static str,
    server: &'a Server,
    caller: Caller,
    groups: Groups,
    /// Microseconds per handshake, by round.
    rounds: Vec<f64>,
}

async fn measure(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let envoy_program = programs.envoy.as_deref().context("envoy is missing")?;
    let ours = Ours::find().await?;
    let processors = Processors::choose(Placement::Same)?;
    report.placed(Some(processors.describe()));
    let issuer = Issuer::new("https://idp.bench", "k1")?;
    let tokens = Tokens {
        issuer: &issuer,
        audience: "orders",
    };
    let app = App::start(nginx).await?;
    let mesh = mesh_pair::start(&ours, &tokens, &app, &app.address).await?;
    let other = envoy::start(envoy_program, &tokens, &app).await?;

    let sidecar = mesh.pair.tls.as_ref().context("our pair has no listener")?;
    let envoy = other.tls.as_ref().context("Envoy has no listener")?;
    let arm = |name, server, caller, groups| Arm {
        name,
        server,
        caller,
        groups,
        rounds: Vec::new(),
    };
    let mut arms = vec![
        arm(
            "postern.x25519.full",
            sidecar,
            Caller::Stranger,
            Groups::X25519,
        ),
        arm("envoy.x25519.full", envoy, Caller::Stranger, Groups::X25519),
        arm(
            "postern.x25519.known_chain",
            sidecar,
            Caller::Regular,
            Groups::X25519,
        ),
        arm(
            "envoy.x25519.same_client",
            envoy,
            Caller::Regular,
            Groups::X25519,
        ),
        arm(
            "postern.x25519.resumed",
            sidecar,
            Caller::Resuming,
            Groups::X25519,
        ),
        arm(
            "envoy.x25519.resumed",
            envoy,
            Caller::Resuming,
            Groups::X25519,
        ),
        arm(
            "postern.hybrid.full",
            sidecar,
            Caller::Stranger,
            Groups::Hybrid,
        ),
        arm(
            "postern.hybrid.known_chain",
            sidecar,
            Caller::Regular,
            Groups::Hybrid,
        ),
        arm(
            "postern.hybrid.resumed",
            sidecar,
            Caller::Resuming,
            Groups::Hybrid,
        ),
    ];
    if let Some(only) = &arguments.only {
        arms.retain(|arm| arm.name.contains(only.as_str()));
    }
    let (rounds, handshakes) = match arguments.common.quick {
        true => (1, 50),
        false => (arguments.rounds, arguments.handshakes as usize),
    };
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        for arm in &mut arms {
            let taken = arm
                .server
                .handshakes(arm.caller, arm.groups, handshakes)
                .await
                .with_context(|| format!("{}, round {round}", arm.name))?;
            arm.rounds.push(taken.server_cpu_us);
        }
    }
    tell(report, &arms);
    Ok(())
}

fn tell(report: &mut Report, arms: &[Arm<'_>]) {
    for arm in arms {
        report.figure(format!("server_cpu_us.{}", arm.name), median(&arm.rounds));
        report.figure(
            format!("server_cpu_us_range.{}", arm.name),
            range(&arm.rounds),
        );
    }
    // Of each round by itself: what disturbs one arm mostly disturbs the next as well.
    let over = |ours: &str, theirs: &str| {
        let rounds = |name| arms.iter().find(|arm| arm.name == name).map(|a| &a.rounds);
        let (ours, theirs) = rounds(ours).zip(rounds(theirs))?;
        let ratios: Vec<_> = ours
            .iter()
            .zip(theirs)
            .filter_map(|(a, b)| ratio(Some(*a), Some(*b)))
            .collect();
        median(&ratios)
    };
    let (full, envoy) = ("postern.x25519.full", "envoy.x25519.full");
    let known = "postern.x25519.known_chain";
    report.at_most("full_over_envoy", over(full, envoy), OVER_ENVOY);
    report.at_most(
        "known_chain_over_envoy",
        over(known, envoy),
        KNOWN_OVER_ENVOY,
    );
    report.at_most(
        "resumed_over_full",
        over("postern.x25519.resumed", full),
        RESUMED_OVER_FULL,
    );
    for (name, ours, theirs) in [
        ("resumed_over_known_chain", "postern.x25519.resumed", known),
        (
            "known_chain_over_envoys_same_client",
            known,
            "envoy.x25519.same_client",
        ),
        (
            "resumed_over_envoys",
            "postern.x25519.resumed",
            "envoy.x25519.resumed",
        ),
        (
            "hybrid_resumed_over_full",
            "postern.hybrid.resumed",
            "postern.hybrid.full",
        ),
        (
            "hybrid_full_over_envoys_x25519",
            "postern.hybrid.full",
            envoy,
        ),
        (
            "hybrid_known_chain_over_envoys_x25519",
            "postern.hybrid.known_chain",
            envoy,
        ),
    ] {
        report.ratio(name, over(ours, theirs));
    }
}
