//! How far a worker has enforced the snapshots it was given.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::watch;

/// Tells the newest epoch under which nothing forbidden is open any more: everything was reviewed under it, and what any
/// review up to it ended is closed.
pub struct Progress {
    /// Epoch of the snapshot of the last complete review.
    reviewed: Cell<u64>,
    /// What still has to close, or to say that it may go on, by the epoch that asks for it.
    closing: RefCell<BTreeMap<u64, usize>>,
    enforced: watch::Sender<u64>,
}

impl Progress {
    /// Nothing is reviewed.
    pub fn new(enforced: watch::Sender<u64>) -> Rc<Self> {
        Rc::new(Self {
            reviewed: Cell::default(),
            closing: RefCell::default(),
            enforced,
        })
    }

    /// Everything that is open was asked, or called to ask itself, under `epoch`.
    pub fn reviewed(&self, epoch: u64) {
        self.reviewed.set(epoch);
        self.tell();
    }

    /// One thing keeps `epoch` from being enforced.
    pub fn closing(&self, epoch: u64) {
        *self.closing.borrow_mut().entry(epoch).or_default() += 1;
    }

    /// It does so no longer.
    pub fn closed(&self, epoch: u64) {
        let mut closing = self.closing.borrow_mut();
        if let Some(open) = closing.get_mut(&epoch) {
            *open -= 1;
            if *open == 0 {
                closing.remove(&epoch);
            }
        }
        drop(closing);
        self.tell();
    }

    fn tell(&self) {
        let oldest = self.closing.borrow().keys().next().copied();
        let reviewed = self.reviewed.get();
        let enforced = oldest.map_or(reviewed, |epoch| reviewed.min(epoch.saturating_sub(1)));
        self.enforced.send_if_modified(|told| {
            let newer = enforced > *told;
            if newer {
                *told = enforced;
            }
            newer
        });
    }
}
