//! What the system says of this process, read when somebody asks: processor time, memory, descriptors, and how often its
//! cgroup was throttled, which no metric of our own shows and every latency has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::exposition::Sample;
use super::registry::Kind;

const CGROUPS: &str = "/sys/fs/cgroup";

/// When this process was first asked, which is at its start.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);
/// Where the kernel counts throttling. A process stays in its cgroup.
static CPU_STAT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    candidates(&cgroups).into_iter().find(|file| file.is_file())
});

/// Notes the start. Call it at the start.
pub fn started() {
    LazyLock::force(&STARTED);
}

/// Names and help are Prometheus' conventions for what every process has.
pub fn samples() -> Vec<Sample> {
    let mut samples = Vec::with_capacity(8);
    let mut tell = |name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            samples.push(Sample::new(name, kind, help, value));
        }
    };
    let started = STARTED.duration_since(UNIX_EPOCH).ok();
    tell(
        "process_start_time_seconds",
        Kind::Gauge,
        "Start of the process, Unix seconds.",
        started.map(|d| d.as_secs_f64()),
    );
    tell(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Processor time of the process.",
        cpu_seconds(),
    );
    tell(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory of the process.",
        resident_bytes(),
    );
    #[allow(clippy::cast_precision_loss)]
    let descriptors = fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64);
    tell(
        "process_open_fds",
        Kind::Gauge,
        "Open file descriptors.",
        descriptors,
    );
    let stat = CPU_STAT.as_deref().and_then(|f| fs::read_to_string(f).ok());
    if let Some(throttling) = stat.as_deref().map(Throttling::parse) {
        tell(
            "postern_cpu_periods_total",
            Kind::Counter,
            "Enforcement periods of the cgroup's processor quota.",
            throttling.periods,
        );
        tell(
            "postern_cpu_throttled_periods_total",
            Kind::Counter,
            "Enforcement periods in which the cgroup was throttled.",
            throttling.throttled,
        );
        tell(
            "postern_cpu_throttled_seconds_total",
            Kind::Counter,
            "Time for which the cgroup was throttled.",
            throttling.seconds,
        );
    }
    samples
}

fn cpu_seconds() -> Option<f64> {
    // One line per thread: nanoseconds on a processor first.
    let mut nanos = 0u64;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread may have ended since.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let spent = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        nanos += spent.unwrap_or(0);
    }
    #[allow(clippy::cast_precision_loss)]
    Some(nanos as f64 / 1e9)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Where `cpu.stat` may be, by `/proc/self/cgroup` (cgroups(7)): version 2 has one hierarchy with an empty list of
/// controllers, version 1 one per list. In a container the path may not be what is mounted.
fn candidates(cgroups: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        if !controllers.is_empty() && !controllers.split(',').any(|c| c == "cpu") {
            continue;
        }
        let root = Path::new(CGROUPS).join(controllers);
        let own = root.join(path.trim_start_matches('/'));
        found.extend([own.join("cpu.stat"), root.join("cpu.stat")]);
    }
    found
}

/// What `cpu.stat` says; what it does not say is `None`: without a quota there is nothing to throttle.
#[derive(Debug, Default, PartialEq)]
struct Throttling {
    periods: Option<f64>,
    throttled: Option<f64>,
    seconds: Option<f64>,
}

impl Throttling {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for (name, value) in text.lines().filter_map(|l| l.split_once(' ')) {
            let value: Option<f64> = value.trim().parse().ok();
            match name {
                "nr_periods" => found.periods = value,
                "nr_throttled" => found.throttled = value,
                // Version 2 counts microseconds, version 1 nanoseconds.
                "throttled_usec" => found.seconds = value.map(|v| v / 1e6),
                "throttled_time" => found.seconds = value.map(|v| v / 1e9),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let first = "nr_periods 7\nnr_throttled 2\nthrottled_time 1500000000\n";
        let second = "usage_usec 9\nnr_periods 7\nnr_throttled 2\nthrottled_usec 1500000\n";
        let expected = Throttling {
            periods: Some(7.0),
            throttled: Some(2.0),
            seconds: Some(1.5),
        };
        assert_eq!(Throttling::parse(first), expected);
        assert_eq!(Throttling::parse(second), expected);
        assert_eq!(Throttling::parse("usage_usec 9\n"), Throttling::default());
    }

    #[test]
    fn the_file_is_looked_for_where_the_process_is_and_at_the_root() {
        let texts = |cgroups| -> Vec<String> {
            let files = candidates(cgroups).into_iter();
            files.map(|f| f.display().to_string()).collect()
        };
        assert_eq!(
            texts("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/cpu.stat", "/sys/fs/cgroup/cpu.stat"]
        );
        assert_eq!(
            texts("3:cpuset:/x\n2:cpu,cpuacct:/x\n"),
            [
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.stat",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.stat"
            ]
        );
    }

    #[test]
    fn this_process_is_seen() {
        started();
        let samples = samples();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let sample = samples.iter().find(|s| s.name == name);
            assert!(sample.is_some_and(|s| s.value > 0.0), "{name}: {samples:?}");
        }
    }
}
