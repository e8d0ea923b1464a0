//! The arguments. Owns names, defaults and help texts; decides nothing.

mod device;
mod policy;
mod watch;

pub(crate) use device::*;
pub(crate) use policy::*;
pub(crate) use watch::*;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Operate a Postern mesh from the command line.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 a problem was found, 2 wrong usage, 3 the control API cannot be reached.\n\
                  Never seen a mesh before? Run `meshctl demo`."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the control API, and how to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Control API to talk to over TLS; needs --cert, --key and --ca
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "POSTERN_CONTROL_API",
        conflicts_with = "socket"
    )]
    pub(crate) control_api: Option<String>,
    /// Operator certificate chain, PEM (`control-api init` makes one)
    #[arg(long, global = true, value_name = "FILE", env = "POSTERN_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// Operator private key, PEM
    #[arg(long, global = true, value_name = "FILE", env = "POSTERN_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// Trust bundle to verify the control API with, PEM
    #[arg(long, global = true, value_name = "FILE", env = "POSTERN_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Admin socket of a control API on this machine, same user [default: /run/postern/admin.sock]
    #[arg(long, global = true, value_name = "PATH", env = "POSTERN_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; fits 100 columns
    Table,
    /// For programs
    Json,
    /// For files and `apply -f`
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a whole mesh working on this machine, from nothing, in one command
    Demo(DemoArgs),
    /// Find out what is wrong, in order, with one command to run for each problem
    Check(CheckArgs),
    /// Which sidecar holds which revision, what it rejected, when its certificate expires
    Status,
    /// Latency budgets: which are met, which are breached and where
    Budget(BudgetArgs),
    /// Rates, success, latency and denials between workloads, right now
    Top(TopArgs),
    /// Who talks to whom, with which identity
    Edges(EdgesArgs),
    /// Watch requests and connections of a workload as they end
    Tap(TapArgs),
    /// Store documents from files (all or none)
    Apply(ApplyArgs),
    /// List what is stored
    Get(GetArgs),
    /// Delete one document
    Delete(DeleteArgs),
    /// Which revisions there were, and who changed what
    History(HistoryArgs),
    /// Make the documents what they were at a revision (all or none)
    Rollback(RollbackArgs),
    /// Test, lint, compare and try out policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Explain decisions
    #[command(subcommand)]
    Authz(AuthzCommand),
    /// Mutual TLS of the mesh
    #[command(subcommand)]
    Mtls(MtlsCommand),
    /// One-time join tokens, with which a new sidecar proves its workload
    #[command(subcommand)]
    Token(TokenCommand),
    /// Devices: clients that are neither users nor services
    #[command(subcommand)]
    Device(DeviceCommand),
    /// The certificate authority: change of roots
    #[command(subcommand)]
    Ca(CaCommand),
    /// Believe certificates, identities or whole namespaces no longer, everywhere and at once
    #[command(subcommand)]
    Revoke(RevokeCommand),
    #[command(name = "demo-app", hide = true)]
    DemoApp(DemoAppArgs),
    #[command(name = "demo-launch", hide = true)]
    DemoLaunch(DemoLaunchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File with YAML documents, `-` for standard input; repeatable
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse if one of the documents was changed after this revision
    #[arg(long, value_name = "REV", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) if_revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Kind, any case, singular or plural; all kinds when omitted
    pub(crate) kind: Option<String>,
    /// Name; all when omitted
    pub(crate) name: Option<String>,
    /// Namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kind, any case
    pub(crate) kind: String,
    /// Name
    pub(crate) name: String,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: String,
    /// Refuse if it was changed after this revision
    #[arg(long, value_name = "REV", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) if_revision: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a registered workload; the secret is shown once
    Create {
        /// Workload, `namespace/name`
        #[arg(value_parser = workload_name)]
        workload: String,
        /// How long it can be used, e.g. 90s, 10m, 2h
        #[arg(long, default_value = "10m", value_parser = seconds)]
        ttl: u32,
        /// Write the secret to this new file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// List tokens (never their secrets)
    List,
    /// Make a token unusable
    Revoke {
        /// Id, as `token list` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Change the root certificate, one step at a time: prepare, activate, retire
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "prepare   makes the next root and has every sidecar trust it beside the present one\n\
                  activate  lets the next root sign, once every connected sidecar trusts it\n\
                  retire    ends trust in the root before, once no certificate in use leads to it\n\
                  Each step is safe to repeat after a crash; `status` says what the next one waits for."
)]
pub(crate) struct RotateArgs {
    /// Which step; the next one when omitted
    #[arg(value_enum, default_value_t = RotateStep::Next)]
    pub(crate) step: RotateStep,
    /// Even if somebody would be locked out, and with the steps before it
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RotateStep {
    /// Whichever is next
    Next,
    /// Where it stands
    Status,
    /// Trust the next root
    Prepare,
    /// Sign with it
    Activate,
    /// End trust in the one before
    Retire,
    /// Give the prepared root up
    Cancel,
}

/// What all ways to revoke have in common.
#[derive(Debug, Args)]
pub(crate) struct RevokeOptions {
    /// Why, for the log and `revoke list`
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// When it ends by itself, e.g. 2h, 7d; never when omitted
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub(crate) expires: Option<u32>,
    /// Name of the entry; made from what is revoked when omitted
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Wait until every connected sidecar enforces it, and say how long that took; exit 1 if one does not
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most, up to 60s
    #[arg(long, default_value = "30s", value_parser = seconds, requires = "wait")]
    pub(crate) timeout: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// One certificate
    Serial {
        /// Serial number, hexadecimal, as `openssl x509 -serial` prints it
        serial: String,
        /// Trust domain whose authority issued it; this mesh's when omitted
        #[arg(long)]
        trust_domain: Option<String>,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// Every certificate of one identity
    Id {
        /// SPIFFE ID
        id: String,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// Every identity under a path
    Prefix {
        /// e.g. spiffe://example.org/ns/shop: that ID and those below it
        prefix: String,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// Certificates that were issued before a moment; their workloads have to prove themselves anew
    IssuedBefore {
        /// RFC 3339, or `now`
        time: String,
        /// Only identities under this path, e.g. spiffe://example.org/ns/shop
        #[arg(long, value_name = "SPIFFE-ID")]
        prefix: Option<String>,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// Tokens of an issuer, by what they say; everything that is given must hold
    #[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["jti", "sub", "sid", "issued_before"])))]
    Token {
        /// Their issuer, as `iss` says it; for JWT-SVIDs without one, the trust domain
        #[arg(long, value_name = "ISSUER")]
        issuer: String,
        /// One token, by its `jti`
        #[arg(long)]
        jti: Option<String>,
        /// Those of one subject
        #[arg(long)]
        sub: Option<String>,
        /// Those of one session
        #[arg(long)]
        sid: Option<String>,
        /// Those issued before a moment: RFC 3339, or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<String>,
        #[command(flatten)]
        options: RevokeOptions,
    },
    /// List what is revoked, by whom, when and why
    List,
    /// Take one entry back
    Undo {
        /// Name, as `revoke list` shows it
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Also ask a sidecar's admin listener whether it is ready, e.g. 127.0.0.1:15000
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) sidecar: Vec<SocketAddr>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without options: starts the mesh, sends real traffic, prints what was tried, what was expected and what \
                        happened, and removes everything again. --hold keeps it running for you to play with."
)]
pub(crate) struct DemoArgs {
    /// Run the checks once (the default; says so explicitly)
    #[arg(long, conflicts_with = "hold")]
    pub(crate) once: bool,
    /// Start everything, print where it is, run until Ctrl-C
    #[arg(long)]
    pub(crate) hold: bool,
    /// Print JSON for programs (the same as -o json)
    #[arg(long)]
    pub(crate) json: bool,
    /// Give every workload its own network namespace, address and captured traffic (Linux; root or user namespaces)
    #[arg(long)]
    pub(crate) netns: bool,
    /// Serve a workload by a server of yours instead of the demo's app; repeatable
    #[arg(long = "app", value_name = "NAME=HOST:PORT", value_parser = app_override, requires = "hold")]
    pub(crate) apps: Vec<AppOverride>,
    /// Documents to apply on top of the demo's own; repeatable
    #[arg(long = "policy", value_name = "FILE", requires = "hold")]
    pub(crate) policies: Vec<PathBuf>,
    /// A further flag of the control API, e.g. `--control-api-flag=--allow-local-fetch`; repeatable
    #[arg(
        long = "control-api-flag",
        value_name = "FLAG",
        allow_hyphen_values = true,
        requires = "hold"
    )]
    pub(crate) control_api_flags: Vec<String>,
    /// A further flag of every sidecar, e.g. `--sidecar-flag=--subscribe=all`; repeatable
    #[arg(
        long = "sidecar-flag",
        value_name = "FLAG",
        allow_hyphen_values = true,
        requires = "hold"
    )]
    pub(crate) sidecar_flags: Vec<String>,
    /// Let every sidecar write an access log, `logs/NAME.access.jsonl` in the demo's directory
    #[arg(long, requires = "hold")]
    pub(crate) access_log: bool,
    /// How much the control API and the sidecars log: error, warn, info, debug or trace
    #[arg(long, requires = "hold", value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub(crate) log: Option<String>,
    /// Worker threads per sidecar
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: u16,
    /// Keep the directory with logs, certificates and state at the end
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `--app NAME=HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppOverride {
    pub(crate) workload: String,
    pub(crate) address: String,
}

/// The demo's own little applications (a hidden command: they must be able to live in a namespace of their own).
#[derive(Debug, Args)]
pub(crate) struct DemoAppArgs {
    /// Workload it plays
    #[arg(long)]
    pub(crate) role: String,
    /// HTTP/1.1 and h2c
    #[arg(long)]
    pub(crate) http: SocketAddr,
    /// gRPC health service
    #[arg(long)]
    pub(crate) grpc: Option<SocketAddr>,
    /// TCP echo
    #[arg(long)]
    pub(crate) echo: Option<SocketAddr>,
    /// TCP service that sends the first bytes
    #[arg(long)]
    pub(crate) banner: Option<SocketAddr>,
    /// Where `/call-payments` connects
    #[arg(long, requires = "payments_host")]
    pub(crate) payments: Option<SocketAddr>,
    /// `Host` of that request
    #[arg(long)]
    pub(crate) payments_host: Option<String>,
    /// Written when all listeners are open
    #[arg(long)]
    pub(crate) ready_file: PathBuf,
}

/// Starts one program of the demo so that it cannot outlive the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoLaunchArgs {
    /// Process that must stay alive
    #[arg(long)]
    pub(crate) parent: i32,
    /// Network namespace to enter first
    #[arg(long)]
    pub(crate) netns: Option<PathBuf>,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) program: Vec<std::ffi::OsString>,
}

fn workload_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected NAMESPACE/NAME, e.g. demo/orders".to_owned()),
    }
}

fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d, e.g. 10m".to_owned()),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .filter(|n| *n > 0)
        .ok_or_else(|| "expected a positive number with s, m, h or d, e.g. 10m".to_owned())
}

fn app_override(text: &str) -> Result<AppOverride, String> {
    let (workload, address) = text
        .split_once('=')
        .ok_or("expected NAME=HOST:PORT, e.g. orders=127.0.0.1:8080")?;
    if !crate::demo::WORKLOADS.contains(&workload) {
        return Err(format!(
            "no workload `{workload}` in the demo; there are {}",
            crate::demo::WORKLOADS.join(", ")
        ));
    }
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .filter(|port| *port != 0);
    if port.is_none() {
        return Err(format!("`{address}` is no HOST:PORT, e.g. 127.0.0.1:8080"));
    }
    Ok(AppOverride {
        workload: workload.to_owned(),
        address: address.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_units() {
        for (text, wanted) in [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("1d", Some(86_400)),
            ("7", Some(7)),
            ("0s", None),
            ("m", None),
            ("-1s", None),
            ("10 m", None),
            ("99999999d", None),
            ("1w", None),
        ] {
            assert_eq!(seconds(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn app_overrides_name_a_workload_and_an_address() {
        for (text, good) in [
            ("orders=127.0.0.1:8080", true),
            ("web=[::1]:80", true),
            ("payments=host.example:1", true),
            ("nobody=127.0.0.1:80", false),
            ("orders", false),
            ("orders=:80", false),
            ("orders=127.0.0.1", false),
            ("orders=127.0.0.1:0", false),
            ("orders=127.0.0.1:70000", false),
        ] {
            assert_eq!(app_override(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from([
            "meshctl", "get", "workload", "-n", "demo", "-o", "json", "--socket", "/s",
        ])
        .expect("parses");
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(
            cli.global.socket.as_deref(),
            Some(std::path::Path::new("/s"))
        );
    }

    #[test]
    fn a_socket_and_an_address_exclude_each_other() {
        assert!(
            Cli::try_parse_from([
                "meshctl",
                "status",
                "--socket",
                "/s",
                "--control-api",
                "h:1"
            ])
            .is_err()
        );
    }

    #[test]
    fn once_and_hold_exclude_each_other() {
        assert!(Cli::try_parse_from(["meshctl", "demo", "--once", "--hold"]).is_err());
    }
}
