//! Totals since the start of the process, and which of them the control API does not have yet.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use mesh_auth::policy::Verdict;
use mesh_proto::mesh::{PlaintextCaller, ReportBatch, ReportVerdict, ShadowCount};

use crate::ledger::{Notes, Seen, Shadow, ShadowKey};

/// Entries of one kind.
const MAX_ENTRIES: usize = 4_096;
/// Entries in one batch: keeps a message far below the limit.
const MAX_BATCH: usize = 1_000;
/// What was not seen for this long gives way to what is new, seconds.
const STALE: i64 = 24 * 3_600;

/// A total, and whether it has to be sent.
#[derive(Debug)]
struct Entry<V> {
    value: V,
    is_new: bool,
}

/// Admitted and refused connections of one plaintext caller.
#[derive(Debug, Clone, Copy)]
struct Plaintext {
    admitted: u64,
    refused: u64,
    first: i64,
    last: i64,
}

/// The totals.
#[derive(Debug, Default)]
pub struct Totals {
    shadows: HashMap<ShadowKey, Entry<Shadow>>,
    plaintext: HashMap<(IpAddr, u16), Entry<Plaintext>>,
    overflow: u64,
    overflow_is_new: bool,
}

impl Totals {
    /// Adds what a worker noted.
    pub fn add(&mut self, notes: Notes) {
        let mut overflow = notes.overflow;
        for (key, shadow) in notes.shadows {
            let now = shadow.seen.last;
            overflow += upsert(
                &mut self.shadows,
                key,
                shadow,
                |held, new| {
                    held.seen.merge(new.seen);
                    held.last_peer = new.last_peer;
                },
                |held| held.seen.last + STALE < now,
            );
        }
        for ((address, port, was_refused), seen) in notes.plaintext {
            let Seen { count, first, last } = seen;
            let (admitted, refused) = if was_refused { (0, count) } else { (count, 0) };
            let caller = Plaintext {
                admitted,
                refused,
                first,
                last,
            };
            overflow += upsert(
                &mut self.plaintext,
                (address, port),
                caller,
                |held, new| {
                    held.admitted = held.admitted.saturating_add(new.admitted);
                    held.refused = held.refused.saturating_add(new.refused);
                    held.first = held.first.min(new.first);
                    held.last = held.last.max(new.last);
                },
                |held| held.last + STALE < last,
            );
        }
        self.overflow += overflow;
        self.overflow_is_new |= overflow > 0;
    }

    /// Observations that did not fit, in all.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Makes everything new again: for a control API that may know nothing.
    pub fn renew(&mut self) {
        self.shadows.values_mut().for_each(|e| e.is_new = true);
        self.plaintext.values_mut().for_each(|e| e.is_new = true);
        self.overflow_is_new = self.overflow > 0;
    }

    /// Some of what is new, no longer new afterwards; `None` when there is nothing.
    pub fn batch(&mut self) -> Option<ReportBatch> {
        let shadows: Vec<_> = fresh(&mut self.shadows)
            .map(|(key, shadow)| shadow_count(key, shadow))
            .collect();
        let plaintext_callers: Vec<_> = fresh(&mut self.plaintext)
            .map(|((address, port), caller)| PlaintextCaller {
                address: octets(*address),
                port: u32::from(*port),
                admitted: caller.admitted,
                refused: caller.refused,
                first_seen: caller.first,
                last_seen: caller.last,
            })
            .collect();
        let overflowed = std::mem::take(&mut self.overflow_is_new);
        (overflowed || !shadows.is_empty() || !plaintext_callers.is_empty()).then_some(
            ReportBatch {
                shadows,
                plaintext_callers,
                overflow: self.overflow,
                latency_budgets: None,
            },
        )
    }
}

fn upsert<K: Hash + Eq, V>(
    table: &mut HashMap<K, Entry<V>>,
    key: K,
    value: V,
    merge: impl FnOnce(&mut V, V),
    is_stale: impl Fn(&V) -> bool,
) -> u64 {
    if let Some(held) = table.get_mut(&key) {
        merge(&mut held.value, value);
        held.is_new = true;
        return 0;
    }
    if table.len() >= MAX_ENTRIES {
        table.retain(|_, entry| !is_stale(&entry.value));
    }
    if table.len() >= MAX_ENTRIES {
        return 1;
    }
    let is_new = true;
    table.insert(key, Entry { value, is_new });
    0
}

fn fresh<K, V>(table: &mut HashMap<K, Entry<V>>) -> impl Iterator<Item = (&K, &V)> {
    table
        .iter_mut()
        .filter(|(_, entry)| entry.is_new)
        .take(MAX_BATCH)
        .map(|(key, entry)| {
            entry.is_new = false;
            (key, &entry.value)
        })
}

fn shadow_count(key: &ShadowKey, shadow: &Shadow) -> ShadowCount {
    ShadowCount {
        port: u32::from(key.port),
        method: key.method.to_string(),
        route: key.route.to_string(),
        enforced: verdict(key.enforced).into(),
        would_be: verdict(key.would_be).into(),
        policy: key.policy.as_deref().unwrap_or_default().to_owned(),
        rule: key.rule.map_or(0, |rule| rule.saturating_add(1)),
        reason: key.reason.code().to_owned(),
        count: shadow.seen.count,
        first_seen: shadow.seen.first,
        last_seen: shadow.seen.last,
        last_peer: shadow.last_peer.as_deref().unwrap_or_default().to_owned(),
    }
}

fn verdict(verdict: Verdict) -> ReportVerdict {
    match verdict {
        Verdict::Allow => ReportVerdict::Allow,
        Verdict::Deny => ReportVerdict::Deny,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(address: [u8; 4], refused: bool, now: i64) -> Notes {
        let mut notes = Notes::default();
        notes.plaintext((address.into(), 80, refused), Seen::once(now));
        notes
    }

    #[test]
    fn a_batch_holds_totals_of_what_changed_and_nothing_else() {
        let mut totals = Totals::default();
        assert!(totals.batch().is_none());
        totals.add(notes([10, 0, 0, 1], false, 5));
        totals.add(notes([10, 0, 0, 1], true, 7));
        totals.add(notes([10, 0, 0, 2], false, 7));
        assert_eq!(totals.batch().unwrap().plaintext_callers.len(), 2);
        assert!(totals.batch().is_none(), "sent once");
        totals.add(notes([10, 0, 0, 1], false, 9));
        let batch = totals.batch().unwrap();
        let [caller] = &batch.plaintext_callers[..] else {
            panic!("{batch:?}");
        };
        assert_eq!((caller.admitted, caller.refused), (2, 1));
        assert_eq!((caller.first_seen, caller.last_seen), (5, 9));
        totals.renew();
        assert_eq!(totals.batch().unwrap().plaintext_callers.len(), 2);
    }

    #[test]
    fn a_full_table_makes_room_for_what_is_new_only_from_what_is_old() {
        let mut totals = Totals::default();
        let address = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        for n in 0..MAX_ENTRIES + 3 {
            totals.add(notes(address(n), false, 100));
        }
        let mut sent = 0;
        while let Some(batch) = totals.batch() {
            assert!(batch.plaintext_callers.len() <= MAX_BATCH);
            assert_eq!(batch.overflow, 3);
            sent += batch.plaintext_callers.len();
        }
        assert_eq!(sent, MAX_ENTRIES);
        totals.add(notes(address(MAX_ENTRIES + 9), false, 101 + STALE));
        assert_eq!(totals.batch().unwrap().plaintext_callers.len(), 1);
    }
}
