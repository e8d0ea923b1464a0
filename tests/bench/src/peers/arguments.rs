//! What `mesh-bench peers` is asked.

use clap::{Args, ValueEnum};

use crate::args::Common;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How often every arm is measured; medians are judged
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Length of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Peers beside ours
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "envoy,haproxy-h1,haproxy-h2,haproxy-token,nginx"
    )]
    peers: Vec<Peer>,
}

impl Arguments {
    pub(crate) fn rounds(&self) -> u32 {
        if self.common.quick { 1 } else { self.rounds }
    }

    pub(crate) fn seconds(&self) -> u32 {
        if self.common.quick { 1 } else { self.seconds }
    }

    /// The chosen peers, each once.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let mut chosen = Vec::new();
        for peer in &self.peers {
            if !chosen.contains(peer) {
                chosen.push(*peer);
            }
        }
        chosen
    }
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// The application without any proxy
    #[value(skip)]
    Direct,
    /// Two sidecars
    #[value(skip)]
    Postern,
    /// Two Envoys: HTTP/2 between them, token cache on
    Envoy,
    /// Two HAProxy: HTTP/1.1 between them, no token
    HaproxyH1,
    /// Two HAProxy: HTTP/2 between them, no token
    HaproxyH2,
    /// Two HAProxy: HTTP/2 between them, every token verified
    HaproxyToken,
    /// Two nginx: HTTP/1.1 between them, no token
    Nginx,
}

impl Peer {
    /// As the report spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Postern => "postern",
            Self::Envoy => "envoy",
            Self::HaproxyH1 => "haproxy_h1",
            Self::HaproxyH2 => "haproxy_h2",
            Self::HaproxyToken => "haproxy_token",
            Self::Nginx => "nginx",
        }
    }
}
