//! The owner of other trust domains' bundles: asks their sources, keeps the last good answer, refuses an older one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_auth::SpiffeId;
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::{TrustDomain, tls};
use mesh_manifest::{BundleSource, Federation, Resource};
use mesh_proto::mesh;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::document::{self, BundleDocument};
use crate::clock::Clock;
use crate::fetch::{Fetch, Fetcher, Url};
use crate::registry::{Registry, World};
use crate::store::bundles::{self, BundleRecord};
use crate::store::documents;
use crate::store::{Store, StoreError};
use crate::trust::Trust;

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// Interval where neither document nor bundle says one, seconds (SPIFFE Trust Domain and Bundle §4.1.2).
const DEFAULT_REFRESH: u32 = 300;
/// A bundle's hint is believed within these, seconds.
const HINT: std::ops::RangeInclusive<u32> = 10..=86_400;
/// A file is cheap to look at.
const FILE_REFRESH: u32 = 5;
/// Longest wait after a failure, seconds.
const RETRY: u32 = 60;

/// One other trust domain.
#[derive(Debug, Clone)]
struct Tracked {
    federation: Federation,
    held: Option<BundleDocument>,
    /// When the source confirmed it last, Unix seconds; 0: never.
    fetched_at: i64,
    last_error: String,
    due: Instant,
}

/// What is known of one other trust domain, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The trust domain.
    pub trust_domain: String,
    /// Where its bundle comes from.
    pub source: String,
    /// `spiffe_sequence` of the bundle in force; 0: it has none.
    pub sequence: u64,
    /// When the source confirmed it last, Unix seconds; 0: never.
    pub fetched_at: i64,
    /// Why the last attempt failed; empty if it did not.
    pub last_error: String,
}

/// Bundles of other trust domains, in force.
#[derive(Default)]
pub struct Foreign(Mutex<BTreeMap<String, Tracked>>);

impl Foreign {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tracked>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the documents of a store with what it has of their bundles.
    ///
    /// # Errors
    /// The store failed, or a record is damaged.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        let mut wanted = Vec::new();
        for (key, record) in store.read(documents::load)?.documents {
            let document = mesh_manifest::from_json(&record.document).map_err(|e| {
                let reason = e.to_string();
                StoreError::Damaged { key, reason }
            })?;
            if let Resource::Federation(federation) = document.resource {
                wanted.push(federation);
            }
        }
        let this = Self::default();
        this.follow(&wanted, store)?;
        Ok(this)
    }

    /// Every bundle, as the registry publishes them.
    pub fn bundles(&self) -> Vec<mesh::TrustBundle> {
        let tracked = self.lock();
        let held = tracked.values().filter_map(|t| {
            let held = t.held.as_ref()?;
            Some(mesh::TrustBundle {
                trust_domain: t.federation.trust_domain.to_string(),
                x509_authorities: held.x509_authorities.clone(),
                jwt_authorities: held.jwt_authorities.clone(),
                refresh_hint_seconds: held.refresh_hint.unwrap_or(0),
                ..mesh::TrustBundle::default()
            })
        });
        held.collect()
    }

    /// What is known of each.
    pub fn states(&self) -> Vec<State> {
        let tracked = self.lock();
        let states = tracked.iter().map(|(domain, t)| State {
            trust_domain: domain.clone(),
            source: match &t.federation.source {
                BundleSource::File(path) => path.clone(),
                BundleSource::Web(url) | BundleSource::Spiffe { url, .. } => url.clone(),
            },
            sequence: t.held.as_ref().and_then(|h| h.sequence).unwrap_or(0),
            fetched_at: t.fetched_at,
            last_error: t.last_error.clone(),
        });
        states.collect()
    }

    /// Drops what no document names, takes up what one names.
    fn follow(&self, wanted: &[Federation], store: &Store) -> Result<(), StoreError> {
        let held = store.read(bundles::load)?;
        for domain in held.keys() {
            if !wanted.iter().any(|f| f.trust_domain.as_str() == domain) {
                store.write(|write| bundles::remove(write, domain))?;
            }
        }
        let mut tracked = self.lock();
        tracked.retain(|domain, _| wanted.iter().any(|f| f.trust_domain.as_str() == domain));
        for federation in wanted {
            let domain = &federation.trust_domain;
            match tracked.get_mut(domain.as_str()) {
                Some(held) if held.federation == *federation => {}
                Some(held) => {
                    held.federation = federation.clone();
                    held.due = Instant::now();
                }
                None => {
                    let made = Tracked::new(federation, held.get(domain.as_str()));
                    tracked.insert(domain.to_string(), made);
                }
            }
        }
        Ok(())
    }
}

