//! Certificates from an outside Workload API, which says when there is another: nothing is asked for and nothing renewed here.

use std::sync::Arc;

use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_proto::workload::X509svidResponse;

use super::{Backoff, CertificateError, Certificates, URGENT, rfc3339};
use crate::control::outside::{self, Outside, OutsideError};

impl Certificates {
    /// Uses what the Workload API says, for ever.
    pub(super) async fn follow(&self, outside: &Outside) {
        let mut backoff = Backoff::new(URGENT);
        loop {
            let error = self.listen(outside, &mut backoff).await;
            metrics::counter!("postern_certificate_requests_total", "outcome" => "failed")
                .increment(1);
            let delay = backoff.failed();
            tracing::warn!(%error, retry_in_ms = delay.as_millis(), "no identity from outside");
            let denied = matches!(error, OutsideError::Denied { .. });
            self.status
                .update(|view| view.certificate_error = Some(error.to_string()));
            if denied {
                self.withdraw();
            }
            self.check();
            tokio::time::sleep(delay).await;
        }
    }

    /// Takes up every set of one stream, until it ends.
    async fn listen(&self, outside: &Outside, backoff: &mut Backoff) -> OutsideError {
        let mut stream = match outside.stream().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        loop {
            let set = match stream.message().await {
                Ok(Some(set)) => set,
                Ok(None) => return outside.ended(),
                Err(status) => return outside.refusal(&status),
            };
            let taken = self.take_up(set);
            let label = if taken.is_ok() { "issued" } else { "failed" };
            metrics::counter!("postern_certificate_requests_total", "outcome" => label)
                .increment(1);
            match taken {
                Ok(()) => {
                    backoff.reset();
                    self.status.update(|view| view.certificate_error = None);
                }
                Err(error) => {
                    tracing::warn!(%error, "what the Workload API sent is not used");
                    self.status
                        .update(|view| view.certificate_error = Some(error.to_string()));
                }
            }
            self.check();
        }
    }

    fn take_up(&self, set: X509svidResponse) -> Result<(), CertificateError> {
        let unusable = CertificateError::Unusable;
        let namespace = self.settings.workload.split('/').next().unwrap_or_default();
        let domain = &self.settings.trust_domain;
        let received = outside::read(set, domain, namespace).map_err(unusable)?;
        let own = received.roots.get(domain.as_str()).cloned();
        let bundle = TrustBundle::new(domain.clone(), own.unwrap_or_default(), 0)
            .map_err(|e| unusable(e.to_string()))?;
        let mut roots = TrustBundles::default();
        roots.insert(bundle).map_err(|e| unusable(e.to_string()))?;
        let identity = self.identity(received.chain, received.key.expose(), &roots)?;
        let identity = Arc::new(identity);
        self.publisher
            .set_outside(&identity, received.roots)
            .map_err(|e| unusable(e.to_string()))?;
        let not_after = identity.not_after();
        tracing::info!(spiffe_id = %identity.id(), not_after = rfc3339(not_after), "certificate from outside");
        self.tell(identity, self.clock.now(), not_after);
        Ok(())
    }

    /// Uses no certificate any more: whoever gave it took it back.
    fn withdraw(&self) {
        if self.lock().is_none() {
            return;
        }
        // First of all, and what is held is forgotten only then: the next denial tries again.
        if let Err(error) = self.publisher.set_identity(None) {
            tracing::error!(%error, "the certificate was taken back and cannot be withdrawn");
            return;
        }
        if let Some(held) = self.lock().take() {
            tracing::error!(spiffe_id = %held.identity.id(), "the certificate was taken back and is withdrawn");
        }
        self.status.update(|view| view.certificate = None);
        self.identities.send_replace(None);
    }
}
