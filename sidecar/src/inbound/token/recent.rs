//! Certificates that identities presented to this sidecar: a token that is bound to one stays good when its holder's
//! certificate rotates (RFC 8705 §3, with certificates that live shorter than tokens).
//!
//! Shared by the workers, for the next connection of an identity may be another worker's. It is written once per
//! connection, and read only for a token that names another certificate than its connection has; [`Source`] remembers the
//! answer. Bounded by time, and in certificates: what ends first goes first, so that nobody is forgotten for one identity
//! that rotates without end. It is not kept over a restart.
//!
//! [`Source`]: crate::inbound::source::Source

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use foldhash::fast::RandomState;
use mesh_auth::SpiffeId;

/// How long tokens outlive the certificate that they are bound to, seconds: a token is issued while its holder has the
/// certificate, so one that lives no longer than this is never refused for a rotation.
const TOKEN_LIFE: i64 = 24 * 3600;
/// Certificates remembered of one identity: of every replica, those of two days.
const MAX_OF_IDENTITY: usize = 1024;
/// Certificates remembered, about 70 bytes each.
const MAX_CERTIFICATES: usize = 65_536;

/// What the sidecar saw.
#[derive(Debug, Default)]
pub struct Recent(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    identities: HashMap<Box<str>, Seen, RandomState>,
    certificates: usize,
}

/// What one identity presented: until when each certificate counts.
#[derive(Debug, Default)]
struct Seen {
    until: HashMap<[u8; 32], i64, RandomState>,
    /// Nothing of it has ended before.
    first_end: i64,
}

impl Seen {
    fn keep_after(&mut self, moment: i64) {
        self.until.retain(|_, until| moment < *until);
        self.first_end = self.until.values().copied().min().unwrap_or(i64::MAX);
    }

    /// Forgets an eighth, what ends first: rare enough to be looked for among all.
    fn make_room(&mut self) {
        let mut ends: Vec<i64> = self.until.values().copied().collect();
        let mut excess = ends.len() / 8;
        let (_, last, _) = ends.select_nth_unstable(excess.saturating_sub(1));
        let last = *last;
        // Many may end in the same second.
        self.until.retain(|_, until| {
            let goes = *until <= last && excess > 0;
            excess -= usize::from(goes);
            !goes
        });
    }
}

impl Recent {
    /// At `now`, Unix seconds, `id` presented the certificate with this digest, which ends at `not_after`.
    pub fn note(&self, id: &SpiffeId, certificate: &[u8; 32], not_after: i64, now: i64) {
        // Most connections present what an earlier one did.
        if self.until(id, certificate, now).is_some() {
            return;
        }
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        held.add(id, *certificate, not_after.saturating_add(TOKEN_LIFE), now);
    }

    /// Until when a certificate counts that `id` presented, Unix seconds; `None` if it does not at `now`.
    pub fn until(&self, id: &SpiffeId, certificate: &[u8; 32], now: i64) -> Option<i64> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let seen = held.identities.get(id.as_str())?;
        let until = *seen.until.get(certificate)?;
        (now < until).then_some(until)
    }
}

impl Held {
    fn add(&mut self, id: &SpiffeId, certificate: [u8; 32], until: i64, now: i64) {
        if self.certificates >= MAX_CERTIFICATES {
            self.make_room(now);
        }
        let seen = match self.identities.get_mut(id.as_str()) {
            Some(seen) => seen,
            None => self.identities.entry(id.as_str().into()).or_default(),
        };
        self.certificates -= seen.until.len();
        if now >= seen.first_end {
            seen.keep_after(now);
        }
        if seen.until.len() >= MAX_OF_IDENTITY {
            seen.make_room();
        }
        seen.until.insert(certificate, until);
        seen.first_end = seen.first_end.min(until);
        self.certificates += seen.until.len();
    }

    /// Forgets what has ended; if that is less than a quarter, also the half that ends first, so that this is rare.
    fn make_room(&mut self, now: i64) {
        self.keep_after(now);
        if self.certificates > MAX_CERTIFICATES / 4 * 3 {
            let mut ends: Vec<i64> = self
                .identities
                .values()
                .flat_map(|seen| seen.until.values().copied())
                .collect();
            let middle = ends.len() / 2;
            let (_, median, _) = ends.select_nth_unstable(middle);
            self.keep_after(*median);
        }
    }