impl Tracked {
    fn new(federation: &Federation, record: Option<&BundleRecord>) -> Self {
        let read = |text: &str| document::read(text.as_bytes(), &federation.trust_domain);
        let kept = record.and_then(|r| Some((read(&r.document).ok()?, r.fetched_at)));
        let bootstrap = federation.bootstrap.as_deref().map(read);
        let (held, fetched_at, last_error) = match (kept, bootstrap) {
            (Some((held, at)), _) => (Some(held), at, String::new()),
            (None, Some(Ok(held))) => (Some(held), 0, String::new()),
            (None, Some(Err(error))) => (None, 0, format!("spec.bundle: {error}")),
            (None, None) => (None, 0, String::new()),
        };
        Self {
            federation: federation.clone(),
            held,
            fetched_at,
            last_error,
            due: Instant::now(),
        }
    }

    fn interval(&self) -> Duration {
        let hint = self.held.as_ref().and_then(|h| h.refresh_hint);
        let usual = match self.federation.source {
            BundleSource::File(_) => FILE_REFRESH,
            _ => hint.map_or(DEFAULT_REFRESH, |h| h.clamp(*HINT.start(), *HINT.end())),
        };
        let seconds = self.federation.refresh_seconds.unwrap_or(usual);
        let after_failure = !self.last_error.is_empty();
        let seconds = if after_failure {
            seconds.min(RETRY)
        } else {
            seconds
        };
        Duration::from_secs(seconds.into())
    }

    /// Whether an answer may take the place of the one held.
    fn check_sequence(&self, offered: &BundleDocument) -> Result<(), String> {
        match (
            self.held.as_ref().and_then(|h| h.sequence),
            offered.sequence,
        ) {
            (Some(held), Some(offered)) if offered < held => Err(format!(
                "spiffe_sequence: {offered} is older than {held}, which is held: rollback refused"
            )),
            (Some(held), None) => Err(format!(
                "spiffe_sequence: missing, though {held} is held: rollback refused"
            )),
            _ => Ok(()),
        }
    }
}

/// The documents that name other trust domains. Of two that name the same (which are not let in) the first counts.
pub fn wanted(world: &World, own: &TrustDomain) -> Vec<Federation> {
    let mut wanted: Vec<Federation> = Vec::new();
    for stored in world.documents.values() {
        if let Resource::Federation(federation) = &stored.document.resource
            && federation.trust_domain != *own
            && !wanted
                .iter()
                .any(|f| f.trust_domain == federation.trust_domain)
        {
            wanted.push(federation.clone());
        }
    }
    wanted
}

/// Asks the sources.
pub struct Keeper {
    /// Asks.
    pub fetcher: Arc<Fetcher>,
    /// Names the sources.
    pub registry: Arc<Registry>,
    /// Keeps answers.
    pub store: Arc<Store>,
    /// Has them published.
    pub trust: Trust,
    /// The time.
    pub clock: Clock,
}

impl Keeper {
    /// Follows documents and sources for ever.
    pub async fn keep(&self) {
        let mut worlds = self.registry.watch();
        loop {
            let world = Arc::clone(&worlds.borrow_and_update());
            let wanted = wanted(&world, self.trust.authorities.trust_domain());
            let (foreign, store) = (Arc::clone(&self.trust.foreign), Arc::clone(&self.store));
            let followed = tokio::task::spawn_blocking(move || foreign.follow(&wanted, &store));
            if let Ok(Err(error)) = followed.await {
                tracing::warn!(%error, "cannot follow the documents of other trust domains");
            }
            self.publish().await;
            for federation in self.take_due() {
                self.refresh(&federation).await;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                changed = worlds.changed() => if changed.is_err() { return },
            }
        }
    }

    fn take_due(&self) -> Vec<Federation> {
        let now = Instant::now();
        let tracked = self.trust.foreign.lock();
        let due = tracked.values().filter(|t| t.due <= now);
        due.map(|t| t.federation.clone()).collect()
    }

