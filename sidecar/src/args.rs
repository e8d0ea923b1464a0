//! The command line of `sidecar`; every flag can also be given as `POSTERN_<FLAG>`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use mesh_auth::tls::Resumption;

use crate::capture_cli::CaptureArgs;
use crate::control::outside::Outside;
use crate::lookups::Subscribe;
use crate::telemetry::access_log::{AccessLogSettings, Filter};
use crate::telemetry::{LogFormat, LogLevel};
use crate::worker::crew::HandOver;
use crate::worker::{Egress, Mode, TcpService};

/// Postern's data plane: one process beside each workload.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run beside a workload until told to stop.
    Run(Box<RunArgs>),
    /// Program, remove, show or check the rules that redirect a workload's traffic.
    Capture(CaptureArgs),
}

/// How traffic reaches the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Redirected by `sidecar capture`.
    Capture,
    /// Sent to it by name.
    Explicit,
}

/// What happens to traffic that leaves the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EgressArg {
    /// Passed through.
    Allow,
    /// The same, and also what may be within the mesh while the control API cannot say: then in the clear.
    AllowUnresolved,
    /// Refused.
    Refuse,
}

/// Which services and workloads are subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SubscribeArg {
    /// All.
    All,
    /// Those that the application uses.
    Used,
}

/// Whether TLS sessions are resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResumptionArg {
    /// While no certificate, bundle or revocation changed.
    On,
    /// Never.
    Off,
}

/// Whether workers pass connections on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HandOverArg {
    /// New ones, to a worker with fewer.
    On,
    /// Never.
    Off,
}

