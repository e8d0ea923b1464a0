//! The application: one nginx process that answers from memory.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Arm, folder, free_ports};
use crate::args::ArmName;
use crate::kid::Kid;
use crate::probe;
use crate::wrk::Target;

/// Bytes of the body.
const SIZE: usize = 1024;

/// The running application.
pub(crate) struct App {
    pub(crate) kid: Kid,
    pub(crate) address: String,
    pub(crate) body: String,
    _folder: TempDir,
}

impl App {
    pub(crate) async fn start(nginx: &Path) -> anyhow::Result<Self> {
        let folder = folder()?;
        let [port] = free_ports()?;
        let body = body();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration(folder.path(), port, &body))
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
            body,
            _folder: folder,
        };
        probe::wait_for(&app.target(), &app.body, &mut [&mut app.kid]).await?;
        Ok(app)
    }

    fn target(&self) -> Target {
        Target {
            address: self.address.clone(),
            host: "orders".to_owned(),
        }
    }

    /// The application without anything before it.
    pub(crate) fn direct(&self) -> Arm {
        Arm {
            name: ArmName::Direct,
            target: self.target(),
            counted: Vec::new(),
            far: Vec::new(),
            kids: Vec::new(),
            _folder: None,
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

/// One process without a master, so that its number is the one that was started.
fn configuration(folder: &Path, port: u16, body: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  tcp_nodelay on;
  client_body_temp_path {folder}/client_body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 \"{body}\"; }}
  }}
}}
"
    )
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
