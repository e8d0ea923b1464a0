//! Change of roots: takes a step when nobody would be locked out by it, and names whom it would be.
//!
//! Owns the interlocks. *Activate* waits until every connected sidecar holds the bundle with the new root; *retire* waits
//! until no certificate that is in use leads to the old one. What a step changes is one transaction of
//! [`crate::ca::Authorities`]; what follows from it (bundle, own certificates, files) is derived and made again at every
//! start, so that a crash at any moment loses nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::ResourceType;
use mesh_proto::admin::{RotationStatusResponse, RotationStep, TrustedRoot, Waiting};

use crate::ca::{Authorities, Phase, State, StepError};
use crate::clock::Clock;
use crate::operator_files::OperatorFiles;
use crate::registry::Registry;
use crate::status::Tracker;
use crate::store::issued::{self, IssuedRecord};
use crate::store::{Store, StoreError};
use crate::trust::Trust;

/// Sidecars that replace their certificates in one second after a change of roots.
const RENEWALS_PER_SECOND: usize = 50;
/// Names in one message.
const NAMED: usize = 10;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Somebody would be locked out.
    #[error("{step} would lock out {}: {}; wait for them, or use --force", count(.waiting), named(.waiting))]
    Waiting {
        /// The step.
        step: &'static str,
        /// Whom.
        waiting: Vec<Waiting>,
    },
    /// Another step comes first, or it failed.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl From<StoreError> for RotationError {
    fn from(error: StoreError) -> Self {
        Self::Step(error.into())
    }
}

fn count(waiting: &[Waiting]) -> String {
    match waiting.len() {
        1 => "1 workload".into(),
        n => format!("{n} workloads"),
    }
}

fn named(waiting: &[Waiting]) -> String {
    let mut names: Vec<_> = waiting
        .iter()
        .take(NAMED)
        .map(|w| format!("{} ({})", w.workload, w.reason))
        .collect();
    if waiting.len() > NAMED {
        names.push("...".into());
    }
    names.join(", ")
}

/// Takes the steps.
#[derive(Clone)]
pub struct Rotation {
    /// What changes.
    pub authorities: Arc<Authorities>,
    /// Publishes it.
    pub trust: Trust,
    /// Told by it.
    pub registry: Arc<Registry>,
    /// Knows what sidecars hold.
    pub tracker: Arc<Tracker>,
    /// Knows what was issued.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Clock,
    /// Bundle and operator's certificate.
    pub files: Arc<Files>,
}

/// Files that follow a change of roots.
pub struct Files {
    /// Every trusted root, PEM.
    pub bundle: PathBuf,
    /// The operator's certificate.
    pub operator: OperatorFiles,
}

impl Rotation {
    /// Where it stands.
    ///
    /// # Errors
    /// The store failed.
    pub fn status(&self) -> Result<RotationStatusResponse, StoreError> {
        let state = self.authorities.state();
        let waiting = self.waiting(&state)?;
        Ok(RotationStatusResponse {
            phase: state.phase().as_str().to_owned(),
            next: name(next(state.phase())).to_owned(),
            roots: roots(&state),
            notes: self.notes(&state)?,
            bundle_revision: self.bundle_revision().unwrap_or(0),
            waiting,
        })
    }

    /// Takes a step, and says where that leads.
    ///
    /// # Errors
    /// It is not its turn, somebody would be locked out and it is not forced, or it failed.
    pub fn take(&self, step: RotationStep, force: bool) -> Result<(), RotationError> {
        let state = self.authorities.state();
        let step = match step {
            RotationStep::Next => next(state.phase()),
            step => step,
        };
        let now = self.clock.seconds();
        if force && let Some(before) = skipped(state.phase(), step) {
            self.take(before, true)?;
            return self.take(step, true);
        }
        if step == next(state.phase()) && !force {
            // Whoever holds nothing can only be told of what is published.
            self.trust.publish(&self.registry, now)?;
            let waiting = self.waiting(&state)?;
            if !waiting.is_empty() {
                let step = name(step);
                return Err(RotationError::Waiting { step, waiting });
            }
        }
        match step {
            RotationStep::Next | RotationStep::Prepare => self.authorities.prepare(now)?,
            RotationStep::Activate => {
                let connected = self.tracker.trusting().len();
                let spread = u32::try_from(connected / RENEWALS_PER_SECOND).unwrap_or(u32::MAX);
                self.authorities.activate(spread, now)?;
            }
            RotationStep::Retire => self.authorities.retire(now)?,
            RotationStep::Cancel => self.authorities.cancel()?,
        }
        tracing::info!(step = name(step), force, "change of roots");
        self.trust.publish(&self.registry, now)?;
        self.refresh_files();
        Ok(())
    }

    /// Writes the files that say what is trusted, and replaces an operator's certificate that will not be.
    pub fn refresh_files(&self) {
        let files = &self.files;
        let bundle = self.authorities.bundle_pem();
        if let Err(error) = crate::files::write(&files.bundle, bundle.as_bytes()) {
            tracing::error!(%error, "the trust bundle's file is not the one in force");
        }
        if let Err(error) = files
            .operator
            .refresh(&self.authorities, self.clock.seconds())
        {
            tracing::error!(
                error = format_args!("{error:#}"),
                "the operator's files are not the ones in force"
            );
        }
    }

    /// Revision that published the own bundle.
    fn bundle_revision(&self) -> Option<u64> {
        let world = self.registry.world();
        let domain = self.authorities.trust_domain().as_str();
        let entry = world.table(ResourceType::TrustBundle).get(domain)?;
        Some(entry.revision)
    }