/// Flags of `sidecar run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workload, `namespace/name`.
    #[arg(long, env = "POSTERN_WORKLOAD", value_name = "NS/NAME")]
    pub workload: String,
    /// The control API, `host:port`.
    #[arg(long, env = "POSTERN_CONTROL_API", value_name = "HOST:PORT")]
    pub control_api: String,
    /// Identity the control API must prove [default: spiffe://TRUST-DOMAIN/ns/postern-system/sa/control-api].
    #[arg(long, env = "POSTERN_CONTROL_API_ID", value_name = "SPIFFE-ID")]
    pub control_api_id: Option<String>,
    /// The mesh's trust domain.
    #[arg(long, env = "POSTERN_TRUST_DOMAIN")]
    pub trust_domain: String,
    /// Roots to verify the control API with, PEM.
    #[arg(long, env = "POSTERN_TRUST_BUNDLE", value_name = "FILE")]
    pub trust_bundle: PathBuf,
    /// A join token; read again for every use.
    #[arg(long, env = "POSTERN_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// A Kubernetes service-account token for the control API's audience, as the kubelet projects it; read again for every use.
    #[arg(long, env = "POSTERN_SERVICE_ACCOUNT_TOKEN_FILE", value_name = "FILE")]
    pub service_account_token_file: Option<PathBuf>,
    /// An outside SPIFFE Workload API (SPIRE's) that gives this sidecar its identity and bundles instead of the control API: a
    /// path or `unix:///path`. The identity has to be spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT of the workload.
    /// Its roots of this trust domain vouch for workloads of this one's namespace, or of those that the control API names.
    #[arg(long, env = "POSTERN_IDENTITY_SOCKET", value_name = "PATH", value_parser = Outside::new,
        conflicts_with_all = ["join_token_file", "service_account_token_file", "key_dir"])]
    pub identity_socket: Option<Outside>,
    /// Directory for the last good state; without it a restart needs the control API.
    #[arg(long, env = "POSTERN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Memory-backed directory for the private key; without it a restart needs a new certificate.
    #[arg(long, env = "POSTERN_KEY_DIR", value_name = "DIR")]
    pub key_dir: Option<PathBuf>,
    /// Unix socket on which the application is served the SPIFFE Workload API and Envoy's SDS; its directory has to exist.
    #[arg(long, env = "POSTERN_WORKLOAD_API_SOCKET", value_name = "PATH")]
    pub workload_api_socket: Option<PathBuf>,
    /// A user whose processes may use that socket; repeatable [default: the sidecar's own]. With others than its own,
    /// everybody may open the socket (mode 0666, else 0600), and the kernel says who it is.
    #[arg(
        long,
        env = "POSTERN_WORKLOAD_API_UID",
        value_name = "UID",
        value_delimiter = ',',
        requires = "workload_api_socket"
    )]
    pub workload_api_uid: Vec<u32>,
    /// How traffic reaches the sidecar.
    #[arg(long, env = "POSTERN_MODE", value_enum, default_value = "capture")]
    pub mode: ModeArg,
    /// Outbound listener [default: [::]:15001, explicit mode 127.0.0.1:15001].
    #[arg(long, env = "POSTERN_OUTBOUND", value_name = "ADDR")]
    pub outbound: Option<SocketAddr>,
    /// Inbound listener for plaintext and captured TLS.
    #[arg(
        long,
        env = "POSTERN_INBOUND",
        value_name = "ADDR",
        default_value = "[::]:15006"
    )]
    pub inbound: SocketAddr,
    /// Listener for mutual TLS from peers.
    #[arg(
        long,
        env = "POSTERN_MESH",
        value_name = "ADDR",
        default_value = "[::]:15008"
    )]
    pub mesh: SocketAddr,
    /// Admin listener; loopback only.
    #[arg(
        long,
        env = "POSTERN_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:15000"
    )]
    pub admin: SocketAddr,
    /// Metrics listener.
    #[arg(
        long,
        env = "POSTERN_METRICS",
        value_name = "ADDR",
        default_value = "[::]:15020"
    )]
    pub metrics: SocketAddr,
    /// Readiness listener.
    #[arg(
        long,
        env = "POSTERN_READINESS",
        value_name = "ADDR",
        default_value = "[::]:15021"
    )]
    pub readiness: SocketAddr,
    /// Explicit mode: an opaque listener for a service port; repeatable.
    #[arg(long, value_name = "LISTEN=HOST:PORT", value_parser = parse_tcp_service)]
    pub tcp_service: Vec<(SocketAddr, TcpService)>,
    /// Where an application port is served, if not at the workload's own address; repeatable.
    #[arg(long, value_name = "PORT=HOST:PORT", value_parser = parse_app)]
    pub app: Vec<(u16, SocketAddr)>,
    /// Explicit mode: the application port that plaintext on the inbound listener is for.
    #[arg(long, env = "POSTERN_INBOUND_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound_port: Option<u16>,
    /// What happens to traffic that leaves the mesh.
    #[arg(long, env = "POSTERN_EGRESS", value_enum, default_value = "allow")]
    pub egress: EgressArg,
    /// Which services and workloads are subscribed to: those that the application uses, each from its first use until an hour
    /// after its last, or all of them.
    #[arg(long, env = "POSTERN_SUBSCRIBE", value_enum, default_value = "used")]
    pub subscribe: SubscribeArg,
    /// Whether connections between workloads are resumed by session tickets, on both sides. Tickets end with the certificates
    /// and with every change of certificate, bundles or revocations; there is no early data.
    #[arg(
        long,
        env = "POSTERN_SESSION_RESUMPTION",
        value_enum,
        default_value = "on"
    )]
    pub session_resumption: ResumptionArg,
    /// Worker threads [default: the CPU quota, rounded down, at least 1].
    #[arg(long, env = "POSTERN_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Whether a worker with more connections than others passes new ones on.
    #[arg(long, env = "POSTERN_HAND_OVER", value_enum, default_value = "on")]
    pub hand_over: HandOverArg,
    /// How long draining may take, e.g. `5s`.
    #[arg(long, env = "POSTERN_DRAIN_TIMEOUT", default_value = "5s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Mark on the sidecar's own sockets, which capture lets pass; used when permitted.
    #[arg(long, env = "POSTERN_PROXY_MARK", default_value = "0x539", value_parser = parse_mark)]
    pub proxy_mark: u32,
    /// Written once ready: a JSON object with the addresses in use.
    #[arg(long, env = "POSTERN_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Log level.
    #[arg(long, env = "POSTERN_LOG", value_enum, default_value = "info")]
    pub log: LogLevel,
    /// Log format.
    #[arg(long, env = "POSTERN_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
    /// Where the access log is appended, `-` for standard output; without it accesses are not logged.
    #[arg(long, env = "POSTERN_ACCESS_LOG", value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Which lines the access log has.
    #[arg(
        long,
        env = "POSTERN_ACCESS_LOG_FILTER",
        value_enum,
        default_value = "all"
    )]
    pub access_log_filter: Filter,
    /// Share of the access log's lines that is written, `0.0` to `1.0`; refusals always are.
    #[arg(long, env = "POSTERN_ACCESS_LOG_SAMPLE", value_name = "SHARE", default_value = "1.0", value_parser = parse_share)]
    pub access_log_sample: f64,
    /// Whether workers count requests, connections and phases; without it their metrics are missing, and latency budgets
    /// are not held.
    #[arg(
        long,
        env = "POSTERN_REQUEST_METRICS",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub request_metrics: bool,
}

