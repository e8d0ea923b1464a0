//! Bounds what one HTTP/2 connection holds of what its peer does not take.
//!
//! Bytes stay here in two ways. The peer reads the connection too slowly: of what its windows allow only so much is handed
//! over, and streams wait for their turn. Or it grants a stream no more: what was read for that stream waits for window; when
//! much waits so, streams read only what there is window for. One cannot bring the other about (but for a peer that takes
//! window back), so that streams that stand still stop no others of their connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

/// Bytes handed to the connection and not written yet, to within one frame.
pub const MAX_QUEUED: usize = 1 << 20;
/// Bytes that wait for window, to within one read.
pub const MAX_STALLED: usize = 1 << 20;

/// What one connection holds.
#[derive(Debug, Default)]
pub struct Unsent {
    queued: Cell<usize>,
    stalled: Cell<usize>,
    /// Streams that wait until less is queued, by number.
    waiting: RefCell<HashMap<u64, Waker>>,
    /// Numbers given out.
    numbers: Cell<u64>,
}

impl Unsent {
    /// Whether more may be handed over. If not, `wait` wakes whoever asked once half of it was written.
    pub(super) fn has_room(&self, wait: &mut Option<Wait>, cx: &Context<'_>) -> bool {
        if self.queued.get() < MAX_QUEUED {
            return true;
        }
        let wait = wait.get_or_insert_with(|| {
            let number = self.numbers.get();
            self.numbers.set(number + 1);
            Wait(number)
        });
        let mut waiting = self.waiting.borrow_mut();
        match waiting.get_mut(&wait.0) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => drop(waiting.insert(wait.0, cx.waker().clone())),
        }
        false
    }

    /// Nobody waits on that stream any more.
    pub(super) fn leave(&self, wait: &Wait) {
        self.waiting.borrow_mut().remove(&wait.0);
    }

    /// Whether a stream may read without knowing how much its peer will take.
    pub(super) fn may_stall(&self) -> bool {
        self.stalled.get() < MAX_STALLED
    }

    /// Bytes of a stream wait for window.
    pub(super) fn stall(&self, bytes: usize) {
        self.stalled.set(self.stalled.get() + bytes);
    }

    /// They do not any more.
    pub(super) fn go_on(&self, bytes: usize) {
        self.stalled.set(self.stalled.get() - bytes);
    }

    fn written(&self, bytes: usize) {
        let queued = self.queued.get() - bytes;
        self.queued.set(queued);
        if queued <= MAX_QUEUED / 2 {
            // Not borrowed while somebody is woken.
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            waiting.into_values().for_each(Waker::wake);
        }
    }

    /// Bytes held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.queued.get() + self.stalled.get()
    }
}

/// A stream that waits, or waited.
#[derive(Debug)]
pub struct Wait(u64);

/// A piece of a body on its way through the connection, counted until it was written or given up.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    counted: usize,
    of: Rc<Unsent>,
}

impl Piece {
    /// Counts `bytes`.
    pub(super) fn new(bytes: Bytes, of: &Rc<Unsent>) -> Self {
        let counted = bytes.len();
        of.queued.set(of.queued.get() + counted);
        Self {
            bytes,
            counted,
            of: Rc::clone(of),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.written(self.counted);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests;
