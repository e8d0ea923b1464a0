//! The application, one nginx process; and two more as a pair of proxies.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tempfile::TempDir;
use tokio::process::Command;

use super::Pair;
use super::certificates::{self, AUTHORITY_FILE, CLIENT_FILE, SERVER_FILE};
use crate::kid::Kid;
use crate::ports;
use crate::probe;
use crate::wrk::Target;

/// Bytes of the small body.
const SIZE: usize = 1024;
/// Path and bytes of the large one.
pub(crate) const BULK: &str = "/bulk";
pub(crate) const BULK_SIZE: u64 = 64 << 20;

/// The running application.
pub(crate) struct App {
    pub(crate) kid: Kid,
    pub(crate) address: String,
    /// Where it speaks HTTP/2 with prior knowledge.
    pub(crate) grpc: String,
    pub(crate) body: String,
    _folder: TempDir,
}

impl App {
    pub(crate) async fn start(nginx: &Path) -> anyhow::Result<Self> {
        let folder = ports::folder()?;
        let [port, grpc] = ports::free()?;
        let body = body();
        std::fs::File::create(folder.path().join("bulk"))
            .and_then(|file| file.set_len(BULK_SIZE))
            .context("the large body cannot be made")?;
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration(folder.path(), port, grpc, &body))
            .context("nginx's configuration cannot be written")?;
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdout(Stdio::null());
        let mut app = Self {
            kid: Kid::start("nginx", command, folder.path())?,
            address: format!("127.0.0.1:{port}"),
            grpc: format!("127.0.0.1:{grpc}"),
            body,
            _folder: folder,
        };
        probe::wait_for(&app.target(), &app.body, &mut [&mut app.kid]).await?;
        Ok(app)
    }

    /// The application without anything before it.
    pub(crate) fn target(&self) -> Target {
        Target {
            address: self.address.clone(),
            host: "orders".to_owned(),
        }
    }
}

fn body() -> String {
    "orders of the benchmark\n"
        .chars()
        .cycle()
        .take(SIZE)
        .collect()
}

fn configuration(folder: &Path, port: u16, grpc: u16, body: &str) -> String {
    let root = folder.display();
    server(
        folder,
        "app",
        &format!(
            "server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 \"{body}\"; }}
    location = {BULK} {{ root {root}; sendfile on; }}
  }}
  server {{
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    http2_max_concurrent_streams 1024;
    location / {{ default_type application/grpc; return 200 \"sixteen bytes...\"; }}
  }}"
        ),
    )
}

/// One process without a master, so that its number is the one that was started.
fn server(folder: &Path, name: &str, servers: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/{name}.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  tcp_nodelay on;
  client_body_temp_path {folder}/{name}-client_body;
  proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-fastcgi;
  uwsgi_temp_path {folder}/{name}-uwsgi;
  scgi_temp_path {folder}/{name}-scgi;
  {servers}
}}
"
    )
}

/// Two nginx as proxies, HTTP/1.1 over mutual TLS 1.3 between them: it can neither match a SPIFFE ID, nor verify tokens,
/// nor speak HTTP/2 upstream.
pub(crate) async fn pair(nginx: &Path, app: &App) -> anyhow::Result<Pair> {
    let folder = ports::folder()?;
    certificates::write(folder.path())?;
    let [front, middle] = ports::free()?;
    let files = folder.path().display();
    let upstream = |address: &str| {
        format!(
            "upstream next {{ server {address}; keepalive 512; keepalive_requests 1000000000; }}"
        )
    };
    let proxy =
        "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;";
    let client = format!(
        "{}
  server {{
    listen 127.0.0.1:{front} backlog=4096;
    location / {{ proxy_pass https://next; {proxy}
      proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;
      proxy_ssl_certificate {files}/{CLIENT_FILE}; proxy_ssl_certificate_key {files}/{CLIENT_FILE};
      proxy_ssl_trusted_certificate {files}/{AUTHORITY_FILE}; proxy_ssl_verify off; }}
  }}",
        upstream(&format!("127.0.0.1:{middle}"))
    );
    let server_side = format!(
        "{}
  server {{
    listen 127.0.0.1:{middle} ssl backlog=4096;
    ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; ssl_session_tickets off; ssl_session_cache off;
    ssl_certificate {files}/{SERVER_FILE}; ssl_certificate_key {files}/{SERVER_FILE};
    ssl_client_certificate {files}/{AUTHORITY_FILE}; ssl_verify_client on;
    location / {{ proxy_pass http://next; {proxy} proxy_set_header x-client-dn $ssl_client_s_dn; }}
  }}",
        upstream(&app.address)
    );
    let run = |name: &str, servers: &str| {
        let file = folder.path().join(format!("{name}.conf"));
        std::fs::write(&file, server(folder.path(), name, servers))
            .context("nginx's configuration cannot be written")?;
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdout(Stdio::null());
        Kid::start(name, command, folder.path())
    };
    let server = run("nginx-server", &server_side)?;
    let client = run("nginx-client", &client)?;
    let mut pair = Pair {
        target: Target {
            address: format!("127.0.0.1:{front}"),
            host: "orders".to_owned(),
        },
        grpc: None,
        tls: None,
        client: client.pid(),
        server: server.pid(),
        kids: vec![client, server],
        _folder: Some(folder),
    };
    pair.answers(&app.body).await?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_needs_no_quoting() {
        let body = body();
        assert_eq!(body.len(), SIZE);
        assert!(!body.contains(['"', '$', '\\']));
    }
}
