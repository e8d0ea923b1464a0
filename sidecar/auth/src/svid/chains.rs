//! Chains that were verified, so that a peer that comes again costs neither the signature checks of its chain nor the
//! reading of its certificates.
//!
//! A cache belongs to one set of bundles and verifies against no other, so that a change of bundles is another cache. An
//! entry is found by the SHA-256 of the whole chain and what the peer acts as, and is good while every certificate of the
//! path that was found is valid, its root included. Refusals are not remembered. Revocation is not looked at here, and
//! possession of the key is what every handshake proves anew.
//!
//! Lock-free and bounded: a look-up reads a few slots, an insertion replaces one.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{SvidError, Usage, Validity, VerifiedPeer, check_size, seconds};
use crate::bundle::TrustBundles;
use crate::prepared::PreparedKeys;

/// Slots that one chain may be in.
const WAYS: usize = 4;
/// Chains that are remembered.
const CAPACITY: usize = 4096;
/// Longest chain of which is kept how it is written, bytes.
const MAX_WRITTEN: usize = 4 * 1024;
/// Bytes that all of them may have: of 3,000 chains with one signer, and less than what would be felt. Whoever is one too many
/// is known, and gets no ticket.
const MAX_WRITTEN_IN_ALL: usize = 2 * 1024 * 1024;

/// How often the chain that a handshake presented was known.
#[derive(Debug, Default)]
pub struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl Tally {
    /// Look-ups that found a chain.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Look-ups that found none and verified it; refusals are not counted.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Chains that were still good and gave their place to another.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Entry {
    name: ChainName,
    validity: Validity,
    peer: VerifiedPeer,
    /// How the chain is written where it is to be written again.
    written: OnceLock<Written>,
}

#[derive(Debug)]
struct Written {
    bytes: Arc<[u8]>,
    in_all: Arc<AtomicUsize>,
}

impl Written {
    /// None if that would be too much.
    fn new(bytes: &[u8], in_all: &Arc<AtomicUsize>) -> Option<Self> {
        let before = in_all.load(Ordering::Relaxed);
        if bytes.len() > MAX_WRITTEN || before + bytes.len() > MAX_WRITTEN_IN_ALL {
            return None;
        }
        in_all.fetch_add(bytes.len(), Ordering::Relaxed);
        Some(Self {
            bytes: bytes.into(),
            in_all: Arc::clone(in_all),
        })
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.in_all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Entry {
    fn new(name: ChainName, validity: Validity, peer: VerifiedPeer) -> Self {
        Self {
            name,
            validity,
            peer,
            written: OnceLock::new(),
        }
    }
}

/// Names a chain and a use of it: the SHA-256 of its spelling.
pub(crate) type ChainName = [u8; 32];

/// Since when a chain is known to be good.
enum Known {
    Before,
    Now,
}

/// Roots to believe, and the chains that were found to lead to them.
#[derive(Debug, Default)]
pub struct VerifiedChains {
    bundles: Arc<TrustBundles>,
    /// Empty: nothing is remembered.
    slots: Box<[ArcSwapOption<Entry>]>,
    turn: AtomicUsize,
    tally: Arc<Tally>,
    /// Bytes of what is kept with chains.
    written: Arc<AtomicUsize>,
    /// Of signers by their points, of peers by their certificates.
    keys: PreparedKeys,
}

impl VerifiedChains {
    /// Remembers chains that lead to `bundles`, and counts in `tally`.
    pub fn new(bundles: Arc<TrustBundles>, tally: Arc<Tally>) -> Self {
        Self {
            bundles,
            slots: (0..CAPACITY).map(|_| ArcSwapOption::empty()).collect(),
            turn: AtomicUsize::new(0),
            tally,
            written: Arc::default(),
            keys: PreparedKeys::new(),
        }
    }

    /// Verifies every chain anew, for who meets few peers.
    pub fn forgetful(bundles: Arc<TrustBundles>) -> Self {
        Self {
            bundles,
            ..Self::default()
        }
    }

    /// The roots.
    pub fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Keys that came often.
    pub(crate) fn keys(&self) -> &PreparedKeys {
        &self.keys
    }

    /// Chains that are remembered. Looks at every place: not for the hot path.
    pub fn entries(&self) -> usize {
        let is_held = |slot: &&ArcSwapOption<Entry>| slot.load().is_some();
        self.slots.iter().filter(is_held).count()
    }

    /// Counts of look-ups, shared with the caches before and after this one.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Verifies the chain that a handshake presents at `now`, or knows that it was verified and is still valid.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        let (peer, known) = self.look(leaf, intermediates, usage, now)?;
        let tally = match known {
            Known::Before => &self.tally.hits,
            Known::Now => &self.tally.misses,
        };
        tally.fetch_add(1, Ordering::Relaxed);
        Ok(peer)
    }

    /// As [`VerifiedChains::verify`], of a chain that was verified before and that no handshake is waiting for: not counted.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn confirm(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedPeer, SvidError> {
        self.look(leaf, intermediates, usage, now)
            .map(|(peer, _)| peer)
    }

    /// Keeps with a known chain how it is `written`, for whoever has its name later. `None` if it is not known, or not valid
    /// at `now`, or if too much is kept already.
    pub(crate) fn keep(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
        written: &[u8],
    ) -> Option<(VerifiedPeer, ChainName)> {
        let (leaf, intermediates) = chain.split_first()?;
        let name = name_of(leaf, intermediates, usage);
        let keep = |entry: &Entry| {
            if entry.written.get().is_none() {
                // Of two workers that keep it at the same time one is too late, and it is kept.
                let _ = entry.written.set(Written::new(written, &self.written)?);
            }
            Some(entry.peer.clone())
        };
        let peer = self.recall(&name, seconds(now), keep)??;
        Some((peer, name))
    }

