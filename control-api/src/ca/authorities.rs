//! The authorities of the trust domain: the one that signs and, while roots change, the one to come or the one that goes.
//!
//! A change of roots has three steps, each one transaction: *prepare* makes the next authority and has everybody trust it,
//! *activate* lets it sign, *retire* ends trust in the one before. Files are written before the transaction that names them
//! and removed after the one that no longer does, so that a crash leaves the step done or not begun. Whether a step may be
//! taken is decided elsewhere.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_auth::bundle::{self, BundleError, TrustBundle, TrustBundles};
use mesh_auth::svid::{self, Usage};
use mesh_auth::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use super::authority::{BACKDATE, hex, pem};
use super::{Authority, CaError};
use crate::store::roots::{self, RootRecord, RootsRecord};
use crate::store::{Store, StoreError, failed};

/// Where a change of roots stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One root, and nothing to do.
    Idle,
    /// The next root is trusted and does not sign yet.
    Prepared,
    /// The next root signs, the one before is still trusted.
    Activated,
}

impl Phase {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Prepared => "prepared",
            Self::Activated => "activated",
        }
    }
}

/// Why a step of a change of roots was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Another step comes first.
    #[error("the change of roots is in phase '{}': {next}", phase.as_str())]
    Order {
        /// Where it stands.
        phase: Phase,
        /// What to do instead.
        next: &'static str,
    },
    /// The authority cannot be made.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is in force.
pub struct State {
    record: RootsRecord,
    signing: Arc<Authority>,
    /// Prepared or retiring.
    other: Option<Arc<Authority>>,
}

impl State {
    /// Where a change of roots stands.
    pub fn phase(&self) -> Phase {
        match (&self.record.prepared, &self.record.retiring) {
            (Some(_), _) => Phase::Prepared,
            (None, Some(_)) => Phase::Activated,
            (None, None) => Phase::Idle,
        }
    }

    /// The state as it is stored.
    pub fn record(&self) -> &RootsRecord {
        &self.record
    }

    /// The authority that signs.
    pub fn signing(&self) -> &Arc<Authority> {
        &self.signing
    }

    /// The prepared or the retiring one.
    pub fn other(&self) -> Option<&Arc<Authority>> {
        self.other.as_ref()
    }

    /// Every trusted root; the one that signs comes first.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let all = std::iter::once(&self.signing).chain(&self.other);
        all.map(|authority| authority.root().clone()).collect()
    }

    /// Certificates whose notBefore is lower are to be replaced; 0: none are.
    pub fn renew_before(&self) -> i64 {
        // One more: of two certificates made in the second of the change, one has the old root.
        let since = |_: &RootRecord| self.record.signing.since - BACKDATE + 1;
        self.record.retiring.as_ref().map_or(0, since)
    }
}

/// The owner of the authorities.
pub struct Authorities {
    dir: PathBuf,
    domain: TrustDomain,
    store: Arc<Store>,
    state: ArcSwap<State>,
    /// Roots of somebody else who signs for workloads of the trust domain.
    others: Vec<CertificateDer<'static>>,
    /// Namespaces of the workloads that they vouch for, as [`bundle::is_within`] takes them.
    others_namespaces: Vec<String>,
    /// One step at a time.
    turn: Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Authorities {
    /// The authorities that a store names, with `signing` opened already. `record` is what the store says; `None` for a new
    /// mesh, whose first authority is recorded now.
    ///
    /// # Errors
    /// A file is missing or wrong, or the store failed.
    pub fn open(
        dir: PathBuf,
        store: Arc<Store>,
        signing: Authority,
        record: Option<RootsRecord>,
        now: i64,
    ) -> Result<Self, StepError> {
        let record = match record {
            Some(record) => record,
            None => {
                let record = RootsRecord {
                    signing: RootRecord {
                        sha256: signing.root_sha256(),
                        files: roots::FIRST.to_owned(),
                        since: now,
                        bridge: vec![],
                    },
                    prepared: None,
                    retiring: None,
                    spread: 0,
                    leftovers: vec![],
                };
                store.write(|write| roots::save(write, &record))?;
                record
            }
        };
        let domain = signing.trust_domain().clone();
        let other = record.prepared.as_ref().or(record.retiring.as_ref());
        let other = other
            .map(|other| Authority::load_named(&dir, &domain, other, now).map(Arc::new))
            .transpose()?;
        let this = Self {
            dir,
            domain,
            store,
            state: ArcSwap::from_pointee(State {
                record,
                signing: Arc::new(signing),
                other,
            }),
            others: vec![],
            others_namespaces: vec![],
            turn: Mutex::new(()),
            changes: watch::Sender::new(0),
        };
        this.remove_leftovers()?;
        Ok(this)
    }

    /// Believes roots of somebody else, SPIRE say, who signs for workloads of these namespaces of the same trust domain and for
    /// nobody else: see [`Self::vouch_for`].
    ///
    /// # Errors
    /// One cannot be used as a root.
    pub fn with_others(
        mut self,
        others: Vec<CertificateDer<'static>>,
        namespaces: Vec<String>,
    ) -> Result<Self, BundleError> {
        self.others = others;
        self.others_namespaces = namespaces;
        self.bundle(0)?;
        Ok(self)
    }

    /// The roots of others who sign for workloads.
    pub fn others(&self) -> &[CertificateDer<'static>] {
        &self.others
    }

    /// Namespaces of the workloads that they sign for; `*`: every identity.
    pub fn others_namespaces(&self) -> &[String] {
        &self.others_namespaces
    }

    /// What is in force.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The authority that signs.
    pub fn signing(&self) -> Arc<Authority> {
        Arc::clone(&self.state.load().signing)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Changes with every step.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Every root that a workload can be verified by: the own ones, then those of others.
    ///
    /// # Errors
    /// A root cannot be used as one.
    pub fn bundle(&self, sequence: u64) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.domain.clone(), self.state().roots(), sequence)?
            .with_workload_roots(self.others.clone(), &self.others_namespaces)
    }

