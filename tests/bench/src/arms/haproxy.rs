//! Two HAProxy processes with mutual TLS 1.3 between them, one thread each.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

use super::certificates::{self, AUTHORITY_FILE, CLIENT_FILE, SERVER_FILE, SERVER_NAME};
use super::nginx::App;
use super::{Arm, folder, free_ports};
use crate::args::ArmName;
use crate::kid::Kid;
use crate::probe;
use crate::wrk::Target;

/// What the two processes speak with each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Between {
    Http1,
    Http2,
}

impl Between {
    fn name(self) -> ArmName {
        match self {
            Self::Http1 => ArmName::HaproxyH1,
            Self::Http2 => ArmName::HaproxyH2,
        }
    }

    fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

pub(crate) async fn start(haproxy: &Path, between: Between, app: &App) -> anyhow::Result<Arm> {
    let folder = folder()?;
    certificates::write(folder.path())?;
    let [front, middle] = free_ports()?;
    let run = |name: &str, text: String| {
        let file = folder.path().join(format!("{name}.cfg"));
        std::fs::write(&file, text).context("HAProxy's configuration cannot be written")?;
        let mut command = Command::new(haproxy);
        // One process in the foreground, without a master.
        command.args(["-db", "-f"]).arg(&file).stdout(Stdio::null());
        Kid::start(name, command, folder.path())
    };
    let mut server = run(
        "haproxy-server",
        server_side(folder.path(), between, middle, &app.address),
    )?;
    let mut client = run(
        "haproxy-client",
        client_side(folder.path(), between, front, middle),
    )?;
    let target = Target {
        address: format!("127.0.0.1:{front}"),
        host: "orders".to_owned(),
    };
    probe::wait_for(&target, &app.body, &mut [&mut client, &mut server]).await?;
    Ok(Arm {
        name: between.name(),
        target,
        counted: vec![client.pid(), server.pid()],
        far: vec![server.pid()],
        kids: vec![client, server],
        _folder: Some(folder),
    })
}

const COMMON: &str = "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  no log
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
";

fn client_side(folder: &Path, between: Between, front: u16, middle: u16) -> String {
    let (folder, alpn) = (folder.display(), between.alpn());
    format!(
        "{COMMON}frontend in
  bind 127.0.0.1:{front}
  default_backend out
backend out
  server peer 127.0.0.1:{middle} ssl alpn {alpn} ssl-min-ver TLSv1.3 verify required verifyhost {SERVER_NAME} ca-file {folder}/{AUTHORITY_FILE} crt {folder}/{CLIENT_FILE}
"
    )
}

fn server_side(folder: &Path, between: Between, middle: u16, app: &str) -> String {
    let (folder, alpn) = (folder.display(), between.alpn());
    format!(
        "{COMMON}frontend in
  bind 127.0.0.1:{middle} ssl alpn {alpn} ssl-min-ver TLSv1.3 verify required ca-file {folder}/{AUTHORITY_FILE} crt {folder}/{SERVER_FILE}
  default_backend out
backend out
  server app {app}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_demand_certificates_and_tls_1_3() {
        for between in [Between::Http1, Between::Http2] {
            let folder = Path::new("/x");
            for text in [
                client_side(folder, between, 1, 2),
                server_side(folder, between, 2, "127.0.0.1:3"),
            ] {
                for needed in [
                    "verify required",
                    "ssl-min-ver TLSv1.3",
                    "nbthread 1",
                    &format!("alpn {} ", between.alpn()),
                ] {
                    assert!(text.contains(needed), "{needed}\n{text}");
                }
            }
        }
    }
}
