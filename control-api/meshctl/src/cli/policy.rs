//! The arguments of what concerns policy: revisions, tests, explanations, readiness.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// How many revisions at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Only revisions before this one
    #[arg(long, value_name = "REV")]
    pub(crate) before: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The documents become what they were after this revision
    #[arg(value_name = "REV")]
    pub(crate) revision: u64,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse unless this is the latest revision
    #[arg(long, value_name = "REV", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) if_revision: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Run tests of policies from files, with the engine that sidecars enforce with; asks no control API
    Test(TestArgs),
    /// Look for mistakes: shadowed rules, impossible conditions, over-broad allows, missing owners, unreachable paths
    Lint(LintArgs),
    /// What two revisions of the store have differently, document by document
    Diff(DiffArgs),
    /// What dry-run policies would change, per workload and route, from live traffic
    Shadow(ReportArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 every test passed, 1 a test failed (or a rule is untested, with --require-coverage), 2 a file \
                  cannot be read. deploy/examples/shop-tests.yaml is an example of the format."
)]
pub(crate) struct TestArgs {
    /// Files with tests
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Fail when a rule is matched by no test
    #[arg(long)]
    pub(crate) require_coverage: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing was found, 1 something was, 2 a file cannot be read."
)]
pub(crate) struct LintArgs {
    /// Files with documents
    #[arg(
        required_unless_present = "live",
        conflicts_with = "live",
        value_name = "FILE"
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Look at what is stored in the control API instead
    #[arg(long)]
    pub(crate) live: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// From this revision
    #[arg(value_name = "REV")]
    pub(crate) from: u64,
    /// To this one; the latest when omitted
    #[arg(value_name = "REV")]
    pub(crate) to: Option<u64>,
}

/// Whose reports to show.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Workload, `namespace/name`; all when omitted
    pub(crate) workload: Option<String>,
    /// Namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Also show what stays as it is
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthzCommand {
    /// Why a request was denied (by its decision id), or how one would be decided, and what would have to be different
    Why(Box<WhyArgs>),
}

#[derive(Debug, Args)]
#[command(
    after_help = "By id: the sidecars are asked for the decision that the denied caller was told.\n\
                  Without id: --workload and --peer describe a case, which is decided with the policies that are stored now.\n\
                  Exit codes: 0 allowed (or the decision was found), 1 denied, or nobody remembers the decision."
)]
pub(crate) struct WhyArgs {
    /// Decision id: 16 hexadecimal digits
    #[arg(value_name = "DECISION-ID")]
    pub(crate) id: Option<String>,
    /// Workload that decides, `namespace/name`; with an id, ask only its sidecar
    #[arg(long, required_unless_present = "id")]
    pub(crate) workload: Option<String>,
    /// Caller: a SPIFFE ID, NAMESPACE/SERVICE-ACCOUNT, or `none` for plaintext
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    pub(crate) peer: Option<String>,
    /// File with the token's claims as JSON; taken as verified
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "token_file"])]
    pub(crate) token_claims: Option<PathBuf>,
    /// File with a JWT; its claims are taken as verified, its signature is not looked at
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    pub(crate) token_file: Option<PathBuf>,
    /// Application port [default: the workload's only one, else 80]
    #[arg(long, conflicts_with = "id")]
    pub(crate) port: Option<u16>,
    /// Method; with none of --method, --path, --host and --header it is an opaque connection
    #[arg(long, conflicts_with = "id")]
    pub(crate) method: Option<String>,
    /// Path
    #[arg(long, conflicts_with = "id")]
    pub(crate) path: Option<String>,
    /// Host
    #[arg(long, conflicts_with = "id")]
    pub(crate) host: Option<String>,
    /// Header; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", conflicts_with = "id", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Address that the connection comes from
    #[arg(long, conflicts_with = "id", default_value = "127.0.0.1")]
    pub(crate) source_ip: IpAddr,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MtlsCommand {
    /// Which workloads can go STRICT, and which plaintext callers keep the others from it
    Readiness(ReadinessArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReadinessArgs {
    /// Workload, `namespace/name`; all when omitted
    pub(crate) workload: Option<String>,
    /// Namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Callers that were not seen for so long block nobody, e.g. 1h, 7d
    #[arg(long, default_value = "24h", value_parser = super::seconds)]
    pub(crate) within: u32,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected NAME: VALUE, e.g. \"x-tenant: blue\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
