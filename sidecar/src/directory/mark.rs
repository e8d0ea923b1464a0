//! Marks of use: what is looked up is told apart from what is only held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something was used since somebody looked, or is still; shared by the directories that know it, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Mark(Arc<Usage>);

#[derive(Debug, Default)]
struct Usage {
    used: AtomicBool,
    /// Held by whoever uses it for long.
    users: Arc<()>,
}

/// It is used as long as this lives.
#[derive(Debug)]
pub struct Held {
    _users: Arc<()>,
}

impl Mark {
    /// It is used. Writes only where that was not known: the others only read what they share.
    pub fn set(&self) {
        if !self.0.used.load(Ordering::Relaxed) {
            self.0.used.store(true, Ordering::Relaxed);
        }
    }

    /// It is used for as long as a connection may last.
    pub fn hold(&self) -> Held {
        Held {
            _users: Arc::clone(&self.0.users),
        }
    }

    pub(super) fn take(&self) -> bool {
        self.0.used.swap(false, Ordering::Relaxed) || Arc::strong_count(&self.0.users) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_holds_is_used_until_it_ends() {
        let mark = Mark::default();
        assert!(!mark.take());
        mark.set();
        assert!(mark.take() && !mark.take());
        let held = mark.clone().hold();
        assert!(mark.take() && mark.take());
        drop(held);
        assert!(!mark.take());
    }
}
