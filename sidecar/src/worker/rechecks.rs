//! Streams and tunnels that must decide again when policy changes.
//!
//! Every request that has to wait is one, so that being one costs no allocation: a slot with a waker. What a decision needs
//! (head, token, source) stays where it is, in the task that holds the stream; a new policy wakes that task, and it decides
//! for itself. The snapshot is not enforced until it has: it said that it may go on, or it is closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::progress::Progress;

/// Tasks woken before others get a turn.
const SLICE: usize = 256;

/// The open streams and tunnels of one worker.
pub struct Rechecks {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    /// The newest policy that streams were called for.
    policy: Cell<u64>,
    progress: Rc<Progress>,
}

#[derive(Default)]
struct Slot {
    /// `None`: free.
    waker: Option<Waker>,
    /// The snapshot under which it was called and has not yet answered.
    due: Option<u64>,
}

impl Rechecks {
    /// None are open.
    pub fn new(progress: Rc<Progress>) -> Self {
        Self {
            slots: RefCell::default(),
            free: RefCell::default(),
            policy: Cell::default(),
            progress,
        }
    }

    /// Wakes everything open to decide under the policies of epoch `policy`, which came with snapshot `epoch`.
    pub async fn call(&self, policy: u64, epoch: u64) {
        self.policy.set(policy);
        let mut index = 0;
        loop {
            for _ in 0..SLICE {
                let waker = {
                    let mut slots = self.slots.borrow_mut();
                    let Some(slot) = slots.get_mut(index) else {
                        return;
                    };
                    if slot.waker.is_some() && slot.due.is_none() {
                        slot.due = Some(epoch);
                        self.progress.closing(epoch);
                    }
                    slot.waker.clone()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
                index += 1;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Streams and tunnels that wait to be called.
    pub fn len(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn enter(&self, waker: &Waker) -> usize {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        slots[index].waker = Some(waker.clone());
        index
    }
}

/// One open stream or tunnel; dropped when it is closed.
pub struct Recheck<'a> {
    of: &'a Rechecks,
    /// The policies it was last allowed by.
    decided: u64,
    /// Entered when it has to wait for the first time: most requests are answered before policy changes.
    slot: Option<usize>,
}

impl<'a> Recheck<'a> {
    /// A stream that the policies of epoch `decided` allowed.
    pub fn new(of: &'a Rechecks, decided: u64) -> Self {
        Self {
            of,
            decided,
            slot: None,
        }
    }

    /// Ready while there are newer policies than those it was allowed by: then it must be decided again, and is closed or
    /// [allowed](Self::allowed). Wakes the task that asked last.
    pub fn poll_due(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.slot {
            None => self.slot = Some(self.of.enter(cx.waker())),
            Some(index) => {
                let held = &mut self.of.slots.borrow_mut()[index].waker;
                if held.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                    *held = Some(cx.waker().clone());
                }
            }
        }
        if self.decided < self.of.policy.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The policies of epoch `policy` allow it too.
    pub fn allowed(&mut self, policy: u64) {
        self.decided = policy.max(self.of.policy.get());
        if let Some(index) = self.slot {
            let due = self.of.slots.borrow_mut()[index].due.take();
            if let Some(epoch) = due {
                self.of.progress.closed(epoch);
            }
        }
    }
}

impl Drop for Recheck<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.slot {
            let slot = std::mem::take(&mut self.of.slots.borrow_mut()[index]);
            self.of.free.borrow_mut().push(index);
            if let Some(epoch) = slot.due {
                self.of.progress.closed(epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use tokio::sync::watch;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn world() -> (Rechecks, Rc<Progress>, watch::Receiver<u64>) {
        let (enforced, told) = watch::channel(0);
        let progress = Progress::new(enforced);
        (Rechecks::new(Rc::clone(&progress)), progress, told)
    }

    #[tokio::test]
    async fn a_new_policy_wakes_what_is_open_once_and_is_enforced_when_all_have_answered() {
        let (rechecks, progress, told) = world();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let mut stays = Recheck::new(&rechecks, 3);
        let mut ends = Recheck::new(&rechecks, 3);
        assert!(stays.poll_due(&cx).is_pending() && ends.poll_due(&cx).is_pending());
        assert_eq!(rechecks.len(), 2);
        progress.reviewed(8);
        rechecks.call(9, 9).await;
        progress.reviewed(9);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(stays.poll_due(&cx).is_ready() && ends.poll_due(&cx).is_ready());
        assert_eq!(*told.borrow(), 8);
        stays.allowed(9);
        assert!(stays.poll_due(&cx).is_pending());
        assert_eq!(*told.borrow(), 8, "the other has not answered");
        drop(ends);
        assert_eq!(*told.borrow(), 9);
        assert_eq!(rechecks.len(), 1);
    }

    #[tokio::test]
    async fn what_was_allowed_before_the_change_and_waits_after_it_is_due_at_once() {
        let (rechecks, ..) = world();
        let cx = Context::from_waker(Waker::noop());
        let mut late = Recheck::new(&rechecks, 1);
        rechecks.call(2, 5).await;
        assert!(late.poll_due(&cx).is_ready());
        let mut newer = Recheck::new(&rechecks, 3);
        assert!(
            newer.poll_due(&cx).is_pending(),
            "decided by a policy to come"
        );
    }

    #[tokio::test]
    async fn what_never_waited_takes_no_place() {
        let (rechecks, ..) = world();
        drop(Recheck::new(&rechecks, 1));
        assert!(rechecks.is_empty() && rechecks.slots.borrow().is_empty());
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let mut one = Recheck::new(&rechecks, 1);
            assert!(one.poll_due(&cx).is_pending());
        }
        assert_eq!(rechecks.slots.borrow().len(), 1, "places are used again");
    }
}
