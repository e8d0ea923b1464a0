//! Turns for what takes the processor for long: a few at a time, in the order in which they came, and between two rounds everything
//! else that is ready.
//!
//! A TLS handshake is some hundred microseconds of cryptography in one go. When many arrive at once, requests on connections that
//! are open would wait for all of them. Who waits for the network holds no turn: silent callers keep nobody out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

/// Turns in one round: what requests that are ready wait for.
const AT_ONCE: usize = 4;

/// The turns of one worker.
#[derive(Debug)]
pub struct Turns {
    left: Cell<usize>,
    queue: RefCell<VecDeque<(Rc<Cell<bool>>, Waker)>>,
    /// Told when a round is over.
    spent: Notify,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            left: Cell::new(AT_ONCE),
            queue: RefCell::default(),
            spent: Notify::new(),
        }
    }
}

impl Turns {
    /// Does `work`; each time that it can go on, when it is its turn.
    pub async fn take<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut place: Option<Rc<Cell<bool>>> = None;
        poll_fn(|cx| {
            let is_called = place.as_ref().is_some_and(|called| called.get());
            if !is_called && !self.is_free() {
                if place.is_none() {
                    let called = place.insert(Rc::default());
                    let waiting = (Rc::clone(called), cx.waker().clone());
                    self.queue.borrow_mut().push_back(waiting);
                    self.spent.notify_one();
                }
                return Poll::Pending;
            }
            place = None;
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Takes a turn if nobody waits for one.
    fn is_free(&self) -> bool {
        let left = self.left.get();
        if left == 0 || !self.queue.borrow().is_empty() {
            return false;
        }
        self.left.set(left - 1);
        if left == 1 {
            self.spent.notify_one();
        }
        true
    }

    /// Begins rounds for ever.
    pub async fn keep(&self) {
        loop {
            self.spent.notified().await;
            loop {
                // Comes back when everything that was ready, and what the network brought, has been looked at.
                tokio::task::yield_now().await;
                let called: Vec<_> = {
                    let mut queue = self.queue.borrow_mut();
                    let count = queue.len().min(AT_ONCE);
                    queue.drain(..count).collect()
                };
                self.left.set(AT_ONCE - called.len());
                if called.is_empty() {
                    break;
                }
                for (called, waker) in called {
                    called.set(true);
                    waker.wake();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::{LocalSet, yield_now};

    #[tokio::test]
    async fn many_take_turns_in_order_and_others_come_in_between() {
        let local = LocalSet::new();
        let turns = Rc::new(Turns::default());
        let done = Rc::new(RefCell::new(Vec::new()));
        local
            .run_until(async {
                let keeper = Rc::clone(&turns);
                tokio::task::spawn_local(async move { keeper.keep().await });
                for i in 0..101 {
                    let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
                    tokio::task::spawn_local(async move {
                        turns.take(async { done.borrow_mut().push(i) }).await;
                    });
                }
                let mut before = 0;
                while before < 101 {
                    yield_now().await;
                    let now = done.borrow().len();
                    assert!(now - before <= 2 * AT_ONCE, "{} in one go", now - before);
                    before = now;
                }
            })
            .await;
        assert_eq!(*done.borrow(), (0..101).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn who_waits_or_leaves_keeps_no_turn() {
        let local = LocalSet::new();
        let turns = Rc::new(Turns::default());
        let answered = Rc::new(Notify::new());
        local
            .run_until(async {
                let keeper = Rc::clone(&turns);
                tokio::task::spawn_local(async move { keeper.keep().await });
                let silent: Vec<_> = (0..50)
                    .map(|i| {
                        let (turns, answered) = (Rc::clone(&turns), Rc::clone(&answered));
                        let task = tokio::task::spawn_local(async move {
                            turns.take(answered.notified()).await;
                        });
                        if i % 2 == 0 {
                            task.abort();
                        }
                        task
                    })
                    .collect();
                for _ in 0..50 {
                    yield_now().await;
                }
                turns.take(async {}).await;
                answered.notify_waiters();
                for task in silent.into_iter().skip(1).step_by(2) {
                    task.await.expect("it goes on");
                }
            })
            .await;
    }
}