impl RunArgs {
    /// What is logged of accesses, if anything.
    pub fn access_log(&self) -> Option<AccessLogSettings> {
        Some(AccessLogSettings {
            target: self.access_log.clone()?,
            filter: self.access_log_filter,
            sample: self.access_log_sample,
        })
    }
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Capture => Self::Capture,
            ModeArg::Explicit => Self::Explicit,
        }
    }
}

impl From<EgressArg> for Egress {
    fn from(egress: EgressArg) -> Self {
        match egress {
            EgressArg::Allow => Self::Allow,
            EgressArg::AllowUnresolved => Self::AllowUnresolved,
            EgressArg::Refuse => Self::Refuse,
        }
    }
}

impl From<SubscribeArg> for Subscribe {
    fn from(subscribe: SubscribeArg) -> Self {
        match subscribe {
            SubscribeArg::All => Self::All,
            SubscribeArg::Used => Self::Used,
        }
    }
}

impl From<HandOverArg> for HandOver {
    fn from(hand_over: HandOverArg) -> Self {
        match hand_over {
            HandOverArg::On => Self::On,
            HandOverArg::Off => Self::Off,
        }
    }
}

impl From<ResumptionArg> for Resumption {
    fn from(resumption: ResumptionArg) -> Self {
        match resumption {
            ResumptionArg::On => Self::On,
            ResumptionArg::Off => Self::Off,
        }
    }
}

fn parse_tcp_service(text: &str) -> Result<(SocketAddr, TcpService), String> {
    const SHAPE: &str = "must be LISTEN=HOST:PORT, for example 127.0.0.1:7000=orders:7000";
    let (listen, service) = text.split_once('=').ok_or(SHAPE)?;
    let (host, port) = service.rsplit_once(':').ok_or(SHAPE)?;
    let listen = listen
        .parse()
        .map_err(|_| format!("'{listen}' is not an address; {SHAPE}"))?;
    let port = port
        .parse()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("'{port}' is not a port; {SHAPE}"))?;
    Ok((
        listen,
        TcpService {
            host: host.to_ascii_lowercase(),
            port,
        },
    ))
}

fn parse_app(text: &str) -> Result<(u16, SocketAddr), String> {
    const SHAPE: &str = "must be PORT=HOST:PORT, for example 8080=127.0.0.1:9090";
    let (port, address) = text.split_once('=').ok_or(SHAPE)?;
    let port = port
        .parse()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("'{port}' is not a port; {SHAPE}"))?;
    let address = address
        .parse()
        .map_err(|_| format!("'{address}' is not an address; {SHAPE}"))?;
    Ok((port, address))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a duration, for example 500ms, 5s, 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("unknown unit '{unit}': use ms, s or m")),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("'{text}' is not a share from 0.0 to 1.0"))
}

/// A socket mark, decimal or hexadecimal.
pub(crate) fn parse_mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed
        .ok()
        .filter(|m| *m != 0)
        .ok_or_else(|| format!("'{text}' is not a mark: a number above 0, decimal or 0x..."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_parsed_or_refused_with_their_shape() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_mark("0x539"), Ok(0x539));
        assert_eq!(
            parse_tcp_service("127.0.0.1:0=Orders:7000").unwrap().1.host,
            "orders"
        );
        for bad in [
            "127.0.0.1:0",
            "x=orders:1",
            "127.0.0.1:0=orders:0",
            "127.0.0.1:0=orders",
        ] {
            assert!(
                parse_tcp_service(bad)
                    .unwrap_err()
                    .contains("LISTEN=HOST:PORT"),
                "{bad}"
            );
        }
        assert!(parse_app("0=127.0.0.1:1").is_err() && parse_app("80=x").is_err());
        assert!(parse_share("1.1").is_err() && parse_share("NaN").is_err());
        assert!(parse_duration("5h").is_err() && parse_mark("0").is_err());
    }
}
