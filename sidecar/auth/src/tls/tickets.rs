//! Session tickets of a server (RFC 8446 §4.6.1): what lets a client that was verified come back without certificates.
//!
//! Tickets are sealed under a key that is born with the configuration they belong to and dies with it. A configuration
//! stands for one own SVID, one set of bundles and one set of revocations, on one listener; a ticket from before a change
//! of any of them, from another listener or from another sidecar cannot be opened, and what cannot be opened leads to a
//! full handshake. So does a ticket whose client would not be let in by its certificates now.
//!
//! The client's certificates are not in the ticket, which the client has to send and both sides to hash: it has the name of
//! their chain, under which the cache of verified chains keeps them for as long as bundles, times and places permit. A chain
//! that is not there any more has to be shown again.
//!
//! The key lives for a day at most, so that no session is resumed, and resumed again, for longer than that without a full
//! handshake (RFC 8446 §8.1, appendix C.4 leave it to the server).
//!
//! No early data. The key exchange is done anew each time (`psk_dhe_ke`), so the key of the tickets opens no recorded
//! connection.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::Trust;
use crate::svid::{ChainName, Usage, VerifiedPeer, seconds};

/// Most seconds that a ticket is good for.
const MAX_AGE: i64 = 3600;
/// Most seconds from a full handshake to the last one that goes back to it, ticket by ticket.
pub(super) const MAX_LINEAGE: i64 = 24 * 3600;
/// Longest session without its chain, bytes: the client has to send it in its first message.
const MAX_REST: usize = 1024;

/// What seals tickets, for a while.
struct Seal {
    key: LessSafeKey,
    /// When it was made, Unix seconds.
    born: i64,
}

impl Seal {
    fn new(born: i64) -> Result<Self, rustls::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice())
            .map_err(|_| rustls::Error::General("the key of the session tickets".into()))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            born,
        })
    }

    /// True while it seals and opens at `now`, Unix seconds. A clock that was set back makes no key live longer.
    fn is_good(&self, now: i64) -> bool {
        (self.born..self.born.saturating_add(MAX_LINEAGE)).contains(&now)
    }
}

/// Seals and opens the tickets of one configuration.
pub(super) struct Tickets {
    seal: ArcSwap<Seal>,
    pub(super) trust: Trust,
    own_not_after: i64,
    clock: Arc<dyn TimeProvider>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("own_not_after", &self.own_not_after)
            .finish_non_exhaustive()
    }
}

impl Tickets {
    /// Tickets of a server whose certificate ends at `own_not_after` (Unix seconds), for clients that `trust` believes.
    ///
    /// # Errors
    /// There is no randomness.
    pub(super) fn new(
        trust: Trust,
        own_not_after: i64,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        let now = clock.current_time().map_or(0, seconds);
        Ok(Self {
            seal: ArcSwap::from_pointee(Seal::new(now)?),
            trust,
            own_not_after,
            clock,
        })
    }

    /// Until when a ticket for the peer is good. `None`: it would not be.
    fn ends(&self, peer: &VerifiedPeer, now: i64) -> Option<i64> {
        let ends = (now + MAX_AGE)
            .min(self.own_not_after)
            .min(peer.not_after());
        (ends > now).then_some(ends)
    }

    /// What seals at `now`, Unix seconds. Of two workers that make one at the same time the later's counts.
    fn seal(&self, now: i64) -> Option<Arc<Seal>> {
        let held = self.seal.load();
        if held.is_good(now) {
            return Some(Arc::clone(&held));
        }
        let next = Arc::new(Seal::new(now).ok()?);
        self.seal.store(Arc::clone(&next));
        Some(next)
    }

