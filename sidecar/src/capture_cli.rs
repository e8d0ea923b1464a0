//! `sidecar capture`: programs, removes, shows and checks the rules that redirect an application's traffic.
//!
//! Owns the arguments and exit codes (0 done, 1 refused or nothing programmed); the rules themselves are `mesh-capture`'s.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mesh_capture::{CaptureConfig, Cidr, Ruleset};

/// Arguments of `sidecar capture`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CaptureArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: CaptureAction,
}

/// What `sidecar capture` does.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CaptureAction {
    /// Program the rules, replacing those of an earlier run.
    Apply(RuleArgs),
    /// Remove the rules; nothing happens when there are none.
    Remove(RuleArgs),
    /// Print the rules that `apply` would program.
    Show(RuleArgs),
    /// Say whether rules are programmed; exit code 1 when not.
    Check(RuleArgs),
}

/// What is captured and what is let past.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RuleArgs {
    /// User that the sidecar runs as: its own traffic is not captured.
    #[arg(long, env = "POSTERN_PROXY_UID", value_name = "UID")]
    pub proxy_uid: Option<u32>,
    /// Mark on the sidecar's own sockets: traffic that carries it is not captured.
    #[arg(long, env = "POSTERN_PROXY_MARK", value_name = "MARK", default_value = "0x539", value_parser = mark)]
    pub proxy_mark: u32,
    /// Port of the sidecar that takes outgoing connections.
    #[arg(long, env = "POSTERN_OUTBOUND_PORT", value_name = "PORT", default_value = "15001", value_parser = port)]
    pub outbound_port: u16,
    /// Port of the sidecar that takes incoming connections.
    #[arg(long, env = "POSTERN_INBOUND_PORT", value_name = "PORT", default_value = "15006", value_parser = port)]
    pub inbound_port: u16,
    /// Incoming port that is not captured; may be given several times.
    #[arg(long = "exclude-inbound-port", env = "POSTERN_EXCLUDE_INBOUND_PORT", value_name = "PORT", value_delimiter = ',', value_parser = port)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Outgoing port that is not captured; may be given several times.
    #[arg(long = "exclude-outbound-port", env = "POSTERN_EXCLUDE_OUTBOUND_PORT", value_name = "PORT", value_delimiter = ',', value_parser = port)]
    pub exclude_outbound_ports: Vec<u16>,
    /// Destination network that is not captured; may be given several times.
    #[arg(
        long = "exclude-cidr",
        env = "POSTERN_EXCLUDE_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub exclude_cidrs: Vec<Cidr>,
    /// User whose traffic is not captured; may be given several times.
    #[arg(
        long = "exclude-uid",
        env = "POSTERN_EXCLUDE_UID",
        value_name = "UID",
        value_delimiter = ','
    )]
    pub exclude_uids: Vec<u32>,
    /// Print the rules instead of programming them.
    #[arg(long)]
    pub dry_run: bool,
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("not a port (1..65535)".into()),
    }
}

/// A mark in hexadecimal with `0x`, or decimal. Zero is what unmarked sockets carry: it would let everything past.
fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(mark @ 1..) => Ok(mark),
        _ => Err("not a mark (1..0xffffffff)".into()),
    }
}

impl RuleArgs {
    fn ruleset(&self) -> Result<Ruleset, String> {
        let config = CaptureConfig {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            proxy_uid: self.proxy_uid,
            proxy_mark: Some(self.proxy_mark),
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            exclude_cidrs: self.exclude_cidrs.clone(),
            exclude_uids: self.exclude_uids.clone(),
            ..CaptureConfig::default()
        };
        Ruleset::new(&config).map_err(|e| e.to_string())
    }
}

/// Runs one action.
pub fn run(args: &CaptureArgs) -> ExitCode {
    match perform(&args.action) {
        Ok(text) => {
            // Whoever closed the pipe has read what they wanted.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "sidecar capture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(action: &CaptureAction) -> Result<String, String> {
    let kernel = |error: mesh_capture::CaptureError| error.to_string();
    match action {
        CaptureAction::Show(rules) => Ok(rules.ruleset()?.to_string()),
        CaptureAction::Apply(rules) => {
            let ruleset = rules.ruleset()?;
            if rules.dry_run {
                return Ok(ruleset.to_string());
            }
            mesh_capture::apply(&ruleset).map_err(kernel)?;
            Ok("capture rules are in place\n".into())
        }
        CaptureAction::Remove(rules) if rules.dry_run => Ok("delete table inet postern\n".into()),
        CaptureAction::Remove(_) => Ok(if mesh_capture::remove().map_err(kernel)? {
            "capture rules removed\n".into()
        } else {
            "there were no capture rules\n".into()
        }),
        CaptureAction::Check(rules) => {
            match mesh_capture::check(&rules.ruleset()?).map_err(kernel)? {
                Some(installed) if installed.matches => Ok(format!(
                    "capture rules are in place and as they should be ({} outbound and {} inbound connections so far)\n",
                    installed.outbound_connections, installed.inbound_connections
                )),
                Some(installed) => Err(format!(
                    "capture rules differ from what they should be:\n  {}\nrun `sidecar capture apply`",
                    installed.missing.join("\n  ")
                )),
                None => Err("there are no capture rules here; run `sidecar capture apply`".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        capture: CaptureArgs,
    }

    fn parse(line: &str) -> Result<CaptureAction, String> {
        let words = std::iter::once("capture").chain(line.split_whitespace());
        let parsed = Program::try_parse_from(words).map_err(|e| e.to_string())?;
        Ok(parsed.capture.action)
    }

    #[test]
    fn the_defaults_are_the_ports_and_mark_that_the_sidecar_uses() {
        let Ok(CaptureAction::Apply(rules)) = parse("apply") else {
            panic!("apply without flags")
        };
        assert_eq!(
            (rules.outbound_port, rules.inbound_port, rules.proxy_mark),
            (15001, 15006, 0x539)
        );
        assert!(rules.proxy_uid.is_none() && !rules.dry_run && rules.exclude_cidrs.is_empty());
    }

    #[test]
    fn every_exclusion_may_be_given_several_times() {
        let line = "apply --proxy-uid 1337 --proxy-mark 7 --exclude-inbound-port 22 --exclude-inbound-port 23 \
                    --exclude-outbound-port 53 --exclude-cidr 10.0.0.0/8 --exclude-cidr fd00::/8 --exclude-uid 0 --dry-run";
        let Ok(CaptureAction::Apply(rules)) = parse(line) else {
            panic!("all flags")
        };
        assert_eq!(rules.exclude_inbound_ports, [22, 23]);
        assert_eq!(rules.exclude_outbound_ports, [53]);
        assert_eq!(rules.exclude_cidrs.len(), 2);
        assert_eq!(rules.exclude_uids, [0]);
        assert!(rules.dry_run && rules.proxy_mark == 7 && rules.proxy_uid == Some(1337));
    }

    #[test]
    fn bad_values_are_refused_with_what_would_do() {
        for (line, part) in [
            ("apply --proxy-mark 0", "not a mark"),
            ("apply --proxy-mark 0x100000000", "not a mark"),
            ("apply --outbound-port 0", "not a port"),
            ("apply --outbound-port 65536", "not a port"),
            ("apply --exclude-cidr 10.0.0.0/33", "10.0.0.0/33"),
            ("apply --exclude-cidr ten", "ten"),
            ("apply --exclude-cidr 10.0.0.1/8", "10.0.0.1/8"),
            ("apply --exclude-cidr fd00::1/8", "fd00::1/8"),
            ("apply --exclude-uid root", "invalid digit"),
            ("capture", "unrecognized subcommand"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