    async fn refresh(&self, federation: &Federation) {
        let asked = self.ask(federation).await;
        let now = self.clock.seconds();
        let domain = &federation.trust_domain;
        let changed = {
            let mut tracked = self.trust.foreign.lock();
            let Some(tracked) = tracked.get_mut(domain.as_str()) else {
                return;
            };
            if tracked.federation != *federation {
                return;
            }
            let taken = asked.and_then(|text| {
                let read = document::read(text.as_bytes(), domain)?;
                tracked.check_sequence(&read)?;
                Ok((text, read))
            });
            let changed = match taken {
                Ok((text, read)) => {
                    tracked.last_error.clear();
                    tracked.fetched_at = now;
                    let is_new = tracked.held.as_ref() != Some(&read);
                    tracked.held = Some(read);
                    is_new.then_some(text)
                }
                Err(error) => {
                    if tracked.last_error != error {
                        tracing::warn!(trust_domain = %domain, error, "no new trust bundle; the last good one stays in force");
                    }
                    tracked.last_error = error;
                    None
                }
            };
            tracked.due = Instant::now() + tracked.interval();
            changed
        };
        if let Some(document) = changed {
            let record = BundleRecord {
                document,
                fetched_at: now,
            };
            let (store, name) = (Arc::clone(&self.store), domain.to_string());
            let kept = tokio::task::spawn_blocking(move || {
                store.write(|write| bundles::put(write, &name, &record))
            });
            if let Ok(Err(error)) = kept.await {
                tracing::error!(%error, "a trust bundle will not survive a restart");
            }
            tracing::info!(trust_domain = %domain, "trust bundle taken over");
            self.publish().await;
        }
    }

    async fn ask(&self, federation: &Federation) -> Result<String, String> {
        let (url, tls) = match &federation.source {
            BundleSource::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                return read.unwrap_or_else(|e| Err(e.to_string()));
            }
            BundleSource::Web(url) => (url, None),
            BundleSource::Spiffe { url, id } => (url, Some(self.verifying(id)?)),
        };
        let mut fetch = Fetch::get(Url::parse(url).map_err(|e| e.to_string())?);
        fetch.limit = document::MAX_BYTES;
        fetch.tls = tls;
        let fetched = self
            .fetcher
            .fetch(&fetch)
            .await
            .map_err(|e| e.to_string())?;
        if !fetched.status.is_success() {
            return Err(format!("{url}: answered {}", fetched.status));
        }
        String::from_utf8(fetched.body.to_vec()).map_err(|_| format!("{url}: not UTF-8"))
    }

    /// TLS that believes a server only as `id`, by the bundle in force of that ID's own trust domain.
    fn verifying(&self, id: &SpiffeId) -> Result<Arc<ClientConfig>, String> {
        let domain = TrustDomain::new(id.trust_domain()).map_err(|e| e.to_string())?;
        let roots = if domain == *self.trust.authorities.trust_domain() {
            self.trust.authorities.state().roots()
        } else {
            let tracked = self.trust.foreign.lock();
            let held = tracked.get(domain.as_str()).and_then(|t| t.held.as_ref());
            let held = held.ok_or_else(|| {
                format!("the endpoint is to prove '{id}', and there is no bundle of '{domain}' yet")
            })?;
            let roots = held.x509_authorities.iter();
            roots.map(|der| CertificateDer::from(der.clone())).collect()
        };
        let mut bundles = TrustBundles::default();
        let bundle = TrustBundle::new(domain, roots, 0).map_err(|e| e.to_string())?;
        bundles.insert(bundle).map_err(|e| e.to_string())?;
        let expected = std::slice::from_ref(id);
        tls::client_config(None, Arc::new(bundles), expected, &[b"http/1.1"])
            .map_err(|e| e.to_string())
    }

    async fn publish(&self) {
        let (trust, registry) = (self.trust.clone(), Arc::clone(&self.registry));
        let now = self.clock.seconds();
        let published = tokio::task::spawn_blocking(move || trust.publish(&registry, now));
        if let Ok(Err(error)) = published.await {
            tracing::warn!(%error, "trust bundles are not published yet");
        }
    }
}

fn read_file(path: &str) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| format!("{path}: {e}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let limit = u64::try_from(document::MAX_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    file.take(limit + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}
