//! Writes of one file, one after the other, each to its end.
//!
//! A write that blocks runs on a thread of its own and goes on when whoever awaits it is dropped. The next one, and the end
//! of the process, wait for it all the same: it holds its turn itself.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

/// The turns of one file.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Mutex<()>>);

/// The right to write; given up when the write is done.
#[derive(Debug)]
pub(super) struct Turn(OwnedMutexGuard<()>);

impl Turns {
    /// Waits for the write that is under way.
    pub(super) async fn take(&self) -> Turn {
        Turn(Arc::clone(&self.0).lock_owned().await)
    }
}

impl Turn {
    /// Runs `write`, which may block on the disk. It starts at once and is not stopped by dropping what is returned, which
    /// fails when `write` panicked.
    pub(super) fn write<T: Send + 'static>(
        self,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let Self(turn) = self;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            write()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_awaits_any_more_is_waited_for() {
        let turns = Turns::default();
        let (go_on, told) = mpsc::channel();
        let (done, written) = mpsc::channel();
        let write = turns.take().await.write(move || {
            told.recv().ok();
            done.send(()).ok();
        });
        drop(write);
        assert!(turns.take().now_or_never().is_none(), "it has its turn");
        go_on.send(()).expect("it is still there");
        drop(turns.take().await);
        assert!(written.try_recv().is_ok(), "done before the next turn");
    }
}
