//! Writes the last good state after changes, not more often than the disk deserves.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::state_file::StateFile;
use super::status::ControlStatus;
use super::stream::Discovery;
use super::turn::Turns;

/// Changes within this time are written together.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// After a failure the next attempt waits this long.
const RETRY: Duration = Duration::from_secs(30);

/// Writer of the state file.
pub struct Persistence {
    file: StateFile,
    status: Arc<ControlStatus>,
    clock: Arc<dyn Clock>,
    turns: Turns,
}

impl Persistence {
    /// Writes to `file`.
    pub fn new(file: StateFile, status: Arc<ControlStatus>, clock: Arc<dyn Clock>) -> Self {
        Self {
            file,
            status,
            clock,
            turns: Turns::default(),
        }
    }

    /// Follows what `discovery` holds, for ever.
    pub async fn keep(&self, discovery: &Discovery) {
        loop {
            discovery.changed().await;
            tokio::time::sleep(DEBOUNCE).await;
            while !self.write(discovery).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Writes once, after a write that is under way; false when the disk refused.
    pub async fn write(&self, discovery: &Discovery) -> bool {
        if !discovery.is_complete() {
            return true;
        }
        let turn = self.turns.take().await;
        let export = discovery.client().export();
        let (file, now) = (self.file.clone(), self.clock.now());
        let written = turn.write(move || file.save(&export, now)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let outcome = if error.is_none() { "written" } else { "failed" };
        metrics::counter!("postern_state_writes_total", "outcome" => outcome).increment(1);
        if let Some(error) = &error {
            tracing::error!(
                error,
                "the last good state cannot be written; a restart would have to reach the control API"
            );
        }
        let ok = error.is_none();
        self.status.update(|view| view.state_error = error);
        ok
    }
}
