//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Measures the mesh beside its peers.
#[derive(Debug, Parser)]
#[command(name = "mesh-bench", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare a pair of sidecars with a pair of HAProxy in front of the same application
    Pair(PairArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PairArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Install missing programs with apt-get (needs root)
    #[arg(long)]
    pub(crate) install: bool,
    /// How often every arm is measured; medians are judged
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Length of each measurement; a round has two per arm
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Keep-alive connections of the loaded measurement
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub(crate) connections: u32,
    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "direct,postern,haproxy-h1,haproxy-h2"
    )]
    pub(crate) arms: Vec<ArmName>,
    /// Which processor runs what
    #[arg(long, default_value = "same")]
    pub(crate) placement: Placement,
}

impl PairArgs {
    /// The chosen arms, each once, in the order given.
    pub(crate) fn arms(&self) -> Vec<ArmName> {
        let mut chosen = Vec::new();
        for arm in &self.arms {
            if !chosen.contains(arm) {
                chosen.push(*arm);
            }
        }
        chosen
    }
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ArmName {
    /// The application without any proxy
    Direct,
    /// Two sidecars
    Postern,
    /// Two HAProxy, HTTP/1.1 over mTLS between them
    HaproxyH1,
    /// Two HAProxy, HTTP/2 over mTLS between them
    HaproxyH2,
}

impl ArmName {
    /// As the command line and the report spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Postern => "postern",
            Self::HaproxyH1 => "haproxy-h1",
            Self::HaproxyH2 => "haproxy-h2",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_measure_all_arms_three_times() {
        let Command::Pair(p) = Cli::try_parse_from(["mesh-bench", "pair"]).unwrap().command;
        assert_eq!(
            p.arms(),
            [
                ArmName::Direct,
                ArmName::Postern,
                ArmName::HaproxyH1,
                ArmName::HaproxyH2
            ]
        );
        assert_eq!((p.rounds, p.seconds, p.connections), (3, 5, 32));
        assert!(!p.json && !p.install);
    }

    #[test]
    fn an_arm_named_twice_is_measured_once() {
        let cli = Cli::try_parse_from(["mesh-bench", "pair", "--arms", "postern,direct,postern"])
            .unwrap();
        let Command::Pair(p) = cli.command;
        assert_eq!(p.arms(), [ArmName::Postern, ArmName::Direct]);
    }

    #[test]
    fn nothing_is_measured_zero_times() {
        for flag in ["--rounds", "--seconds", "--connections"] {
            assert!(Cli::try_parse_from(["mesh-bench", "pair", flag, "0"]).is_err());
        }
        assert!(Cli::try_parse_from(["mesh-bench", "pair", "--arms", "envoy"]).is_err());
    }
}
