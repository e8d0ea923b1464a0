//! Live views under way: which there are, and where what their sidecars tell goes.
//!
//! A sidecar tells for a few seconds and is asked again as long as somebody watches: one that comes back tells again, and
//! whoever watched is forgotten by sidecars that nobody asks any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_proto::mesh::{StartTap, TapBatch, TapFilter, report_answer, report_query};
use tokio::sync::mpsc;

use super::Board;
use super::board::clean;

/// Live views at the same time: each costs sidecars entries.
const MAX_TAPS: usize = 8;
/// Batches that wait for who watches; what comes beyond is counted.
const MAX_BATCHES: usize = 64;
/// Entries of one batch; a sidecar sends no more.
const MAX_ENTRIES: usize = 1_000;
/// How long a sidecar may take to say that it tells.
const PATIENCE: Duration = Duration::from_secs(1);

/// The live views.
#[derive(Debug, Default)]
pub(super) struct Taps {
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Open {
    workload: String,
    batches: mpsc::Sender<TapBatch>,
    lost: u64,
}

impl Taps {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch came from the sidecar of `workload`: for the view of that workload, or for nobody.
    pub(super) fn saw(&self, workload: &str, mut batch: TapBatch) {
        let mut open = self.lock();
        let Some(tap) = open.get_mut(&batch.tap).filter(|t| t.workload == workload) else {
            return;
        };
        let beyond = batch.entries.len().saturating_sub(MAX_ENTRIES);
        batch.entries.truncate(MAX_ENTRIES);
        let lost = std::mem::take(&mut tap.lost) + beyond as u64;
        batch.dropped = batch.dropped.saturating_add(lost);
        for entry in &mut batch.entries {
            for text in [
                &mut entry.method,
                &mut entry.host,
                &mut entry.path,
                &mut entry.reason,
                &mut entry.policy,
                &mut entry.decision_id,
                &mut entry.peer,
                &mut entry.peer_address,
                &mut entry.error,
                &mut entry.trace_id,
            ] {
                clean(text);
            }
            entry.phases_nanos.retain(|phase, _| phase.len() <= 32);
        }
        if let Err(unsent) = tap.batches.try_send(batch) {
            let batch = unsent.into_inner();
            tap.lost = batch.dropped + batch.entries.len() as u64;
        }
    }
}

/// One live view; it ends when this is dropped.
#[derive(Debug)]
pub struct Watching {
    board: Arc<Board>,
    number: u64,
    start: StartTap,
    workload: String,
    batches: mpsc::Receiver<TapBatch>,
}

/// Begins to watch a workload; `None`: too many watch already.
pub fn watch(
    board: &Arc<Board>,
    workload: &str,
    filter: TapFilter,
    per_second: u32,
) -> Option<Watching> {
    let mut open = board.taps.lock();
    if open.len() >= MAX_TAPS {
        return None;
    }
    let number = board.taps.next.fetch_add(1, Ordering::Relaxed);
    let (sender, batches) = mpsc::channel(MAX_BATCHES);
    let tap = Open {
        workload: workload.to_owned(),
        batches: sender,
        lost: 0,
    };
    open.insert(number, tap);
    Some(Watching {
        board: Arc::clone(board),
        number,
        start: StartTap {
            tap: number,
            filter: Some(filter),
            per_second,
        },
        workload: workload.to_owned(),
        batches,
    })
}

impl Watching {
    /// Asks the sidecar to tell, or to go on; false if it does not: it is not connected, or of an older version.
    pub async fn ask(&self) -> bool {
        let ask = report_query::Ask::StartTap(self.start.clone());
        let wanted = |workload: &str| workload == self.workload;
        let answers = self.board.ask(&ask, wanted, PATIENCE).await.answers;
        answers
            .iter()
            .any(|(_, answer)| matches!(answer, Some(report_answer::Answer::TapStarted(_))))
    }

    /// What it told next.
    pub async fn next(&mut self) -> Option<TapBatch> {
        self.batches.recv().await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.board.taps.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh::TapEntry;

    use super::*;

    fn batch(tap: u64, path: &str) -> TapBatch {
        TapBatch {
            tap,
            entries: vec![TapEntry {
                path: path.into(),
                ..TapEntry::default()
            }],
            dropped: 0,
        }
    }

    #[tokio::test]
    async fn a_view_gets_what_its_workload_tells_and_nothing_else() {
        let board = Arc::new(Board::default());
        let mut watching = watch(&board, "shop/a", TapFilter::default(), 0).unwrap();
        let number = watching.number;
        board.taps.saw("shop/other", batch(number, "/theirs"));
        board.taps.saw("shop/a", batch(number + 1, "/nobody"));
        board.taps.saw("shop/a", batch(number, "/\u{1b}[2J"));
        let told = watching.next().await.unwrap();
        assert_eq!(told.entries[0].path, "/\u{fffd}[2J");
        for _ in 0..MAX_BATCHES + 3 {
            board.taps.saw("shop/a", batch(number, "/x"));
        }
        for _ in 0..MAX_BATCHES {
            assert_eq!(watching.next().await.unwrap().dropped, 0);
        }
        board.taps.saw("shop/a", batch(number, "/x"));
        assert_eq!(watching.next().await.unwrap().dropped, 3);
        drop(watching);
        assert!(board.taps.lock().is_empty());
    }

    #[test]
    fn views_are_few_and_make_room_when_they_end() {
        let board = Arc::new(Board::default());
        let one = || watch(&board, "shop/a", TapFilter::default(), 0);
        let mut held: Vec<_> = (0..MAX_TAPS).filter_map(|_| one()).collect();
        assert_eq!(held.len(), MAX_TAPS);
        assert!(one().is_none());
        held.pop();
        assert!(one().is_some());
    }
}
