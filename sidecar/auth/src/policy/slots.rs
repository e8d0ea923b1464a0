//! Lists by hashed text: one cache line for a look, and a bit of a small map for one that finds nothing.
//!
//! Most looks find nothing: a request has many values, and few of them lead anywhere. The map says so from a sixteenth of the
//! memory, which stays in the nearest cache where the slots do not.
//!
//! Texts are compared by their seeded 64-bit hash alone. Two that collide share what hangs on either, which costs a look and
//! changes nothing: whoever is found is looked at in full.

use std::collections::HashMap;
use std::hash::BuildHasher;

/// Lists by text.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// A bit for each text, by its hash: eight bits for each slot, at most one in sixteen set.
    filter: Box<[u64]>,
    /// Open addressing, a power of two and at most half full; none without texts.
    slots: Box<[Slot]>,
    lists: Box<[u32]>,
    seed: foldhash::fast::RandomState,
}

/// Slots for which one word of the filter stands.
const SLOTS_OF_WORD: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u64,
    /// Where in `lists` the list starts; of a list with one entry, the entry.
    start: u32,
    /// 0: free.
    count: u32,
}

impl Slots {
    pub(super) fn build<'t>(texts: impl IntoIterator<Item = (&'t str, Vec<u32>)>) -> Self {
        let mut slots = Self::default();
        let mut by_hash: HashMap<u64, Vec<u32>> = HashMap::new();
        for (text, list) in texts {
            let held = by_hash.entry(slots.hash(text)).or_default();
            if !held.is_empty() {
                held.extend_from_slice(&list);
                held.sort_unstable();
                held.dedup();
            } else {
                *held = list;
            }
        }
        if by_hash.is_empty() {
            return slots;
        }
        slots.slots = vec![Slot::default(); (2 * by_hash.len()).next_power_of_two()].into();
        slots.filter = vec![0; slots.slots.len().div_ceil(SLOTS_OF_WORD)].into();
        let mut lists = Vec::new();
        for (hash, list) in by_hash {
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            let start = match list[..] {
                [one] => one,
                _ => u32::try_from(lists.len()).unwrap_or(u32::MAX),
            };
            if count > 1 {
                lists.extend_from_slice(&list);
            }
            let free = slots.places(hash).find(|at| slots.slots[*at].count == 0);
            let (word, bit) = slots.bit(hash);
            slots.filter[word] |= bit;
            if let Some(at) = free {
                slots.slots[at] = Slot { hash, start, count };
            }
        }
        slots.lists = lists.into();
        slots
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What hangs on a text, and perhaps more.
    pub(super) fn get(&self, text: &str) -> &[u32] {
        if self.is_empty() {
            return &[];
        }
        let hash = self.hash(text);
        let (word, bit) = self.bit(hash);
        if self.filter[word] & bit == 0 {
            return &[];
        }
        for at in self.places(hash) {
            let slot = &self.slots[at];
            match slot.count {
                0 => break,
                _ if slot.hash != hash => {}
                1 => return std::slice::from_ref(&slot.start),
                count => return &self.lists[slot.start as usize..][..count as usize],
            }
        }
        &[]
    }

    fn hash(&self, text: &str) -> u64 {
        self.seed.hash_one(text)
    }

    /// Where in `filter` a hash is: by its upper half, places are told by the lower.
    #[allow(clippy::cast_possible_truncation)]
    fn bit(&self, hash: u64) -> (usize, u64) {
        let word = (hash >> 38) as usize & (self.filter.len() - 1);
        (word, 1 << (hash >> 32 & 63))
    }

    /// The places where a hash may be, in the order in which they are tried.
    #[allow(clippy::cast_possible_truncation)]
    fn places(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.slots.len();
        (0..count).map(move |i| (hash as usize).wrapping_add(i) & (count - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_leads_to_its_list_and_others_to_none() {
        let texts: Vec<String> = (0..1_000).map(|i| format!("/svc{i}/")).collect();
        let list = |i: u32| (0..=i % 3).map(|n| i * 3 + n).collect::<Vec<_>>();
        let slots = Slots::build((0..).zip(&texts).map(|(i, t)| (t.as_str(), list(i))));
        for (i, text) in (0..).zip(&texts) {
            assert_eq!(slots.get(text), list(i), "{text}");
        }
        for other in ["", "/", "/svc1", "/svc1000/"] {
            assert!(slots.get(other).is_empty(), "{other}");
        }
        assert!(Slots::default().get("x").is_empty());
    }
}
