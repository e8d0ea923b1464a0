//! Processor time of processes, in nanoseconds, from `/proc/PID/task/*/schedstat`.

use std::collections::HashMap;
use std::io::ErrorKind;

use anyhow::Context;

/// Nanoseconds on a processor by process and thread.
#[derive(Debug, Default)]
pub(crate) struct Sample(HashMap<(u32, u32), u64>);

/// What happened between two samples.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) nanoseconds: u64,
    /// Threads of the first sample that had ended by the second: what they did in between is not counted.
    pub(crate) threads_ended: usize,
}

impl Sample {
    /// Reads the threads of some processes, all of which must be there.
    pub(crate) fn take(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sample = HashMap::new();
        for &pid in pids {
            for tid in threads(pid)? {
                let path = format!("/proc/{pid}/task/{tid}/schedstat");
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        let spent = on_processor(&text)
                            .with_context(|| format!("{path} holds {text:?}"))?;
                        sample.insert((pid, tid), spent);
                    }
                    // It ended since the folder was read (ESRCH has no kind of its own).
                    Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(3) => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
                }
            }
        }
        Ok(Self(sample))
    }

    /// What was spent since an earlier sample; a thread that is new since then counts in full.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let nanoseconds = self
            .0
            .iter()
            .map(|(thread, now)| now.saturating_sub(earlier.0.get(thread).copied().unwrap_or(0)))
            .sum();
        let threads_ended = earlier.0.keys().filter(|t| !self.0.contains_key(t)).count();
        Spent {
            nanoseconds,
            threads_ended,
        }
    }
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> anyhow::Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("process {pid} is gone (no {folder})"))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// The first field of `schedstat`.
fn on_processor(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_counts() {
        assert_eq!(on_processor("172518309 2045021 311\n"), Some(172_518_309));
        assert_eq!(on_processor(""), None);
        assert_eq!(on_processor("x 1 2"), None);
    }

    #[test]
    fn new_threads_count_in_full_and_ended_ones_are_told() {
        let before = Sample(HashMap::from([((1, 1), 100), ((1, 2), 50)]));
        let after = Sample(HashMap::from([((1, 1), 160), ((1, 3), 7), ((2, 2), 3)]));
        assert_eq!(
            after.since(&before),
            Spent {
                nanoseconds: 70,
                threads_ended: 1
            }
        );
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let pid = [std::process::id()];
        let before = Sample::take(&pid).unwrap();
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 50 {
            std::hint::spin_loop();
        }
        assert!(Sample::take(&pid).unwrap().since(&before).nanoseconds > 1_000_000);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Sample::take(&[u32::MAX]).is_err());
    }
}
