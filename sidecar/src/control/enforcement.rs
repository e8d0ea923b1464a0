//! What the workers have enforced: an acknowledgement of revocations and of policy waits for it.

use futures_util::future::select_all;
use tokio::sync::watch;

/// The newest epoch that each worker has enforced: nothing that its snapshot forbids is open any more.
#[derive(Debug, Default)]
pub struct Enforcement {
    workers: Vec<watch::Receiver<u64>>,
}

impl Enforcement {
    /// Listens to `workers`.
    pub fn new(workers: Vec<watch::Receiver<u64>>) -> Self {
        Self { workers }
    }

    /// The newest epoch that every worker has enforced. Workers that have ended have nothing open.
    pub fn epoch(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| *worker.borrow())
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Resolves when a worker has enforced another epoch, or has ended.
    pub async fn changed(&mut self) {
        if self.workers.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.workers.iter_mut().map(|w| Box::pin(w.changed()));
        let (result, index, rest) = select_all(changes).await;
        drop(rest);
        if result.is_err() {
            self.workers.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_slowest_worker_decides_and_one_that_ended_does_not_count() {
        let (first, told_first) = watch::channel(0);
        let (second, told_second) = watch::channel(0);
        let mut enforcement = Enforcement::new(vec![told_first, told_second]);
        first.send_replace(5);
        enforcement.changed().await;
        assert_eq!(enforcement.epoch(), 0);
        second.send_replace(4);
        enforcement.changed().await;
        assert_eq!(enforcement.epoch(), 4);
        drop(second);
        enforcement.changed().await;
        assert_eq!(enforcement.epoch(), 5);
        drop(first);
        enforcement.changed().await;
        assert_eq!(enforcement.epoch(), u64::MAX);
    }
}
