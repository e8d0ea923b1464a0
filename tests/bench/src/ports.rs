//! Ports and folders that nobody else uses.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;

/// Ports that one process looks at before it looks at those of others.
const STRETCH: u16 = 40;
const STRETCHES: u32 = 250;
/// The first of all stretches. They end below 32768, where Linux takes the ports that it hands out for port 0.
const FIRST: u16 = 22_000;

/// Some ports that are free now; all held until the last is found, so that they differ. Nobody who asks for port 0 is
/// handed one of them between its choice and its use.
pub(crate) fn free<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    ports.copy_from_slice(&several(N)?);
    Ok(ports)
}

/// As many as `count` of them.
pub(crate) fn several(count: usize) -> anyhow::Result<Vec<u16>> {
    let stretch = u16::try_from(std::process::id() % STRETCHES).unwrap_or_default();
    let mut candidates = (FIRST + stretch * STRETCH..32_768).chain(FIRST..32_768);
    let mut held = Vec::new();
    for _ in 0..count {
        let found = candidates
            .find_map(|p| Some((p, TcpListener::bind((Ipv4Addr::LOCALHOST, p)).ok()?)))
            .context("there is no free port on 127.0.0.1")?;
        held.push(found);
    }
    Ok(held.iter().map(|(port, _)| *port).collect())
}

/// A folder that goes away with its owner.
pub(crate) fn folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("mesh-bench-")
        .tempdir()
        .context("no temporary folder can be made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_below_those_that_are_handed_out() {
        let ports: [u16; 20] = free().unwrap();
        let mut unique = ports.to_vec();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ports.len());
        assert!(ports.iter().all(|p| (FIRST..32_768).contains(p)));
    }
}
