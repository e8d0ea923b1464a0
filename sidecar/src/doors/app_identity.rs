//! The application's own certificate and key, for the workload's identity.
//!
//! Issued on a key of its own, proven by the sidecar's current certificate, and renewed whenever the sidecar's is (so that
//! a new root or a forced rotation reaches the application as well), or earlier where an earlier attempt failed. A good
//! certificate is handed out until it expires or the identity is another one, whatever happens to requests for the next.

use std::sync::Arc;
use std::time::Duration;

use mesh_auth::revocation::Revocations;
use mesh_auth::svid::{self, Usage};
use mesh_auth::tls::Identity;
use mesh_auth::{Secret, SpiffeId};
use mesh_proto::mesh::IssueCertificateRequest;
use mesh_proto::mesh::certificate_service_client::CertificateServiceClient;
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::sync::watch;

use super::material::AppSvid;
use crate::control::Clock;
use crate::control::backoff::{Backoff, Limits, random_unit};
use crate::control::certificate::{TICK, renewal_time, signing_request};
use crate::control::clock::rfc3339;
use crate::control::connect::{Target, status_text};
use crate::snapshot::{SharedSnapshot, Snapshot};

/// Waits between attempts.
const RETRY: Limits = Limits {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(30),
};
/// How long one request may take once connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Owner of the application's certificate.
pub struct AppIdentity {
    /// The control API.
    pub target: Target,
    /// The sidecar's identity and the roots are read from it.
    pub shared: SharedSnapshot,
    /// For validity.
    pub clock: Arc<dyn Clock>,
    /// Told of every change.
    pub svids: watch::Sender<Option<Arc<AppSvid>>>,
}

/// What is held.
struct Held {
    svid: Arc<AppSvid>,
    renew_at: i64,
    /// The sidecar's identity that it was issued by.
    by: Arc<Identity>,
}

impl AppIdentity {
    /// Obtains and renews for ever; looks again whenever `epochs` tells of another snapshot.
    pub async fn keep(&self, mut epochs: watch::Receiver<u64>) {
        let mut held: Option<Held> = None;
        let mut backoff = Backoff::new(RETRY);
        loop {
            epochs.borrow_and_update();
            let snapshot = self.shared.load_full();
            let identity = snapshot.tls.as_ref().map(|tls| Arc::clone(&tls.identity));
            self.withdraw(&mut held, identity.as_deref(), &snapshot.revocations);
            let due = match (&identity, &held) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(identity), Some(held)) => {
                    !Arc::ptr_eq(identity, &held.by) || self.clock.now() >= held.renew_at
                }
            };
            let mut wait = TICK;
            if let Some(identity) = identity.filter(|_| due) {
                match self.obtain(&snapshot, &identity).await {
                    Ok(svid) => {
                        backoff.reset();
                        let svid = Arc::new(svid);
                        let life_of = renewal_time(self.clock.now(), svid.not_after, random_unit());
                        tracing::info!(spiffe_id = %svid.id, not_after = rfc3339(svid.not_after), "certificate for the application issued");
                        #[allow(clippy::cast_precision_loss)]
                        metrics::gauge!(
                            "postern_workload_api_certificate_expiry_timestamp_seconds"
                        )
                        .set(svid.not_after as f64);
                        self.svids.send_replace(Some(Arc::clone(&svid)));
                        held = Some(Held {
                            svid,
                            renew_at: life_of,
                            by: identity,
                        });
                    }
                    Err(reason) => {
                        wait = backoff.failed();
                        metrics::counter!("postern_workload_api_certificate_failures_total")
                            .increment(1);
                        tracing::warn!(
                            reason,
                            retry_in_ms = wait.as_millis(),
                            "no new certificate for the application"
                        );
                    }
                }
            }
            if wait > TICK {
                tokio::time::sleep(wait).await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = epochs.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Takes back what is good for nothing any more.
    fn withdraw(
        &self,
        held: &mut Option<Held>,
        identity: Option<&Identity>,
        revocations: &Revocations,
    ) {
        let Some(svid) = held.as_ref().map(|held| &held.svid) else {
            return;
        };
        let now = self.clock.now();
        let Some(why) = fault(svid, identity.map(Identity::id), revocations, now) else {
            return;
        };
        tracing::warn!(spiffe_id = %svid.id, why, "the application's certificate is withdrawn");
        *held = None;
        self.svids.send_replace(None);
    }

    /// A certificate on a new key.
    async fn obtain(&self, snapshot: &Snapshot, identity: &Identity) -> Result<AppSvid, String> {
        let key = KeyPair::generate().map_err(|e| e.to_string())?;
        let csr = signing_request(&key).map_err(|e| e.to_string())?;
        let channel = self
            .target
            .connect(Some(identity), Arc::clone(&snapshot.control_roots))
            .await
            .map_err(|e| e.to_string())?;
        let request = IssueCertificateRequest {
            csr,
            lifetime_seconds: 0,
        };
        let mut client = CertificateServiceClient::new(channel);
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.issue_certificate(request)).await;
        let response = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status_text(&status)),
            Err(_) => return Err(format!("no answer within {REQUEST_TIMEOUT:?}")),
        };
        let chain: Vec<_> = response
            .certificate_chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        self.check(chain, &key, snapshot, identity)
    }

    /// Hands out only what peers will take, for the right identity.
    fn check(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        snapshot: &Snapshot,
        identity: &Identity,
    ) -> Result<AppSvid, String> {
        let now = u64::try_from(self.clock.now()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let peer = svid::verify(&chain, Usage::Server, snapshot.bundles(), now)
            .map_err(|e| e.to_string())?;
        if peer.id() != identity.id() {
            return Err(format!(
                "the control API issued a certificate of {}, this workload is {}",
                peer.id(),
                identity.id()
            ));
        }
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let issued = Identity::new(chain.clone(), der).map_err(|e| e.to_string())?;
        Ok(AppSvid {
            id: issued.id().clone(),
            chain,
            key: Secret::new(key.serialize_der()),
            serial: issued.serial().to_vec(),
            not_before: issued.not_before(),
            not_after: issued.not_after(),
        })
    }
}