    /// The peer of a chain that is still known and valid at `now`, and how the chain is written, if that was kept.
    pub(crate) fn kept(
        &self,
        name: &ChainName,
        now: UnixTime,
    ) -> Option<(VerifiedPeer, Arc<[u8]>)> {
        let take =
            |entry: &Entry| Some((entry.peer.clone(), Arc::clone(&entry.written.get()?.bytes)));
        self.recall(name, seconds(now), take)?
    }

    fn look(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(VerifiedPeer, Known), SvidError> {
        check_size(std::iter::once(leaf).chain(intermediates))?;
        let verify = || {
            let chain = whole(leaf, intermediates);
            super::verify_with_validity(&chain, usage, &self.bundles, Some(&self.keys), now)
        };
        if self.slots.is_empty() {
            return verify().map(|(peer, _)| (peer, Known::Now));
        }
        let name = name_of(leaf, intermediates, usage);
        if let Some(peer) = self.recall(&name, seconds(now), |entry| entry.peer.clone()) {
            return Ok((peer, Known::Before));
        }
        let (peer, validity) = verify()?;
        self.remember(Entry::new(name, validity, peer.clone()), seconds(now));
        Ok((peer, Known::Now))
    }

    /// What `take` takes of the entry of a chain that is valid at `now`, Unix seconds.
    fn recall<T>(&self, name: &ChainName, now: i64, take: impl Fn(&Entry) -> T) -> Option<T> {
        self.ways(name).iter().find_map(|slot| {
            let entry = slot.load();
            let entry = entry.as_ref().filter(|entry| entry.name == *name)?;
            let valid = entry.validity.contains(&now);
            valid.then(|| take(entry))
        })
    }

    /// None where nothing is remembered.
    fn ways(&self, name: &ChainName) -> &[ArcSwapOption<Entry>] {
        let Some(sets) = NonZeroUsize::new(self.slots.len() / WAYS) else {
            return &[];
        };
        let set = usize::from(u16::from_le_bytes([name[0], name[1]])) % sets;
        &self.slots[set * WAYS..][..WAYS]
    }

    fn remember(&self, entry: Entry, now: i64) {
        let ways = self.ways(&entry.name);
        // Another worker was faster, and may have given a ticket that names it.
        if self.recall(&entry.name, now, |_| ()).is_some() {
            return;
        }
        let is_free = |slot: &&ArcSwapOption<Entry>| {
            let held = slot.load();
            held.as_ref()
                .is_none_or(|held| held.name == entry.name || *held.validity.end() < now)
        };
        let slot = ways.iter().find(is_free).unwrap_or_else(|| {
            self.tally.evictions.fetch_add(1, Ordering::Relaxed);
            &ways[self.turn.fetch_add(1, Ordering::Relaxed) % ways.len()]
        });
        slot.store(Some(Arc::new(entry)));
    }
}

/// The chain, leaf first. Copies no certificate.
fn whole<'a>(
    leaf: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(&**leaf)
        .chain(intermediates.iter().map(|certificate| &**certificate))
        .map(CertificateDer::from)
        .collect()
}

/// Chains up to this size are kept to be recognised, bytes.
const MAX_RECOGNISED: usize = 4 * 1024;

thread_local! {
    /// The chain that was named last: a handshake asks for the name of one chain up to three times.
    static LAST: RefCell<Named> = const { RefCell::new(Named { spelled: Vec::new(), name: [0; 32] }) };
}

struct Named {
    /// What was digested.
    spelled: Vec<u8>,
    name: ChainName,
}

fn name_of(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
) -> ChainName {
    LAST.with_borrow_mut(|last| {
        if is_spelled(&last.spelled, leaf, intermediates, usage) {
            return last.name;
        }
        last.spelled.clear();
        for part in spelling(leaf, intermediates, usage) {
            last.spelled.extend_from_slice(part.as_ref());
        }
        let digest = digest::digest(&digest::SHA256, &last.spelled);
        last.name.copy_from_slice(digest.as_ref());
        if last.spelled.len() > MAX_RECOGNISED {
            last.spelled = Vec::new();
        }
        last.name
    })
}

/// Lengths go in, so that no two chains are spelled alike.
fn spelling<'a>(
    leaf: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
    usage: Usage,
) -> impl Iterator<Item = Part<'a>> {
    let usage = match usage {
        Usage::Client => 0,
        Usage::Server => 1,
    };
    let certificates = std::iter::once(leaf).chain(intermediates);
    let certificates = certificates.flat_map(|certificate| {
        [
            Part::Number(certificate.len().to_be_bytes()),
            Part::Bytes(certificate),
        ]
    });
    std::iter::once(Part::Number(usize::to_be_bytes(usage))).chain(certificates)
}

/// A part of a spelling.
enum Part<'a> {
    Number([u8; size_of::<usize>()]),
    Bytes(&'a [u8]),
}

impl AsRef<[u8]> for Part<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Number(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn is_spelled(
    spelled: &[u8],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
) -> bool {
    let mut rest = spelled;
    for part in spelling(leaf, intermediates, usage) {
        match rest.strip_prefix(part.as_ref()) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
