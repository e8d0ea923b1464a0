//! Drain, as one worker sees it: a flag, a wake-up, and the count of what is still going on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::crew::Open;

/// One worker's drain state.
#[derive(Debug, Default)]
pub struct Drain {
    draining: Cell<bool>,
    /// One slot per watching task; free slots are reused.
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
    live: Cell<usize>,
    done: Notify,
}

impl Drain {
    /// Nothing is draining.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// True once draining began.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Begins: whoever waits at a message boundary is woken.
    pub fn begin(&self) {
        self.draining.set(true);
        let waiting: Vec<_> = self
            .wakers
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        for waker in waiting {
            waker.wake();
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> Live {
        self.enter_with(None)
    }

    /// The same; it counts among all workers as well until then.
    pub fn enter_with(self: &Rc<Self>, open: Option<Open>) -> Live {
        self.live.set(self.live.get() + 1);
        Live(Rc::clone(self), open)
    }

    /// Connections going on.
    pub fn live(&self) -> usize {
        self.live.get()
    }

    /// Returns when no connection is left.
    pub async fn finished(&self) {
        while self.live.get() > 0 {
            self.done.notified().await;
        }
    }
}

/// A connection going on; registers its task to be woken when draining begins.
#[derive(Debug)]
pub struct Live(Rc<Drain>, #[allow(dead_code)] Option<Open>);

impl Live {
    /// True once draining began.
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// A watch on the beginning of draining.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            drain: Rc::clone(&self.0),
            slot: None,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let live = self.0.live.get() - 1;
        self.0.live.set(live);
        if live == 0 {
            self.0.done.notify_waiters();
            self.0.done.notify_one();
        }
    }
}

/// Wakes one task when draining begins. A task registers once: its waker does not change on a worker's runtime.
#[derive(Debug)]
pub struct DrainWatch {
    drain: Rc<Drain>,
    slot: Option<usize>,
}

impl DrainWatch {
    /// True once draining began.
    pub fn is_draining(&self) -> bool {
        self.drain.draining.get()
    }

    /// Ready once draining began.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.drain.draining.get() {
            return Poll::Ready(());
        }
        if self.slot.is_none() {
            let mut wakers = self.drain.wakers.borrow_mut();
            let waker = Some(cx.waker().clone());
            self.slot = Some(match self.drain.free.borrow_mut().pop() {
                Some(slot) => {
                    wakers[slot] = waker;
                    slot
                }
                None => {
                    wakers.push(waker);
                    wakers.len() - 1
                }
            });
        }
        Poll::Pending
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.drain.wakers.borrow_mut()[slot] = None;
            self.drain.free.borrow_mut().push(slot);
        }
    }
}
