//! Resident memory of a process, from `/proc/PID/status`.

use anyhow::Context;

/// Bytes that a process has in memory, shared files included.
pub(crate) fn rss(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kilobytes(&text, "VmRSS:")
        .map(|kb| kb * 1024)
        .with_context(|| format!("{path} has no VmRSS"))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_and_this_process_has_memory() {
        let text = "VmPeak:\t 10 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(kilobytes(text, "VmRSS:"), Some(1234));
        assert_eq!(kilobytes("", "VmRSS:"), None);
        assert!(rss(std::process::id()).unwrap() > 1 << 20);
    }
}
