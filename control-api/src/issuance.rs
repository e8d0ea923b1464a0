//! Certificates for what a caller proved: by attestation, or the identity it has already.
//!
//! Proof, serial number, key and certificate go into the store in one transaction, before the caller sees anything.

use std::sync::Arc;
use std::time::Duration;

use mesh_auth::svid::VerifiedPeer;
use redb::WriteTransaction;

use crate::attest::{AttestError, Proven};
use crate::ca::{Authorities, CaError, Issued, RequestError, RequestedKey, Serial, hex};
use crate::registry::{Registered, Registry};
use crate::status::Tracker;
use crate::store::issued::{self, IssuedRecord};
use crate::store::tokens;
use crate::store::{Store, StoreError};

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The proof proves nothing.
    #[error(transparent)]
    Proof(#[from] AttestError),
    /// The request asks for what it may not.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The key speaks for somebody else already.
    #[error(
        "certificate request refused: its key is in use by another identity: make a key for each workload"
    )]
    KeyReused,
    /// The workload is not, or no longer, registered with the identity.
    #[error("no workload{} is registered with identity '{id}'", workload.as_ref().map(|w| format!(" '{w}'")).unwrap_or_default())]
    NotRegistered {
        /// Workload, where one was named.
        workload: Option<String>,
        /// Identity.
        id: String,
    },
    /// It was proven to another authority, which does not vouch for it any more.
    #[error(
        "'{0}' was proven by a certificate of another authority, which is not among --workload-roots, or not for its namespace, any more: prove it anew"
    )]
    Unvouched(String),
    /// The identity is revoked.
    #[error("{0}")]
    Revoked(String),
    /// The authority does not sign.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long something issued may last.
#[derive(Clone, Copy)]
struct Term {
    lifetime: Duration,
    /// As [`IssuedRecord::bound`].
    bound: i64,
}

impl Term {
    fn free(lifetime: Duration) -> Self {
        Self { lifetime, bound: 0 }
    }

    fn from(self, now: i64) -> Duration {
        let left = Duration::from_secs(u64::try_from(self.bound - now).unwrap_or(0));
        match self.bound {
            0 => self.lifetime,
            _ => self.lifetime.min(left),
        }
    }
}

/// An issued certificate and whom it is for.
#[derive(Debug)]
pub struct Granted {
    /// The certificate.
    pub issued: Issued,
    /// Whom it is for.
    pub workload: Arc<Registered>,
}

/// Issues certificates to registered workloads.
pub struct Issuance {
    /// Signs.
    pub authorities: Arc<Authorities>,
    /// Holds tokens and records what was issued.
    pub store: Arc<Store>,
    /// Knows the workloads.
    pub registry: Arc<Registry>,
    /// Told the ends of certificates.
    pub tracker: Arc<Tracker>,
    /// Default and longest lifetime.
    pub lifetime: Duration,
}

impl Issuance {
    /// For the workload that was proven. What can be used once is used up with the certificate, or not at all.
    ///
    /// # Errors
    /// Why not.
    pub fn by_proof(
        &self,
        proven: &dyn Proven,
        request: &[u8],
        lifetime: Duration,
        now: i64,
    ) -> Result<Granted, IssueError> {
        let key = RequestedKey::parse(request)?;
        let granted = self.store.write(|write| {
            let serial = unused_serial(write)?;
            let subject = proven.redeem(write, &serial.to_hex(), now)?;
            let world = self.registry.world();
            let registered = match &subject.workload {
                Some(workload) => world.workload(workload),
                None => world.workloads().find(|w| w.id.as_str() == subject.id),
            };
            let workload = registered
                .filter(|w| w.id.as_str() == subject.id)
                .cloned()
                .ok_or(IssueError::NotRegistered {
                    workload: subject.workload,
                    id: subject.id,
                })?;
            self.issue(write, &key, workload, &serial, Term::free(lifetime), now)
        })?;
        Ok(self.granted(granted))
    }

