//! The child processes of one demo and the directories they live in.
//!
//! Owns: every child is in a process group of its own (so that Ctrl-C reaches the demo only, which ends the children in
//! order), writes to a log of its own, and is gone when [`Stage::tear_down`] returns.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::netns;
use super::place::Place;
use super::scratch::Scratch;
use crate::failure::Failure;
use crate::progress;

/// How long a child may take to get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a ready file is looked for.
const READY_INTERVAL: Duration = Duration::from_millis(10);
/// How long children may take to end when asked.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of a child's log that an error shows.
const LAST_LINES: usize = 15;

/// Processes and directories.
pub(super) struct Stage {
    pub(super) scratch: Scratch,
    actors: Vec<Actor>,
}

/// One child process.
pub(super) struct Actor {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Child,
}

/// A program, its arguments and where it runs.
pub(super) struct Part<'a> {
    pub(super) name: String,
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<OsString>,
    pub(super) place: &'a Place,
}

impl Stage {
    /// An empty stage.
    pub(super) fn new(keep: bool) -> Result<Self, Failure> {
        let scratch = Scratch::new(keep)?;
        for folder in ["logs", "ready", "commands"] {
            scratch.make(folder)?;
        }
        Ok(Self {
            scratch,
            actors: Vec::new(),
        })
    }

    /// The file in which a child says that it is ready.
    pub(super) fn ready_file(&self, name: &str) -> PathBuf {
        self.scratch
            .dir()
            .join("ready")
            .join(format!("{name}.json"))
    }

    /// Starts a child; returns its process id.
    pub(super) fn start(&mut self, part: Part<'_>) -> Result<u32, Failure> {
        let Part {
            name,
            program,
            arguments,
            place,
        } = part;
        let log = self.scratch.dir().join("logs").join(format!("{name}.log"));
        let cannot =
            |error: std::io::Error| Failure::problem(format!("cannot start {name}")).why(error);
        self.write_command(&name, program, &arguments, place)?;
        let output = File::create(&log).map_err(cannot)?;
        let mut command = Command::new(ourselves());
        command.arg0("meshctl").arg("demo-launch");
        command.arg("--parent").arg(std::process::id().to_string());
        if let Some(path) = place.path() {
            command.arg("--netns").arg(path);
        }
        command.arg("--").arg(program).args(&arguments);
        for (variable, _) in std::env::vars_os() {
            // The user's own mesh is not the demo's.
            if variable.to_string_lossy().starts_with("POSTERN_") {
                command.env_remove(variable);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(cannot)?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let pid = child
            .id()
            .ok_or_else(|| Failure::problem(format!("{name} ended at once")))?;
        self.actors.push(Actor {
            name,
            log,
            pid,
            child,
        });
        Ok(pid)
    }

    /// The process id of a child that runs; 0 when there is none of that name.
    pub(super) fn pid(&self, name: &str) -> u32 {
        self.actors
            .iter()
            .find(|a| a.name == name)
            .map_or(0, |a| a.pid)
    }

    /// A script that starts a child again, for those who ended it to see what happens.
    fn write_command(
        &self,
        name: &str,
        program: &Path,
        arguments: &[OsString],
        place: &Place,
    ) -> Result<(), Failure> {
        let quote =
            |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
        let mut line = "#!/bin/sh\nexec ".to_owned();
        if let Some(path) = place.path() {
            line.push_str(&netns::enter_command(&path));
            line.push(' ');
        }
        line.push_str(&quote(program.as_os_str()));
        for argument in arguments {
            line.push(' ');
            line.push_str(&quote(argument));
        }
        line.push('\n');
        self.scratch.write(&format!("commands/{name}.sh"), &line)?;
        Ok(())
    }

    /// Waits until a child has written its ready file, and reads it.
    pub(super) async fn ready<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Failure> {
        let file = self.ready_file(name);
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Ok(text) = std::fs::read(&file) {
                return serde_json::from_slice(&text).map_err(|error| {
                    Failure::problem(format!("{name} wrote a ready file that cannot be read"))
                        .why(error)
                        .next("use programs of the same version (unset POSTERN_CONTROL_API_BIN and POSTERN_SIDECAR_BIN)")
                });
            }
            let Some(actor) = self.actors.iter_mut().find(|a| a.name == name) else {
                return Err(Failure::problem(format!("{name} was never started")));
            };
            if let Ok(Some(status)) = actor.child.try_wait() {
                return Err(actor.failed(&format!("{name} ended early ({status})")));
            }
            if Instant::now() >= deadline {
                return Err(actor.failed(&format!(
                    "{name} was not ready within {} s",
                    READY_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Runs a child to its end.
    pub(super) async fn finish(&mut self, part: Part<'_>) -> Result<(), Failure> {
        let name = part.name.clone();
        self.start(part)?;
        let Some(mut actor) = self.actors.pop() else {
            return Err(Failure::problem(format!("{name} was never started")));
        };
        match tokio::time::timeout(READY_TIMEOUT, actor.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(actor.failed(&format!("{name} failed ({status})"))),
            Ok(Err(error)) => Err(actor.failed(&format!("{name} was lost ({error})"))),
            Err(_) => Err(actor.failed(&format!("{name} did not end in time"))),
        }
    }

    /// The first child, of those still watched, to end: its name and how. It is not watched any more afterwards.
    pub(super) async fn next_end(&mut self) -> (String, String) {
        loop {
            for at in 0..self.actors.len() {
                if let Ok(Some(status)) = self.actors[at].child.try_wait() {
                    let actor = self.actors.remove(at);
                    return (actor.name, status.to_string());
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends every child, those started last first, and removes the directories.
    pub(super) async fn tear_down(mut self) {
        let _progress = progress::Progress::start("ending the demo's programs");
        for actor in self.actors.iter().rev() {
            actor.signal(Signal::TERM);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        for actor in &mut self.actors {
            if tokio::time::timeout_at(deadline, actor.child.wait())
                .await
                .is_err()
            {
                actor.signal(Signal::KILL);
                let _ = actor.child.wait().await;
            }
        }
    }
}

impl Actor {
    /// Signals the child's whole group. A child that was waited for is left alone: its number may be somebody else's by now.
    fn signal(&self, signal: Signal) {
        if self.child.id().is_none() {
            return;
        }
        if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// A failure with the child's last words.
    fn failed(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        let why = if last.is_empty() {
            "it said nothing".to_owned()
        } else {
            format!("its last words:\n{last}")
        };
        let next = if last.to_ascii_lowercase().contains("address already in use")
            || last.to_ascii_lowercase().contains("address in use")
        {
            "another program took a port in between: run the demo again (`ss -ltnp` shows who has it)"
        } else {
            "run it again with --keep to look at the logs and the state it leaves"
        };
        Failure::problem(what).why(why).next(next)
    }
}

/// This very executable, even when the file was replaced meanwhile.
pub(super) fn ourselves() -> PathBuf {
    if cfg!(target_os = "linux") {
        "/proc/self/exe".into()
    } else {
        std::env::current_exe().unwrap_or_else(|_| "meshctl".into())
    }
}
