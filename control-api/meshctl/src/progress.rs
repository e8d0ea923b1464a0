//! Says on standard error what is going on when it takes longer than a second; silent otherwise.

use std::time::Duration;

use tokio::task::JoinHandle;

/// How long work may take before it is announced.
const PATIENCE: Duration = Duration::from_secs(1);

/// An announcement that is withdrawn when dropped.
pub(crate) struct Progress(JoinHandle<()>);

impl Progress {
    /// Announces `what` unless dropped within a second.
    #[allow(clippy::print_stderr)]
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        Self(tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            eprintln!("{what} ...");
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A line that a person must see even when standard error is a file.
#[allow(clippy::print_stderr)]
pub(crate) fn say(what: &str) {
    eprintln!("{what}");
}
