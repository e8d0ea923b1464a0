//! What the numbers were measured on.

use serde::Serialize;

use crate::programs::{self, Programs};

/// The machine and the versions of the programs beside ours.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Machine {
    cpu_model: String,
    cores: usize,
    kernel: String,
    nginx: Option<String>,
    haproxy: Option<String>,
    wrk: Option<String>,
    envoy: Option<String>,
}

impl Machine {
    /// Looks, before anything is pinned.
    pub(crate) async fn look(programs: &Programs) -> Self {
        Self {
            cpu_model: read("/proc/cpuinfo")
                .lines()
                .find_map(cpu_model)
                .unwrap_or("unknown")
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            nginx: programs::version(programs.nginx.as_deref()).await,
            haproxy: programs::version(programs.haproxy.as_deref()).await,
            wrk: programs::version(programs.wrk.as_deref()).await,
            envoy: programs::version(programs.envoy.as_deref()).await,
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn cpu_model(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':')?;
    (name.trim() == "model name").then_some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_model_is_found() {
        assert_eq!(
            cpu_model("model name\t: Some CPU @ 2 GHz"),
            Some("Some CPU @ 2 GHz")
        );
        assert_eq!(cpu_model("model\t\t: 6"), None);
    }
}