/// Why `svid` is not handed out any more at `now`, where `own` is the workload's identity; `None`: it still is.
fn fault(
    svid: &AppSvid,
    own: Option<&SpiffeId>,
    revocations: &Revocations,
    now: i64,
) -> Option<&'static str> {
    let revoked = || revocations.of_certificate(&svid.id, &svid.serial, svid.not_before, now);
    match own {
        _ if now >= svid.not_after => Some("it expired"),
        None => Some("the sidecar has no valid certificate any more"),
        Some(own) if *own != svid.id => Some("the workload has another identity now"),
        Some(_) if revoked().is_some() => Some("it is revoked"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use mesh_auth::revocation::Entry;
    use mesh_proto::mesh::{self, revocation::Subject};

    use super::*;
    use crate::doors::testing::{ID, svid};

    #[test]
    fn what_is_over_or_revoked_is_not_handed_out() {
        let id = SpiffeId::parse(ID).expect("an ID");
        let other = SpiffeId::parse("spiffe://demo.test/ns/demo/sa/db").expect("an ID");
        let certificate = |serial: u8| {
            Subject::Serial(mesh::RevokedSerial {
                trust_domain: "demo.test".into(),
                serial: vec![serial],
            })
        };
        let before = |not_before: i64| {
            Subject::IssuedBefore(mesh::RevokedIssuedBefore {
                trust_domain: "demo.test".into(),
                path: String::new(),
                not_before,
            })
        };
        for (own, revoked, not_after, fault) in [
            (Some(&id), None, 2_000, None),
            (Some(&id), None, 1_500, Some("expired")),
            (None, None, 2_000, Some("no valid certificate")),
            (Some(&other), None, 2_000, Some("another identity")),
            (Some(&id), Some(certificate(7)), 2_000, Some("revoked")),
            (Some(&id), Some(certificate(8)), 2_000, None),
            (
                Some(&id),
                Some(Subject::SpiffeId(ID.into())),
                2_000,
                Some("revoked"),
            ),
            (
                Some(&id),
                Some(Subject::SpiffeId(other.to_string())),
                2_000,
                None,
            ),
            (Some(&id), Some(before(1_001)), 2_000, Some("revoked")),
            (Some(&id), Some(before(1_000)), 2_000, None),
        ] {
            let entries = revoked.clone().map(|subject| {
                Entry::parse(&mesh::Revocation {
                    name: "r".into(),
                    subject: Some(subject),
                    ..Default::default()
                })
                .expect("an entry")
            });
            let revocations = Revocations::new(entries);
            let svid = AppSvid {
                not_after,
                ..svid()
            };
            let found = super::fault(&svid, own, &revocations, 1_500);
            assert_eq!(
                found.is_some(),
                fault.is_some(),
                "{own:?} {revoked:?}: {found:?}"
            );
            assert!(
                found
                    .unwrap_or_default()
                    .contains(fault.unwrap_or_default())
            );
        }
    }
}
