//! Arguments of the commands that watch traffic.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(
    after_help = "NOW is the percentile of the worst sidecar within the budget's window. BURN says how many times faster \
                  than allowed the budget is used up, over the window and over its last twelfth; more than 1 over both is a breach.\n\
                  Exit codes: 0 none is breached, 1 one is."
)]
pub(crate) struct BudgetArgs {
    /// Budget, `name` or `namespace/name`; all when omitted
    pub(crate) budget: Option<String>,
    /// Namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "One line per request or connection, when it ends; -o json prints one object per line. Never shown: queries, header \
                  values, claims. The sidecar drops what exceeds --rate, and says how much.\n\
                  Ends with Ctrl-C, or after --count lines or --for so long."
)]
pub(crate) struct TapArgs {
    /// Workload, `namespace/name`
    #[arg(value_parser = super::workload_name)]
    pub(crate) workload: String,
    /// Only this method
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    pub(crate) path: Option<String>,
    /// Only what was decided so
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<TapVerdict>,
    /// Only what was refused (the same as --verdict deny)
    #[arg(long, conflicts_with = "verdict")]
    pub(crate) denied: bool,
    /// Only this reason, e.g. `no_allow_policy_matched`
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only this other end: a SPIFFE ID, or NAMESPACE/SERVICE-ACCOUNT
    #[arg(long)]
    pub(crate) peer: Option<String>,
    /// Only one direction, as seen by the workload
    #[arg(long, value_enum)]
    pub(crate) direction: Option<TapDirection>,
    /// Lines per second at most, up to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,
    /// End after so many lines
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so long, e.g. 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = super::seconds)]
    pub(crate) duration: Option<u32>,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapVerdict {
    /// Let in
    Allow,
    /// Refused
    Deny,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapDirection {
    /// To the workload
    Inbound,
    /// From it
    Outbound,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What sidecars saw come to their workloads since they started. A SPIFFE ID was proved by mutual TLS; an address means \
                  plaintext. Calls to where no sidecar is are told by the caller's; whatever is asked of a workload includes them."
)]
pub(crate) struct EdgesArgs {
    /// Destination workload, `namespace/name`; all when omitted
    pub(crate) workload: Option<String>,
    /// Its namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Only what came in plaintext
    #[arg(long)]
    pub(crate) plaintext: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Two readings of the same sidecars are compared. On a terminal it goes on until Ctrl-C; otherwise, and with --once or \
                  -o json, it ends after one interval."
)]
pub(crate) struct TopArgs {
    /// Destination workload, `namespace/name`; all when omitted
    pub(crate) workload: Option<String>,
    /// Its namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Time between two readings, e.g. 2s
    #[arg(long, default_value = "2s", value_parser = super::seconds)]
    pub(crate) interval: u32,
    /// End after one interval
    #[arg(long)]
    pub(crate) once: bool,
    /// Edges shown at most, busiest first
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) limit: u16,
}
