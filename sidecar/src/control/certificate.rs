//! This workload's certificate: asked for, kept fresh, withdrawn when it expires.
//!
//! The key is made here and leaves the process only into the key directory, if one is named. A good certificate stays in
//! use whatever happens to requests for the next one. Validity is judged by the wall clock at every tick, so that a clock
//! that jumps, or a machine that slept, is noticed within [`TICK`].

mod follow;
mod request;
mod schedule;

pub use request::CertificateError;
pub(crate) use request::signing_request;
pub(crate) use schedule::renewal_time;
use schedule::{URGENT, patient};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use mesh_auth::bundle::TrustBundles;
use mesh_auth::svid::{self, Usage};
use mesh_auth::tls::Identity;
use mesh_auth::{Secret, TrustDomain};
use mesh_proto::mesh::IssueCertificateResponse;
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::{Backoff, random_unit};
use super::clock::{Clock, rfc3339};
use super::connect::Target;
use super::keystore::{Kept, KeyStore};
use super::outside::Outside;
use super::proof::Proofs;
use super::publisher::Publisher;
use super::status::{self, ControlStatus};
use super::turn::Turns;
use crate::admin::Readiness;
use crate::admin::readiness::CERTIFIED;

/// How often the wall clock is looked at.
pub const TICK: Duration = Duration::from_secs(1);
/// Shortest life of a certificate before a demand to replace it is heard, seconds.
const HASTE: i64 = 5;
/// A certificate in use or waiting for the clock to come back.
#[derive(Clone)]
struct Held {
    identity: Arc<Identity>,
    renew_at: i64,
    /// It was valid when looked at last, so it is in force.
    in_force: bool,
    /// When it was issued, Unix seconds.
    issued_at: i64,
    /// The demand for another certificate that `renew_at` takes into account.
    hastened_for: i64,
}

/// What [`Certificates`] needs to know.
pub struct Settings {
    /// The control API.
    pub target: Target,
    /// `namespace/name`.
    pub workload: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// What proves the workload without a certificate.
    pub proofs: Proofs,
    /// Where the key is kept over a restart.
    pub key_store: Option<KeyStore>,
    /// Who brings certificates instead of the control API.
    pub outside: Option<Outside>,
}

/// Owner of the certificate.
pub struct Certificates {
    settings: Settings,
    publisher: Arc<Publisher>,
    status: Arc<ControlStatus>,
    readiness: Arc<Readiness>,
    clock: Arc<dyn Clock>,
    identities: watch::Sender<Option<Arc<Identity>>>,
    held: Mutex<Option<Held>>,
    saving: Turns,
}

impl Certificates {
    /// Holds none yet; tells `identities` of every change.
    pub fn new(
        settings: Settings,
        publisher: Arc<Publisher>,
        status: Arc<ControlStatus>,
        readiness: Arc<Readiness>,
        clock: Arc<dyn Clock>,
        identities: watch::Sender<Option<Arc<Identity>>>,
    ) -> Self {
        Self {
            settings,
            publisher,
            status,
            readiness,
            clock,
            identities,
            held: Mutex::new(None),
            saving: Turns::default(),
        }
    }

