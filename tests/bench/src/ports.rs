//! Ports and folders that nobody else uses.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

/// Ports that one process looks at before it looks at those of others.
const STRETCH: u16 = 40;
const STRETCHES: u32 = 250;
/// The first of all stretches. They end below 32768, where Linux takes the ports that it hands out for port 0.
const FIRST: u16 = 22_000;

/// Ports given out before. A program takes its time to listen, and two that share a port by `SO_REUSEPORT` share its
/// connections without a word.
static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// Some ports that are free now and were not given out before. Nobody who asks for port 0 is handed one of them between its
/// choice and its use.
pub(crate) fn free<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    ports.copy_from_slice(&several(N)?);
    Ok(ports)
}

/// As many as `count` of them.
pub(crate) fn several(count: usize) -> anyhow::Result<Vec<u16>> {
    let stretch = u16::try_from(std::process::id() % STRETCHES).unwrap_or_default();
    let mut candidates = (FIRST + stretch * STRETCH..32_768).chain(FIRST..32_768);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let free =
            |p: &u16| !given.contains(p) && TcpListener::bind((Ipv4Addr::LOCALHOST, *p)).is_ok();
        let port = candidates
            .find(free)
            .context("there is no free port on 127.0.0.1")?;
        given.push(port);
        found.push(port);
    }
    Ok(found)
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
        // Nobody listens on the first ten when the others are asked for.
        let ports = [free::<10>().unwrap(), free().unwrap()].concat();
        let mut unique = ports.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ports.len());
        assert!(ports.iter().all(|p| (FIRST..32_768).contains(p)));
    }
}