    /// For the workload that a verified peer is. `only_by_others`: another authority vouches for it, so that what is issued,
    /// and whatever is issued for that, ends with the peer's certificate.
    ///
    /// # Errors
    /// Why not.
    pub fn by_peer(
        &self,
        peer: &VerifiedPeer,
        only_by_others: bool,
        request: &[u8],
        lifetime: Duration,
        now: i64,
    ) -> Result<Granted, IssueError> {
        let (workload, recorded) = self.recognize(peer, now)?;
        let key = RequestedKey::parse(request)?;
        let bound = match recorded {
            _ if only_by_others => peer.not_after(),
            Some(bound) => bound,
            // Who vouched is not known of certificates that were issued before it was noted, or that the store knows nothing
            // of: where others may have, also if they do not any more, what is issued for one ends with it.
            None if self.store.read(issued::others_were_believed)? => peer.not_after(),
            None => 0,
        };
        let granted = self.store.write(|write| {
            let serial = unused_serial(write)?;
            let term = Term { lifetime, bound };
            self.issue(write, &key, workload, &serial, term, now)
        })?;
        Ok(self.granted(granted))
    }

    /// The workload that a verified peer is, for whom anything may be issued. Several can share an identity: the one that
    /// the peer's certificate was issued to, else the first.
    ///
    /// # Errors
    /// There is none, the peer is revoked, the authority that vouched for it does so no longer, or the store failed.
    pub fn workload_of(
        &self,
        peer: &VerifiedPeer,
        now: i64,
    ) -> Result<Arc<Registered>, IssueError> {
        self.recognize(peer, now).map(|(workload, _)| workload)
    }

    /// [`Self::workload_of`] a peer, and the bound on record of what is issued on the strength of its certificate, if there is
    /// such a record.
    fn recognize(
        &self,
        peer: &VerifiedPeer,
        now: i64,
    ) -> Result<(Arc<Registered>, Option<i64>), IssueError> {
        let world = self.registry.world();
        world
            .refuse_revoked(peer, now)
            .map_err(|status| IssueError::Revoked(status.message().to_owned()))?;
        let record = self
            .store
            .read(|read| issued::get(read, &hex(peer.serial())))?;
        let bound = record.as_ref().and_then(|record| record.bound);
        if bound.is_some_and(|bound| bound != 0) && !self.authorities.others_vouch_for(peer.id()) {
            return Err(IssueError::Unvouched(peer.id().to_string()));
        }
        let recorded = record
            .and_then(|r| world.workload(&r.workload))
            .filter(|w| w.id == *peer.id());
        let workload = recorded
            .or_else(|| world.workloads().find(|w| w.id == *peer.id()))
            .cloned()
            .ok_or_else(|| IssueError::NotRegistered {
                workload: None,
                id: peer.id().to_string(),
            })?;
        Ok((workload, bound))
    }

    fn issue(
        &self,
        write: &WriteTransaction,
        key: &RequestedKey,
        workload: Arc<Registered>,
        serial: &Serial,
        term: Term,
        now: i64,
    ) -> Result<Granted, IssueError> {
        // In the transaction that signs: a revocation that was committed before is seen.
        self.registry
            .world()
            .refuse_revoked_identity(&workload.id, now)
            .map_err(|status| IssueError::Revoked(status.message().to_owned()))?;
        let fingerprint = hex(&key.fingerprint());
        if issued::identity_of_key(write, &fingerprint)?
            .is_some_and(|id| id != workload.id.as_str())
        {
            return Err(IssueError::KeyReused);
        }
        let authority = self.authorities.signing();
        let issued = authority.sign(key, &workload.id, term.from(now), serial, now)?;
        let record = IssuedRecord {
            workload: workload.uid.clone(),
            spiffe_id: workload.id.to_string(),
            issued_at: now,
            not_after: issued.not_after,
            root: authority.root_sha256(),
            bound: Some(term.bound),
        };
        issued::record(write, &issued.serial, &fingerprint, &record)?;
        Ok(Granted { issued, workload })
    }

    fn granted(&self, granted: Granted) -> Granted {
        self.tracker
            .certified(&granted.workload.uid, granted.issued.not_after);
        granted
    }

    /// Forgets what ended long ago.
    ///
    /// # Errors
    /// The store failed.
    pub fn forget_old(&self, now: i64) -> Result<(), StoreError> {
        self.store.write(|write| {
            tokens::forget_old(write, now)?;
            issued::forget_old(write, now)
        })
    }
}

fn unused_serial(write: &WriteTransaction) -> Result<Serial, IssueError> {
    loop {
        let serial = Serial::random()?;
        if !issued::is_used(write, &serial.to_hex())? {
            return Ok(serial);
        }
    }
}