    /// Whether the others may vouch for `id`.
    pub fn others_vouch_for(&self, id: &SpiffeId) -> bool {
        !self.others.is_empty() && bundle::is_within(id, &self.others_namespaces)
    }

    /// Whether a client's chain, verified already by [`Self::bundle`], ends at an own root. One that does not is a workload's,
    /// whatever name it carries.
    pub fn vouch_for(&self, chain: &[CertificateDer<'_>], now: i64) -> bool {
        if self.others.is_empty() {
            return true;
        }
        let own = TrustBundle::new(self.domain.clone(), self.state().roots(), 0);
        let mut bundles = TrustBundles::default();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        own.and_then(|own| bundles.insert(own)).is_ok()
            && svid::verify(chain, Usage::Client, &bundles, at).is_ok()
    }

    /// The own roots, PEM.
    pub fn bundle_pem(&self) -> String {
        let roots = self.state().roots();
        roots.iter().map(|root| pem("CERTIFICATE", root)).collect()
    }

    /// Makes the next authority and trusts it.
    ///
    /// # Errors
    /// A change of roots is under way already, or the authority cannot be made.
    pub fn prepare(&self, now: i64) -> Result<(), StepError> {
        let _turn = self.turn.lock().map_err(failed)?;
        let state = self.expect(Phase::Idle, "finish it before another one")?;
        let (next, files) = Authority::make_next(&self.dir, &self.domain, &state.signing, now)?;
        let prepared = RootRecord {
            sha256: next.root_sha256(),
            files,
            since: now,
            bridge: next.bridge().iter().map(|der| hex(der)).collect(),
        };
        let record = RootsRecord {
            prepared: Some(prepared),
            ..state.record.clone()
        };
        self.commit(State {
            record,
            signing: Arc::clone(&state.signing),
            other: Some(Arc::new(next)),
        })
    }

    /// Gives up the prepared authority, which has signed nothing.
    ///
    /// # Errors
    /// None is prepared, or the store failed.
    pub fn cancel(&self) -> Result<(), StepError> {
        let _turn = self.turn.lock().map_err(failed)?;
        let state = self.expect(Phase::Prepared, "there is nothing to cancel")?;
        let mut record = state.record.clone();
        record
            .leftovers
            .extend(record.prepared.take().map(|p| p.files));
        self.commit(State {
            record,
            signing: Arc::clone(&state.signing),
            other: None,
        })?;
        self.remove_leftovers()
    }

    /// Lets the prepared authority sign. Certificates of the one before are to be replaced over `spread` seconds.
    ///
    /// # Errors
    /// None is prepared, or the store failed.
    pub fn activate(&self, spread: u32, now: i64) -> Result<(), StepError> {
        let _turn = self.turn.lock().map_err(failed)?;
        let state = self.expect(Phase::Prepared, "prepare the next root first")?;
        let mut record = state.record.clone();
        let (Some(mut next), Some(other)) = (record.prepared.take(), state.other.clone()) else {
            return Err(failed("there is no prepared authority").into());
        };
        next.since = now;
        record.retiring = Some(std::mem::replace(&mut record.signing, next));
        record.spread = spread;
        self.commit(State {
            record,
            signing: other,
            other: Some(Arc::clone(&state.signing)),
        })
    }

    /// Ends trust in the authority before, and removes its key.
    ///
    /// # Errors
    /// None is retiring, or the store failed.
    pub fn retire(&self, now: i64) -> Result<(), StepError> {
        let _turn = self.turn.lock().map_err(failed)?;
        let state = self.expect(Phase::Activated, "activate the prepared root first")?;
        let mut record = state.record.clone();
        record
            .leftovers
            .extend(record.retiring.take().map(|r| r.files));
        // Nobody follows a bridge to a root that is gone.
        record.signing.bridge.clear();
        record.spread = 0;
        let signing = Authority::load_named(&self.dir, &self.domain, &record.signing, now)?;
        self.commit(State {
            record,
            signing: Arc::new(signing),
            other: None,
        })?;
        self.remove_leftovers()
    }

    fn expect(&self, phase: Phase, otherwise: &'static str) -> Result<Arc<State>, StepError> {
        let state = self.state();
        if state.phase() == phase {
            return Ok(state);
        }
        Err(StepError::Order {
            phase: state.phase(),
            next: otherwise,
        })
    }

    fn commit(&self, state: State) -> Result<(), StepError> {
        self.store
            .write(|write| roots::save(write, &state.record))?;
        self.state.store(Arc::new(state));
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Removes the files of authorities that are gone: their keys could still forge for whoever has not heard.
    fn remove_leftovers(&self) -> Result<(), StepError> {
        let state = self.state();
        if state.record.leftovers.is_empty() {
            return Ok(());
        }
        for name in &state.record.leftovers {
            for extension in ["key", "pem"] {
                let path = self.dir.join(format!("{name}.{extension}"));
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), %error, "a file of a retired authority cannot be removed; it is tried again at the next start");
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
        let record = RootsRecord {
            leftovers: vec![],
            ..state.record.clone()
        };
        self.store.write(|write| roots::save(write, &record))?;
        self.state.store(Arc::new(State {
            record,
            signing: Arc::clone(&state.signing),
            other: state.other.clone(),
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
