//! Runs `wrk` and reads what it prints. A run with a single failed request is an error, not a number.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

/// What an arm is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The `Host` field.
    pub(crate) host: String,
}

/// What one run of `wrk` found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) requests: u64,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Loads a target from one thread.
pub(crate) async fn run(
    wrk: &Path,
    target: &Target,
    connections: u32,
    seconds: u32,
) -> anyhow::Result<Run> {
    run_with(wrk, target, connections, seconds, &[]).await
}

/// The same with more header fields, each as `Name: value`.
pub(crate) async fn run_with(
    wrk: &Path,
    target: &Target,
    connections: u32,
    seconds: u32,
    fields: &[&str],
) -> anyhow::Result<Run> {
    let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
    load(wrk, target, connections, seconds, &fields).await
}

/// The same with a script that makes the requests.
pub(crate) async fn run_script(
    wrk: &Path,
    target: &Target,
    connections: u32,
    seconds: u32,
    script: &Path,
) -> anyhow::Result<Run> {
    let script = script.to_str().context("a script's path is not UTF-8")?;
    load(wrk, target, connections, seconds, &["-s", script]).await
}

async fn load(
    wrk: &Path,
    target: &Target,
    connections: u32,
    seconds: u32,
    more: &[&str],
) -> anyhow::Result<Run> {
    let mut command = Command::new(wrk);
    command
        .arg("-t1")
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .arg("--latency")
        .args(["-H", &format!("Host: {}", target.host)])
        .args(more)
        .arg(format!("http://{}/", target.address))
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("wrk did not end within {limit:?}"))?
        .context("wrk cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("wrk failed ({}): {text}{errors}", output.status);
    }
    parse(&text)
}

/// Reads the text of a run.
fn parse(text: &str) -> anyhow::Result<Run> {
    for bad in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        if let Some(line) = text.lines().find(|l| l.trim_start().starts_with(bad)) {
            bail!("wrk saw failures: {}", line.trim());
        }
    }
    let requests = text
        .lines()
        .find_map(|l| l.trim().split_once(" requests in ")?.0.parse().ok())
        .with_context(|| format!("wrk's output has no count of requests:\n{text}"))?;
    let rps = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Requests/sec:")?.trim().parse().ok())
        .with_context(|| format!("wrk's output has no rate:\n{text}"))?;
    let percentile = |name: &str| {
        text.lines()
            .find_map(|l| microseconds(l.trim().strip_prefix(name)?.trim()))
            .with_context(|| format!("wrk's output has no {name} latency:\n{text}"))
    };
    let run = Run {
        requests,
        rps,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
    };
    if run.requests == 0 {
        bail!("wrk completed no request");
    }
    Ok(run)
}

/// A duration as wrk spells it, e.g. `83.00us`.
fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 5s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   651.10us  200.50us   9.02ms   90.99%
    Req/Sec    48.90k     1.20k   50.99k    72.00%
  Latency Distribution
     50%  612.00us
     75%  700.00us
     90%  820.00us
     99%    1.25ms
  243312 requests in 5.00s, 281.00MB read
Requests/sec:  48662.40
Transfer/sec:     56.20MB
";

    #[test]
    fn a_clean_run_is_read() {
        assert_eq!(
            parse(GOOD).unwrap(),
            Run {
                requests: 243_312,
                rps: 48_662.40,
                p50_us: 612.0,
                p99_us: 1250.0
            }
        );
    }

    #[test]
    fn a_run_with_failures_is_refused() {
        for line in [
            "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
            "  Non-2xx or 3xx responses: 1\n",
        ] {
            let text = GOOD.replace("Requests/sec", &format!("{line}Requests/sec"));
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(line.trim()), "{message}");
        }
    }

    #[test]
    fn a_run_without_numbers_is_refused() {
        for needed in ["requests in", "Requests/sec:", "50%", "     99%"] {
            assert!(parse(&GOOD.replace(needed, "")).is_err(), "{needed}");
        }
        assert!(parse(&GOOD.replace("243312", "0")).is_err());
    }

    #[test]
    fn every_unit_of_wrk_is_known() {
        for (text, us) in [
            ("8.00us", 8.0),
            ("1.50ms", 1500.0),
            ("2.00s", 2e6),
            ("1.00m", 60e6),
            ("1.00h", 3600e6),
        ] {
            assert_eq!(microseconds(text), Some(us), "{text}");
        }
        assert_eq!(microseconds("12"), None);
        assert_eq!(microseconds("12.0d"), None);
    }
}
