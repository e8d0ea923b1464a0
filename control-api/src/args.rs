//! The command line of `control-api`; every flag can also be given as `POSTERN_<FLAG>`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mesh_auth::bundle::ANY_NAMESPACE;

use crate::jwt::discovery;
use crate::jwt::keys::MAX_TOKEN_LIFETIME;

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
    Run(Box<RunArgs>),
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
    /// Host name or address under which sidecars reach it, for the ready file [default: the address of --listen].
    #[arg(long, env = "POSTERN_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
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
    /// Roots (PEM) of another authority that signs for workloads of this trust domain, SPIRE's say: believed beside the own ones
    /// and published with them. Whoever holds them can be any workload of the namespaces in --workload-roots-namespaces, but no operator and no control
    /// API; what is issued to such a workload ends no later than the certificate that it came with.
    #[arg(long, env = "POSTERN_WORKLOAD_ROOTS", value_name = "FILE")]
    pub workload_roots: Option<PathBuf>,
    /// Namespaces of the workloads that --workload-roots vouch for, with commas between them: theirs is no identity of any other
    /// namespace, here and at every sidecar. '*': every identity of the trust domain.
    #[arg(
        long,
        env = "POSTERN_WORKLOAD_ROOTS_NAMESPACES",
        value_name = "NAMESPACES|*",
        value_delimiter = ',',
        value_parser = parse_namespace,
        requires = "workload_roots"
    )]
    pub workload_roots_namespaces: Vec<String>,
    /// Lifetime of the certificates it signs where no shorter one is asked for, for example 24h.
    #[arg(long, env = "POSTERN_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = parse_duration)]
    pub certificate_lifetime: Duration,
    /// Fetch key sets and discovery documents from loopback and private addresses too, also in the clear (http).
    #[arg(long, env = "POSTERN_ALLOW_LOCAL_FETCH")]
    pub allow_local_fetch: bool,
    /// Certificates, PEM, that servers are verified by when something is fetched [default: the public authorities].
    #[arg(long, env = "POSTERN_FETCH_CA_FILE", value_name = "FILE")]
    pub fetch_ca_file: Option<PathBuf>,
    /// Lifetime of the JWT-SVIDs it signs where no shorter one is asked for, at most 1h.
    #[arg(long, env = "POSTERN_JWT_LIFETIME", default_value = "5m", value_parser = parse_token_lifetime)]
    pub jwt_lifetime: Duration,
    /// How long a key signs JWT-SVIDs before the next one does.
    #[arg(long, env = "POSTERN_JWT_KEY_LIFETIME", default_value = "7d", value_parser = parse_duration)]
    pub jwt_key_lifetime: Duration,
    /// Issuer URL: JWT-SVIDs say it as `iss`, and the metrics listener answers OpenID Connect discovery for it.
    #[arg(long, env = "POSTERN_JWT_ISSUER", value_name = "URL", value_parser = discovery::parse_issuer)]
    pub jwt_issuer: Option<String>,
    /// Shortest time between two fetches of an issuer's keys, whatever its cache headers say.
    #[arg(long, env = "POSTERN_KEY_REFRESH_MIN", default_value = "60s", value_parser = parse_duration)]
    pub key_refresh_min: Duration,
    /// Longest time between two fetches of an issuer's keys, whatever its cache headers say.
    #[arg(long, env = "POSTERN_KEY_REFRESH_MAX", default_value = "15m", value_parser = parse_duration)]
    pub key_refresh_max: Duration,
    /// Shortest time between two fetches of an issuer's keys that tokens with unknown keys ask for.
    #[arg(long, env = "POSTERN_KEY_REFETCH", default_value = "10s", value_parser = parse_duration)]
    pub key_refetch: Duration,
    /// What proves a workload: a YAML file with `attestors` (join tokens, Kubernetes clusters) [default: join tokens alone].
    #[arg(long, env = "POSTERN_ATTESTATION", value_name = "FILE")]
    pub attestation: Option<PathBuf>,
    /// Written once listening: a JSON object with the addresses in use.
    #[arg(long, env = "POSTERN_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Log level.
    #[arg(long, env = "POSTERN_LOG", default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log: String,
}