    fn keep_after(&mut self, moment: i64) {
        self.identities.retain(|_, seen| {
            seen.keep_after(moment);
            !seen.until.is_empty()
        });
        self.certificates = self.identities.values().map(|seen| seen.until.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const HOUR: i64 = 3600;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/ns/a/sa/{name}")).expect("an id")
    }

    fn certificate(number: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn a_certificate_counts_for_its_identity_as_long_as_a_token_bound_to_it_can_live() {
        let recent = Recent::default();
        let web = id("web");
        // One certificate an hour for a day: a count of the last few would forget the first ones.
        for i in 0..24 {
            let now = NOW + i64::try_from(i).unwrap() * HOUR;
            recent.note(&web, &certificate(i), now + HOUR, now);
        }
        let counts = |id: &SpiffeId, number, now| recent.until(id, &certificate(number), now);
        let end = NOW + HOUR + TOKEN_LIFE;
        assert_eq!(counts(&web, 0, NOW + 23 * HOUR), Some(end));
        assert_eq!(counts(&web, 0, end - 1), Some(end));
        assert_eq!(counts(&web, 0, end), None, "no token of its time lives");
        assert!(counts(&web, 23, end).is_some());
        assert_eq!(counts(&web, 24, NOW), None, "never presented");
        assert_eq!(counts(&id("orders"), 0, NOW), None, "by somebody else");
    }

    #[test]
    fn what_has_ended_is_forgotten_when_its_identity_comes_again() {
        let recent = Recent::default();
        for i in 0..3 {
            recent.note(&id("web"), &certificate(i), NOW, NOW);
        }
        let later = NOW + TOKEN_LIFE;
        recent.note(&id("web"), &certificate(9), later + HOUR, later);
        assert_eq!(recent.0.read().unwrap().certificates, 1);
    }

    #[test]
    fn an_identity_that_rotates_without_end_costs_only_its_own_oldest() {
        let recent = Recent::default();
        recent.note(&id("orders"), &certificate(0), NOW, NOW);
        for i in 0..2 * MAX_OF_IDENTITY {
            let not_after = NOW + i64::try_from(i).unwrap();
            recent.note(&id("web"), &certificate(i), not_after, NOW);
        }
        let counts = |name, number| recent.until(&id(name), &certificate(number), NOW).is_some();
        let of_web = recent.0.read().unwrap().certificates - 1;
        assert!(
            (MAX_OF_IDENTITY / 8 * 7..=MAX_OF_IDENTITY).contains(&of_web),
            "{of_web}"
        );
        for i in 2 * MAX_OF_IDENTITY - MAX_OF_IDENTITY / 8 * 7..2 * MAX_OF_IDENTITY {
            assert!(counts("web", i), "{i}");
        }
        assert!(counts("orders", 0));
        assert!(!counts("web", 0), "it would have ended first");
    }

    #[test]
    fn of_replicas_that_were_issued_in_one_second_few_are_forgotten_at_once() {
        let recent = Recent::default();
        for i in 0..=MAX_OF_IDENTITY {
            recent.note(&id("web"), &certificate(i), NOW, NOW);
        }
        let held = recent.0.read().unwrap().certificates;
        assert_eq!(held, MAX_OF_IDENTITY / 8 * 7 + 1);
    }

    #[test]
    fn when_there_is_no_room_what_ends_first_goes_first() {
        let recent = Recent::default();
        for i in 0..=MAX_CERTIFICATES {
            let not_after = NOW + i64::try_from(i).unwrap();
            let name = format!("w{}", i / 64);
            recent.note(&id(&name), &certificate(i), not_after, NOW);
        }
        let held = recent.0.read().unwrap().certificates;
        assert!(held <= MAX_CERTIFICATES, "{held}");
        assert!(held >= MAX_CERTIFICATES / 4, "{held}");
        let last = id(&format!("w{}", MAX_CERTIFICATES / 64));
        let until = recent.until(&last, &certificate(MAX_CERTIFICATES), NOW);
        assert!(until.is_some());
        assert_eq!(recent.until(&id("w0"), &certificate(0), NOW), None);
    }
}
