//! What `mesh-bench pair` is asked.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::{Common, Placement};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
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

impl Arguments {
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

    /// Rounds and seconds, at least those that a quick look needs.
    pub(crate) fn length(&self) -> (u32, u32) {
        if self.common.quick {
            (1, 1)
        } else {
            (self.rounds, self.seconds)
        }
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Option<Arguments> {
        let all = ["mesh-bench", "pair"].iter().chain(flags);
        match Cli::try_parse_from(all).ok()?.command {
            Command::Pair(arguments) => Some(arguments),
            _ => None,
        }
    }

    #[test]
    fn the_defaults_measure_all_arms_three_times() {
        let p = parse(&[]).unwrap();
        assert_eq!(
            p.arms(),
            [
                ArmName::Direct,
                ArmName::Postern,
                ArmName::HaproxyH1,
                ArmName::HaproxyH2
            ]
        );
        assert_eq!((p.length(), p.connections), ((3, 5), 32));
        assert!(!p.common.json && !p.common.install);
    }

    #[test]
    fn an_arm_named_twice_is_measured_once() {
        let p = parse(&["--arms", "postern,direct,postern"]).unwrap();
        assert_eq!(p.arms(), [ArmName::Postern, ArmName::Direct]);
    }

    #[test]
    fn nothing_is_measured_zero_times() {
        for flag in ["--rounds", "--seconds", "--connections"] {
            assert!(parse(&[flag, "0"]).is_none());
        }
        assert!(parse(&["--arms", "envoy"]).is_none());
    }
}