impl InitArgs {
    /// Where the operator's certificate goes.
    pub fn operator_directory(&self) -> PathBuf {
        self.operator_out
            .clone()
            .unwrap_or_else(|| self.data_dir.join("operator"))
    }
}

impl RunArgs {
    /// Where the administration socket is.
    pub fn admin_socket_path(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .unwrap_or_else(|| self.init.data_dir.join("admin.sock"))
    }

    /// `HOST:PORT` that sidecars can dial, for a socket that listens on `bound`.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        if let Some(host) = &self.advertise {
            // An IPv6 address stands in brackets before a port.
            return match host.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
                Err(_) => format!("{host}:{}", bound.port()),
            };
        }
        let ip = match bound.ip() {
            // Not an address that anybody can dial; on this machine this one is.
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, bound.port()).to_string()
    }
}

fn parse_token_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        lifetime if lifetime <= MAX_TOKEN_LIFETIME => Ok(lifetime),
        _ => Err("must be at most 1h".into()),
    }
}

fn parse_namespace(text: &str) -> Result<String, String> {
    if text == ANY_NAMESPACE {
        return Ok(text.to_owned());
    }
    mesh_manifest::label("namespace", text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a duration; for example 30s, 10m, 24h, 7d"))?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        unit => return Err(format!("unknown unit '{unit}': use s, m, h or d")),
    };
    match number.checked_mul(seconds) {
        Some(total @ 1..=31_536_000) => Ok(Duration::from_secs(total)),
        _ => Err("must be between 1s and 365d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let all = [
            "control-api",
            "run",
            "--data-dir",
            "d",
            "--trust-domain",
            "td",
        ];
        Cli::try_parse_from(all.iter().chain(arguments))
    }

    fn run(arguments: &[&str]) -> RunArgs {
        match parse(arguments).unwrap().command {
            Command::Run(args) => *args,
            Command::Init(_) => unreachable!(),
        }
    }

    #[test]
    fn bounds_of_other_roots_are_namespaces_and_of_no_use_without_roots() {
        let bound = ["--workload-roots-namespaces", "shop,bank"];
        let with: Vec<_> = ["--workload-roots", "f"].into_iter().chain(bound).collect();
        assert_eq!(run(&with).workload_roots_namespaces, ["shop", "bank"]);
        let anybody = ["--workload-roots", "f", bound[0], "*"];
        assert_eq!(run(&anybody).workload_roots_namespaces, ["*"]);
        assert!(parse(&bound).is_err());
        assert!(parse(&[with[0], with[1], with[2], "shop,Bank!"]).is_err());
        assert!(parse(&[with[0], with[1], with[2], ""]).is_err());
    }

    #[test]
    fn the_advertised_address_can_be_dialled() {
        let bound = |text: &str| text.parse().unwrap();
        let plain = run(&[]);
        assert_eq!(plain.advertised(bound("0.0.0.0:1")), "127.0.0.1:1");
        assert_eq!(plain.advertised(bound("[::]:1")), "[::1]:1");
        assert_eq!(plain.advertised(bound("10.0.0.1:1")), "10.0.0.1:1");
        let named = run(&["--advertise", "control.example"]);
        assert_eq!(named.advertised(bound("0.0.0.0:1")), "control.example:1");
        let address = run(&["--advertise", "fd00::1"]);
        assert_eq!(address.advertised(bound("0.0.0.0:1")), "[fd00::1]:1");
    }

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "24",
            "h",
            "0s",
            "-1h",
            "366d",
            "1w",
            "99999999999999999999d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn half_an_authority_is_refused() {
        let cli = Cli::try_parse_from([
            "control-api",
            "init",
            "--data-dir",
            "d",
            "--trust-domain",
            "td",
            "--root-cert",
            "f",
        ]);
        assert!(cli.unwrap_err().to_string().contains("--root-key"));
    }
}
