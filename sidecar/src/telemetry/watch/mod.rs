//! Who watches requests as they end, beside the metrics: latency budgets, taps, and who talks to whom.
//!
//! One [`Watch`] per worker, asked once for every request. With nothing to watch that is a look at an empty list, and a
//! relaxed load.

pub mod budgets;
pub mod edges;
pub mod tap;

use std::sync::Arc;

use mesh_trace::Timeline;
use tokio::sync::watch;

use super::observe::Entry;
use crate::ledger::Ledger;
use crate::snapshot::SharedSnapshot;
use crate::worker::metrics::Direction;
use budgets::Budgets;
use edges::Edges;
use tap::Tap;

/// What watches one worker's requests.
pub struct Watch {
    budgets: Budgets,
    tap: Arc<Tap>,
    /// Who talks to this workload.
    pub edges: Edges,
}

impl Watch {
    /// Counts where `ledger` is read.
    pub fn new(ledger: &Arc<Ledger>) -> Self {
        Self {
            budgets: Budgets::new(Arc::clone(&ledger.tallies)),
            tap: Arc::clone(&ledger.tap),
            edges: Edges::new(&ledger.edges),
        }
    }

    /// A request ended. True if it took longer than one of its budgets lets it.
    pub fn ended(
        &self,
        direction: Direction,
        timeline: &Timeline,
        issuer: impl Fn(&str) -> bool,
    ) -> bool {
        self.budgets.count(direction, timeline, issuer)
    }

    /// The handshake of an inbound connection ended. True if it took longer than one of its budgets lets it.
    pub fn shook_hands(&self, direction: Direction, timeline: &Timeline) -> bool {
        self.budgets.count_handshake(direction, timeline)
    }

    /// Whether somebody wants to see what ends.
    pub fn is_tapped(&self) -> bool {
        self.tap.is_on()
    }

    /// Shows him.
    pub fn tapped(&self, entry: &Entry<'_>) {
        self.tap.show(entry);
    }

    /// Follows which budgets there are, for ever.
    pub async fn follow(&self, snapshot: &SharedSnapshot, mut epochs: watch::Receiver<u64>) {
        loop {
            epochs.borrow_and_update();
            self.budgets.replace(&snapshot.load().budgets);
            if epochs.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