    fn open(&self, ticket: &[u8], now: i64) -> Option<Zeroizing<Vec<u8>>> {
        let seal = self.seal.load();
        if !seal.is_good(now) {
            return None;
        }
        let (nonce, sealed) = ticket.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let length = seal
            .key
            .open_in_place(nonce, Aad::empty(), &mut opened)
            .ok()?
            .len();
        opened.truncate(length);
        Some(opened)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let now = self.clock.current_time().map_or(i64::MAX, seconds);
        let left = self.own_not_after.saturating_sub(now).clamp(0, MAX_AGE);
        u32::try_from(left).unwrap_or(0)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.current_time()?;
        let Parts {
            before,
            written,
            chain,
            after,
        } = Parts::of(session)?;
        if before.len() + after.len() > MAX_REST {
            return None;
        }
        let (peer, name) = self.trust.keep(&chain, Usage::Client, now, written)?;
        let now = seconds(now);
        let head = Head {
            ends: self.ends(&peer, now)?,
            before: u16::try_from(before.len()).ok()?,
            name,
        };
        let seal = self.seal(now)?;
        // Random: there is no day with so many tickets that two have one (2^32, NIST SP 800-38D §8.3). From the library, which
        // knows when its process became two: one nonce twice would give the seal away.
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        // One buffer for everything: grown, it would leave a copy of the secret behind.
        let length = NONCE_LEN + Head::LENGTH + before.len() + after.len();
        let mut ticket = Zeroizing::new(Vec::with_capacity(length + AES_256_GCM.tag_len()));
        ticket.extend(nonce);
        head.write(&mut ticket);
        ticket.extend(before);
        ticket.extend(after);
        let tag = seal
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut ticket[NONCE_LEN..],
            )
            .ok()?;
        ticket.extend(tag.as_ref());
        Some(std::mem::take(&mut *ticket))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let time = self.clock.current_time()?;
        let now = seconds(time);
        let opened = self.open(ticket, now)?;
        let (head, rest) = Head::read(&opened)?;
        if now >= head.ends {
            return None;
        }
        let (peer, written) = self.trust.kept(&head.name, time)?;
        self.ends(&peer, now)?;
        let (before, after) = rest.split_at_checked(head.before.into())?;
        Some([before, &written, after].concat())
    }
}

/// What a ticket says ahead of the session.
struct Head {
    /// The end of its life, Unix seconds.
    ends: i64,
    /// Bytes of the session before the chain.
    before: u16,
    name: ChainName,
}

impl Head {
    const LENGTH: usize = size_of::<i64>() + size_of::<u16>() + size_of::<ChainName>();

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.ends.to_be_bytes());
        to.extend(self.before.to_be_bytes());
        to.extend(self.name);
    }

    fn read(from: &[u8]) -> Option<(Self, &[u8])> {
        let (ends, rest) = from.split_first_chunk()?;
        let (before, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_first_chunk()?;
        let head = Self {
            ends: i64::from_be_bytes(*ends),
            before: u16::from_be_bytes(*before),
            name: *name,
        };
        Some((head, rest))
    }
}

/// A session as rustls writes it down, by its parts.
struct Parts<'a> {
    before: &'a [u8],
    /// The client's certificates with their lengths.
    written: &'a [u8],
    /// The same, read.
    chain: Vec<CertificateDer<'a>>,
    after: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` for a session without certificates, and for what is written in another way: then there are no tickets.
    fn of(session: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(session);
        if rest.flag()? {
            // The server name.
            rest.counted(1)?;
        }
        // Version, cipher suite, secret, whether the extended master secret was used.
        rest.take(4)?;
        rest.counted(1)?;
        rest.flag()?;
        if !rest.flag()? {
            return None;
        }
        let from = session.len() - rest.0.len();
        let mut certificates = Reader(rest.counted(3)?);
        let mut chain = Vec::new();
        while !certificates.0.is_empty() {
            chain.push(CertificateDer::from(certificates.counted(3)?));
        }
        let (before, written) = session.split_at(from);
        let (written, after) = written.split_at(written.len() - rest.0.len());
        if rest.flag()? {
            // The application protocol.
            rest.counted(1)?;
        }
        // What the application added; when the session began; what hides its age.
        rest.counted(2)?;
        rest.take(12)?;
        rest.0.is_empty().then_some(Self {
            before,
            written,
            chain,
            after,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// Bytes behind a count of them that is `width` bytes wide.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = self.take(width)?;
        let count = count
            .iter()
            .fold(0, |count, byte| count << 8 | usize::from(*byte));
        self.take(count)
    }
}