    /// Whom the next step would lock out.
    fn waiting(&self, state: &State) -> Result<Vec<Waiting>, StoreError> {
        match state.phase() {
            Phase::Idle => Ok(vec![]),
            Phase::Prepared => Ok(self.without_bundle()),
            Phase::Activated => self.with_old_certificate(state),
        }
    }

    /// Connected sidecars that do not hold the bundle with the new root.
    fn without_bundle(&self) -> Vec<Waiting> {
        let wanted = self.bundle_revision();
        let trusting = self.tracker.trusting().into_iter();
        trusting
            .filter(|(_, held)| wanted.is_none() || held.bundle_revision < wanted)
            .map(|(workload, held)| Waiting {
                workload,
                connected: true,
                reason: match held.bundle_revision {
                    Some(revision) => format!("holds the trust bundle of revision {revision}"),
                    None => "has not acknowledged the trust bundle".into(),
                },
            })
            .collect()
    }

    /// Workloads whose certificate leads to the old root: the one that the sidecar's stream was opened with, or, of those
    /// that are away, the last one that was issued.
    fn with_old_certificate(&self, state: &State) -> Result<Vec<Waiting>, StoreError> {
        let now = self.clock.seconds();
        let old = |record: &IssuedRecord| leads_to_retiring(state, record);
        let trusting = self.tracker.trusting();
        let (latest, in_use) = self.store.read(|read| {
            let mut in_use = BTreeMap::new();
            for (workload, held) in &trusting {
                if let Some(record) = issued::get(read, &held.serial)? {
                    in_use.insert(workload.clone(), record);
                }
            }
            Ok((issued::latest(read)?, in_use))
        })?;
        let world = self.registry.world();
        let mut waiting: Vec<_> = in_use
            .iter()
            .filter(|(_, record)| old(record))
            .map(|(workload, _)| Waiting {
                workload: workload.clone(),
                connected: true,
                reason: "uses a certificate of the old root".into(),
            })
            .collect();
        let away = latest.into_iter().filter(|(workload, record)| {
            !trusting.contains_key(workload)
                && record.not_after > now
                && old(record)
                && world.workload(workload).is_some()
        });
        waiting.extend(away.map(|(workload, record)| Waiting {
            workload,
            connected: false,
            reason: format!(
                "is away and has a certificate of the old root for {} more seconds",
                record.not_after - now
            ),
        }));
        Ok(waiting)
    }

    fn notes(&self, state: &State) -> Result<Vec<String>, StoreError> {
        let mut notes = Vec::new();
        let now = self.clock.seconds();
        let trusting = self.tracker.trusting();
        let away: Vec<_> = self
            .store
            .read(issued::latest)?
            .into_iter()
            .filter(|(workload, r)| r.not_after > now && !trusting.contains_key(workload))
            .map(|(workload, _)| workload)
            .collect();
        let has_bridge = |record: Option<&crate::store::roots::RootRecord>| {
            record.is_some_and(|r| !r.bridge.is_empty())
        };
        match state.phase() {
            Phase::Idle => {}
            Phase::Prepared => {
                let follow = match has_bridge(state.record().prepared.as_ref()) {
                    true => {
                        "they will follow by the new root's certificate that the old one signed"
                    }
                    false => {
                        "they will not be able to follow, because the old root may not sign another"
                    }
                };
                if !away.is_empty() {
                    let list = away
                        .iter()
                        .take(NAMED)
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(", ");
                    notes.push(format!(
                        "{} with a certificate are away and have not heard of the new root: {list}; {follow}",
                        away.len()
                    ));
                }
            }
            Phase::Activated => {
                if !has_bridge(Some(&state.record().signing)) {
                    notes.push("the old root has not signed the new one: whoever missed the new bundle needs it by hand".into());
                }
                notes.push(format!(
                    "operators' certificates made before end with the old root; the new one is in {}",
                    self.files.operator.directory().display()
                ));
            }
        }
        Ok(notes)
    }
}

/// Whether a certificate ends with the retiring root.
fn leads_to_retiring(state: &State, record: &IssuedRecord) -> bool {
    // One without a root is from before roots could change.
    let retiring = state.record().retiring.as_ref();
    retiring.is_some_and(|old| old.sha256 == record.root || record.root.is_empty())
}

fn next(phase: Phase) -> RotationStep {
    match phase {
        Phase::Idle => RotationStep::Prepare,
        Phase::Prepared => RotationStep::Activate,
        Phase::Activated => RotationStep::Retire,
    }
}

/// The next step, where `step` comes later than that.
fn skipped(phase: Phase, step: RotationStep) -> Option<RotationStep> {
    let is_ahead = matches!(
        (phase, step),
        (Phase::Idle, RotationStep::Activate | RotationStep::Retire)
            | (Phase::Prepared, RotationStep::Retire)
    );
    is_ahead.then(|| next(phase))
}

fn name(step: RotationStep) -> &'static str {
    match step {
        RotationStep::Next => "next",
        RotationStep::Prepare => "prepare",
        RotationStep::Activate => "activate",
        RotationStep::Retire => "retire",
        RotationStep::Cancel => "cancel",
    }
}

fn roots(state: &State) -> Vec<TrustedRoot> {
    let record = state.record();
    let root = |role: &str, record: &crate::store::roots::RootRecord, not_after| TrustedRoot {
        sha256: record.sha256.clone(),
        role: role.to_owned(),
        since: record.since,
        not_after,
    };
    let mut roots = vec![root(
        "signing",
        &record.signing,
        state.signing().not_after(),
    )];
    let other = record
        .prepared
        .as_ref()
        .map(|r| ("prepared", r))
        .or(record.retiring.as_ref().map(|r| ("retiring", r)));
    if let (Some((role, record)), Some(authority)) = (other, state.other()) {
        roots.push(root(role, record, authority.not_after()));
    }
    roots
}
