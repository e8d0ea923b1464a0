//! The command line of `control-api`; every flag can also be given as `POSTERN_<FLAG>`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Postern's control API: certificates, registry, policy, discovery.
#[derive(Debug, Parser)]
#[command(name = "control-api", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the certificate authority and an operator certificate.
    Init(InitArgs),
    /// Serve until told to stop; makes the certificate authority if there is none.
    Run(RunArgs),
}

/// Where the data is and whose it is.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Directory of the store and the authority's key.
    #[arg(long, env = "POSTERN_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Trust domain of the mesh.
    #[arg(long, env = "POSTERN_TRUST_DOMAIN")]
    pub trust_domain: String,
    /// Your own signing certificate (followed by its chain up to the root), PEM; else one is made.
    #[arg(
        long,
        env = "POSTERN_ROOT_CERT",
        value_name = "FILE",
        requires = "root_key"
    )]
    pub root_cert: Option<PathBuf>,
    /// Private key of `--root-cert`, PEM.
    #[arg(
        long,
        env = "POSTERN_ROOT_KEY",
        value_name = "FILE",
        requires = "root_cert"
    )]
    pub root_key: Option<PathBuf>,
    /// Directory for operator.pem, operator.key and ca.pem [default: DATA-DIR/operator].
    #[arg(long, env = "POSTERN_OPERATOR_OUT", value_name = "DIR")]
    pub operator_out: Option<PathBuf>,
}

/// Flags of `control-api run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Data and authority.
    #[command(flatten)]
    pub init: InitArgs,
    /// gRPC over TLS: certificates, discovery, administration.
    #[arg(
        long,
        env = "POSTERN_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:15012"
    )]
    pub listen: SocketAddr,
    /// Unix socket for administration by the same user [default: DATA-DIR/admin.sock].
    #[arg(long, env = "POSTERN_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Metrics listener.
    #[arg(
        long,
        env = "POSTERN_METRICS",
        value_name = "ADDR",
        default_value = "127.0.0.1:15014"
    )]
    pub metrics: SocketAddr,
    /// Lifetime of the certificates it signs, e.g. `24h`.
    #[arg(long, env = "POSTERN_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = parse_duration)]
    pub certificate_lifetime: Duration,
    /// Written once listening: a JSON object with the addresses in use.
    #[arg(long, env = "POSTERN_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Log level: error, warn, info, debug.
    #[arg(long, env = "POSTERN_LOG", default_value = "info")]
    pub log: String,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a duration, for example 30s, 10m, 24h"))?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        unit => return Err(format!("unknown unit '{unit}': use s, m, h or d")),
    };
    match number.checked_mul(seconds) {
        Some(total) if total >= 30 => Ok(Duration::from_secs(total)),
        _ => Err("must be at least 30s".into()),
    }
}
