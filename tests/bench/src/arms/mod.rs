//! What is measured: one module per kind of process, and [`Arm`], which is all that measuring needs to know of it.

pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod postern;

mod certificates;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

use crate::args::ArmName;
use crate::kid::Kid;
use crate::wrk::Target;

/// Something that answers, with the processes between its client and the application.
pub(crate) struct Arm {
    pub(crate) name: ArmName,
    pub(crate) target: Target,
    /// Processes whose time is counted, client side first.
    pub(crate) counted: Vec<u32>,
    /// Those of them on the server side.
    pub(crate) far: Vec<u32>,
    /// What keeps the arm running.
    pub(crate) kids: Vec<Kid>,
    /// Files of the kids; after them, so that it is removed when they have ended.
    pub(crate) _folder: Option<tempfile::TempDir>,
}

/// Some ports that are free now; all held until the last is found, so that they differ.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .context("there is no free port on 127.0.0.1")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("mesh-bench-")
        .tempdir()
        .context("no temporary folder can be made")
}
