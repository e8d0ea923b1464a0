//! Bounds what large reads hold.
//!
//! A frame of bulk lies in a block of its own until whoever it is for has taken it. A worker's blocks are counted while
//! they live, wherever they are; when there are many, bulk goes on in small reads, so that readers who stop reading hold
//! no more for it.

use std::cell::Cell;

use bytes::Bytes;

/// Blocks that a worker has at most: 4 MB.
const MOST: usize = 16;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A block, counted while anybody holds a part of it.
struct Block(Bytes);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // At the end of the thread there is nothing left to count for.
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(1)));
    }
}

/// True when another block may be filled.
pub(super) fn has_room() -> bool {
    HELD.get() < MOST
}

/// Counts the block that `data` lies in for as long as it lives.
pub(super) fn counted(data: Bytes) -> Bytes {
    HELD.set(HELD.get() + 1);
    Bytes::from_owner(Block(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_while_a_part_of_them_lives() {
        let mut blocks: Vec<_> = (0..MOST)
            .map(|_| {
                assert!(has_room());
                counted(Bytes::from_static(b"block"))
            })
            .collect();
        assert!(!has_room());
        let part = blocks.swap_remove(0).slice(1..3);
        assert!(!has_room());
        assert_eq!(&part[..], b"lo");
        drop(part);
        assert!(has_room());
    }
}
