//! Two HAProxy processes with mutual TLS 1.3 between them, one thread each.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

use super::Pair;
use super::certificates::{
    self, AUTHORITY_FILE, CLIENT_FILE, ORGANIZATION, SERVER_FILE, SERVER_NAME,
};
use super::nginx::App;
use crate::kid::Kid;
use crate::load::callers;
use crate::ports;
use crate::token::Issuer;
use crate::wrk::Target;

/// The issuer's public key.
const KEY_FILE: &str = "issuer.pem";

/// What the two processes speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    Http1,
    Http2,
}

impl Between {
    fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// The key that tokens must be signed with, where the server side is to verify them. HAProxy remembers no verdict: it
/// verifies with every request.
pub(crate) struct Tokens<'a> {
    pub(crate) issuer: &'a Issuer,
    pub(crate) audience: &'a str,
}

pub(crate) async fn start(
    haproxy: &Path,
    between: Between,
    tokens: Option<&Tokens<'_>>,
    app: &App,
) -> anyhow::Result<Pair> {
    let folder = ports::folder()?;
    certificates::write(folder.path())?;
    if let Some(tokens) = tokens {
        std::fs::write(folder.path().join(KEY_FILE), tokens.issuer.public_pem())?;
    }
    let [front, middle] = ports::free()?;
    let run = |name: &str, text: String| {
        let file = folder.path().join(format!("{name}.cfg"));
        std::fs::write(&file, text).context("HAProxy's configuration cannot be written")?;
        let mut command = Command::new(haproxy);
        // One process in the foreground, without a master.
        command.args(["-db", "-f"]).arg(&file).stdout(Stdio::null());
        Kid::start(name, command, folder.path())
    };
    let server = run(
        "haproxy-server",
        server_side(folder.path(), between, middle, &app.address, tokens),
    )?;
    let client = run(
        "haproxy-client",
        client_side(folder.path(), between, front, middle),
    )?;
    let tls = callers::Server {
        address: ([127, 0, 0, 1], middle).into(),
        pid: server.pid(),
        authority: certificates::authority(folder.path())?,
    };
    let mut pair = Pair {
        target: Target {
            address: format!("127.0.0.1:{front}"),
            host: "orders".to_owned(),
        },
        // Its backends speak HTTP/1.1 to the application.
        grpc: None,
        // Without h2 there is no preface to wait for.
        tls: (between == Between::Http2).then_some(tls),
        client: client.pid(),
        server: server.pid(),
        kids: vec![client, server],
        _folder: Some(folder),
    };
    if tokens.is_none() {
        pair.answers(&app.body).await?;
    }
    Ok(pair)
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

fn server_side(
    folder: &Path,
    between: Between,
    middle: u16,
    app: &str,
    tokens: Option<&Tokens<'_>>,
) -> String {
    let checks = tokens.map_or(String::new(), |t| token_checks(folder, t));
    let (folder, alpn) = (folder.display(), between.alpn());
    format!(
        "{COMMON}frontend in
  bind 127.0.0.1:{middle} ssl alpn {alpn} ssl-min-ver TLSv1.3 verify required ca-file {folder}/{AUTHORITY_FILE} crt {folder}/{SERVER_FILE}
  http-request deny deny_status 403 unless {{ ssl_c_used }} {{ ssl_c_verify 0 }} {{ ssl_c_s_dn(O) -m str {ORGANIZATION} }}
{checks}  http-request set-header x-client-dn %{{+Q}}[ssl_c_s_dn]
  default_backend out
backend out
  server app {app}
"
    )
}

/// 2.6 has no look at URI names, so the organization stands in for the SPIFFE ID; the claims are those of the other arms.
fn token_checks(folder: &Path, tokens: &Tokens<'_>) -> String {
    let key = folder.join(KEY_FILE);
    let (key, issuer, audience) = (key.display(), &tokens.issuer.name, tokens.audience);
    format!(
        "  http-request set-var(txn.tok) http_auth_bearer
  http-request deny deny_status 401 unless {{ var(txn.tok),jwt_header_query('$.alg') -m str ES256 }}
  http-request deny deny_status 401 unless {{ var(txn.tok),jwt_verify(\"ES256\",\"{key}\") -m int 1 }}
  http-request set-var(txn.exp) var(txn.tok),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
  http-request deny deny_status 403 unless {{ var(txn.tok),jwt_payload_query('$.iss') -m str {issuer} }} {{ var(txn.tok),jwt_payload_query('$.aud') -m str {audience} }}
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
                server_side(folder, between, 2, "127.0.0.1:3", None),
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
