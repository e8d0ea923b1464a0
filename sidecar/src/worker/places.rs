//! A bounded number of places for those who wait.

use std::cell::Cell;

/// The places of one worker.
#[derive(Debug)]
pub struct Places {
    taken: Cell<usize>,
    most: usize,
}

/// A place, free again when this is dropped.
#[derive(Debug)]
pub struct Place<'a>(&'a Cell<usize>);

impl Places {
    /// As many as `most`, all free.
    pub const fn new(most: usize) -> Self {
        Self {
            taken: Cell::new(0),
            most,
        }
    }

    /// A place, if one is free.
    pub fn take(&self) -> Option<Place<'_>> {
        let taken = self.taken.get();
        (taken < self.most).then(|| {
            self.taken.set(taken + 1);
            Place(&self.taken)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_makes_room() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
    }
}
