//! A program that runs for as long as its [`Kid`] lives.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdout, Command};

/// Time between the request to end and the order. The demo ends a mesh of its own in it.
const GRACE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(10);
/// Lines of a log that a message quotes.
const QUOTED: usize = 8;

/// A running program, asked to end and waited for when dropped.
pub(crate) struct Kid {
    name: String,
    pid: u32,
    child: Child,
    log: PathBuf,
}

impl Kid {
    /// Starts a program; its standard error goes to a log in `folder`.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        // A process group of its own: Ctrl-C in a terminal is for us, who end it in order.
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let pid = child
            .id()
            .with_context(|| format!("{name} has no process id"))?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            child,
            log,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its standard output, when it was started with a pipe there. Once.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails when the program has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); {}", self.name, self.last_words()),
        }
    }

    /// Asks it to end and does not wait: of many, all can end at the same time before each is dropped.
    pub(crate) fn ask_to_end(&mut self) {
        // Only a process that is not reaped yet may be signalled: its number is still its own.
        if !self.ended_within(Duration::ZERO)
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends it without asking.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.start_kill();
        self.ended_within(GRACE);
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return "it said nothing".to_owned();
        }
        let from = lines.len().saturating_sub(QUOTED);
        format!("it said:\n{}", lines[from..].join("\n"))
    }

    /// Whether it has ended, and been reaped, within some time.
    fn ended_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(TICK),
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        self.ask_to_end();
        if !self.ended_within(GRACE) {
            let _ = self.child.start_kill();
            self.ended_within(GRACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Kid {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Kid::start("sh", command, folder).unwrap()
    }

    #[tokio::test]
    async fn dropping_a_kid_ends_and_reaps_it() {
        let folder = tempfile::tempdir().unwrap();
        let kid = shell("exec sleep 1000", folder.path());
        let proc = PathBuf::from(format!("/proc/{}", kid.pid()));
        assert!(proc.exists());
        drop(kid);
        assert!(!proc.exists());
    }

    #[tokio::test]
    async fn a_kid_that_ended_is_noticed_and_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut kid = shell("echo no such port >&2; exit 3", folder.path());
        assert!(kid.ended_within(GRACE));
        let message = kid.check().unwrap_err().to_string();
        assert!(message.contains("no such port"), "{message}");
    }
}