    /// Waits until a key that is being saved is on the disk.
    pub async fn saved(&self) {
        drop(self.saving.take().await);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Obtains and renews for ever.
    pub async fn keep(&self) {
        if let Some(outside) = &self.settings.outside {
            return self.follow(outside).await;
        }
        self.adopt_kept();
        let mut backoff = Backoff::new(URGENT);
        let mut key = None;
        loop {
            self.hasten();
            let wait = due_in(self.clock.now(), self.lock().as_ref());
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait.min(TICK)) => continue,
                    () = self.status.rotation_asked() => {
                        tracing::info!("another certificate was asked for");
                    }
                }
            }
            let outcome = self.renew(&mut key).await;
            let label = if outcome.is_ok() { "issued" } else { "failed" };
            metrics::counter!("postern_certificate_requests_total", "outcome" => label)
                .increment(1);
            match outcome {
                Ok(()) => {
                    key = None;
                    backoff.reset();
                    self.status.update(|view| view.certificate_error = None);
                }
                Err(error) => {
                    let held = self.lock().clone().filter(|held| held.in_force);
                    let now = self.clock.now();
                    backoff.set_limits(held.map_or(URGENT, |held| {
                        patient(held.identity.not_after().saturating_sub(now))
                    }));
                    let delay = backoff.failed();
                    tracing::warn!(%error, retry_in_ms = delay.as_millis(), "no new certificate");
                    self.status
                        .update(|view| view.certificate_error = Some(error.to_string()));
                    self.check();
                    self.pause(delay).await;
                }
            }
        }
    }

    /// Renews early what the control API wants to see replaced, because its root goes away: once for each time it says so,
    /// spread as it asks.
    fn hasten(&self) {
        let Some((before, spread)) = self.publisher.renewal_demanded() else {
            return;
        };
        let mut held = self.lock();
        let demanded = held
            .as_mut()
            .filter(|h| h.hastened_for != before && h.identity.not_before() < before);
        if let Some(held) = demanded {
            held.hastened_for = before;
            #[allow(clippy::cast_possible_truncation)]
            let delay = (f64::from(spread) * random_unit()) as i64;
            // Should the new one not meet the demand either (the control API's clock went back), it is not asked for in a loop.
            let soonest = self.clock.now().max(held.issued_at + HASTE);
            held.renew_at = held.renew_at.min(soonest.saturating_add(delay));
            tracing::info!(
                in_seconds = delay,
                "the certificate's root goes away: renewing early"
            );
        }
    }

    /// Judges the certificate by the wall clock: withdraws an expired one, puts one back that is valid again.
    pub fn check(&self) {
        let now = self.clock.now();
        if let Some(age) = self.settings.proofs.age(now) {
            #[allow(clippy::cast_precision_loss)]
            metrics::gauge!("postern_attestation_token_age_seconds").set(age as f64);
        }
        let Some(mut held) = self.lock().clone() else {
            let error = self.status.view().certificate_error;
            let reason = error.unwrap_or_else(|| "waiting for the first certificate".into());
            self.readiness.set("certificate", Err(reason));
            return;
        };
        let not_after = held.identity.not_after();
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_certificate_expiry_seconds").set((not_after - now) as f64);
        if held.in_force && !self.publisher.serves(&held.identity) {
            tracing::error!(
                "the listeners do not serve the certificate that is held; publishing it again"
            );
            metrics::counter!("postern_certificate_stale_total").increment(1);
            if let Err(error) = self
                .publisher
                .set_identity(Some(Arc::clone(&held.identity)))
            {
                tracing::error!(%error, "it cannot be published");
            }
        }
        let valid = now < not_after;
        if valid != held.in_force {
            let identity = valid.then(|| Arc::clone(&held.identity));
            match self.publisher.set_identity(identity.clone()) {
                Ok(()) => {
                    held.in_force = valid;
                    self.identities.send_replace(identity);
                    *self.lock() = Some(held);
                    if valid {
                        tracing::warn!("the certificate is valid again: the clock went back");
                    } else {
                        tracing::error!(
                            expired_at = rfc3339(not_after),
                            "the certificate expired and is withdrawn"
                        );
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot withdraw or put back the certificate");
                }
            }
        }
        let state = if valid {
            Ok(())
        } else {
            let why = self.status.view().certificate_error.unwrap_or_default();
            let expired = rfc3339(not_after);
            Err(format!("expired at {expired}; no new one yet ({why})"))
        };
        self.readiness.set("certificate", state);
    }

    /// Waits for `delay`, less if a new join token appears while one is needed.
    async fn pause(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let token = self.token_digest();
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + TICK)).await;
            if self.token_digest() != token {
                return;
            }
        }
    }

    fn token_digest(&self) -> Option<[u8; 32]> {
        let proof = self.settings.proofs.read().ok()?;
        digest::digest(&digest::SHA256, proof.value.expose().as_bytes())
            .as_ref()
            .try_into()
            .ok()
    }

    /// Takes up the certificate of an earlier process, if it is still good.
    fn adopt_kept(&self) {
        let Some(kept) = self.settings.key_store.as_ref().and_then(KeyStore::load) else {
            return;
        };
        let adopted = self
            .publisher
            .roots()
            .map_err(CertificateError::Internal)
            .and_then(|roots| self.identity(kept.chain, kept.key.expose(), &roots))
            .and_then(|identity| self.use_identity(identity, kept.issued_at));
        match adopted {
            Ok(()) => tracing::info!("went on with the kept key and certificate"),
            Err(error) => tracing::warn!(%error, "the kept certificate cannot be used"),
        }
    }

    /// One attempt, with every proof at hand.
    async fn renew(&self, key: &mut Option<KeyPair>) -> Result<(), CertificateError> {
        // The same key for all attempts: an answer that was lost on the way can be given again for it.
        let key = match key {
            Some(key) => key,
            None => key.insert(
                KeyPair::generate().map_err(|e| CertificateError::Internal(e.to_string()))?,
            ),
        };
        let roots = self.publisher.roots().map_err(CertificateError::Internal)?;
        let current = self.lock().clone().filter(|held| held.in_force);
        if let Some(current) = current {
            match self
                .request(key, &roots, Some(&current.identity), None)
                .await
            {
                Err(CertificateError::Refused {
                    unauthenticated: true,
                    reason,
                    ..
                }) if self.settings.proofs.read().is_ok() => {
                    tracing::warn!(
                        reason,
                        "renewal by the current certificate was refused; trying the token"
                    );
                }
                Ok(response) => return self.accept(&response, key, &roots).await,
                Err(error) => return Err(error),
            }
        }
        let proof = self
            .settings
            .proofs
            .read()
            .map_err(CertificateError::NoProof)?;
        let response = self.request(key, &roots, None, Some(&proof)).await?;
        self.accept(&response, key, &roots).await
    }

    async fn accept(
        &self,
        response: &IssueCertificateResponse,
        key: &KeyPair,
        roots: &TrustBundles,
    ) -> Result<(), CertificateError> {
        self.readiness.reached(CERTIFIED);
        let unusable = CertificateError::Unusable;
        if response.workload != self.settings.workload {
            return Err(unusable(format!(
                "it is for workload '{}', this sidecar is of '{}'; was the join token made for it?",
                response.workload, self.settings.workload
            )));
        }
        let chain: Vec<_> = response
            .certificate_chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let issued_at = self.clock.now();
        let identity = self.identity(chain.clone(), key.serialized_der(), roots)?;
        let (id, not_after) = (identity.id().clone(), identity.not_after());
        // Nothing waits between using it and handing it to be saved: a stop finds it saved or never used.
        let turn = self.saving.take().await;
        self.use_identity(identity, issued_at)?;
        tracing::info!(spiffe_id = %id, not_after = rfc3339(not_after), "certificate issued");
        if let Some(store) = self.settings.key_store.clone() {
            let kept = Kept {
                key: Secret::new(key.serialize_der()),
                chain,
                issued_at,
            };
            match turn.write(move || store.save(&kept)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the key cannot be kept over a restart"),
                Err(error) => tracing::error!(%error, "keeping the key failed"),
            }
        }
        Ok(())
    }

    /// The identity of a chain and key, if it is this workload's and our peers will take it.
    fn identity(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        roots: &TrustBundles,
    ) -> Result<Identity, CertificateError> {
        let unusable = CertificateError::Unusable;
        let now = u64::try_from(self.clock.now()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let skew = self.status.view().clock_skew;
        svid::verify(&chain, Usage::Server, roots, now).map_err(|e| unusable(e.with_skew(skew)))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let identity = Identity::new(chain, key).map_err(|e| unusable(e.to_string()))?;
        let namespace = self.settings.workload.split('/').next();
        let ours = identity.id().trust_domain() == self.settings.trust_domain.as_str()
            && identity.id().namespace() == namespace;
        if ours {
            Ok(identity)
        } else {
            Err(unusable(format!(
                "{} is not an identity of workload '{}' in trust domain '{}'",
                identity.id(),
                self.settings.workload,
                self.settings.trust_domain
            )))
        }
    }

    /// Puts an identity in force and tells everybody.
    fn use_identity(&self, identity: Identity, issued_at: i64) -> Result<(), CertificateError> {
        let identity = Arc::new(identity);
        let renew_at = renewal_time(issued_at, identity.not_after(), random_unit());
        self.publisher
            .set_identity(Some(Arc::clone(&identity)))
            .map_err(|e| CertificateError::Unusable(e.to_string()))?;
        self.tell(identity, issued_at, renew_at);
        Ok(())
    }

    /// Tells everybody of an identity that is in force.
    fn tell(&self, identity: Arc<Identity>, issued_at: i64, renew_at: i64) {
        self.status.update(|view| {
            view.certificate = Some(status::Certificate {
                spiffe_id: identity.id().to_string(),
                serial: hex(identity.serial()),
                not_before: identity.not_before(),
                not_after: identity.not_after(),
                renew_at,
            });
        });
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("postern_certificate_expiry_timestamp_seconds")
            .set(identity.not_after() as f64);
        *self.lock() = Some(Held {
            identity: Arc::clone(&identity),
            renew_at,
            in_force: true,
            issued_at,
            hastened_for: 0,
        });
        self.identities.send_replace(Some(identity));
        self.check();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// How long until a certificate has to be asked for.
fn due_in(now: i64, held: Option<&Held>) -> Duration {
    match held {
        Some(held) if held.in_force => {
            Duration::from_secs(u64::try_from(held.renew_at - now).unwrap_or(0))
        }
        _ => Duration::ZERO,
    }
}
