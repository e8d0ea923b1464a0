//! TLS clients for workloads without a sidecar that end mutual TLS themselves and are sent opaque bytes: one for each
//! identity, for as long as it is called, so that sessions can be resumed and nothing is made for every connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use mesh_auth::SpiffeId;
use mesh_auth::tls::ConfigError;
use tokio::time::Instant;

use super::client::Client;
use crate::snapshot::{Snapshot, TlsContexts};

/// A client that was not used for so long is forgotten: a ticket lasts no longer.
const IDLE: Duration = Duration::from_secs(3600);
/// Clients that are kept; more identities than these pay by making theirs again.
const MAX_CLIENTS: usize = 1024;

/// One worker's clients.
#[derive(Default)]
pub struct Clients(RefCell<HashMap<SpiffeId, (Client, Instant)>>);

impl Clients {
    /// The client that takes nobody but `expected` for the peer, under the identity in `own` and the trust of `snapshot`.
    ///
    /// # Errors
    /// The configuration cannot be made.
    pub fn client(
        &self,
        expected: &SpiffeId,
        own: &TlsContexts,
        snapshot: &Snapshot,
    ) -> Result<Client, ConfigError> {
        let now = Instant::now();
        let mut held = self.0.borrow_mut();
        if let Some((client, used)) = held.get_mut(expected)
            && client.is_current(snapshot)
        {
            *used = now;
            return Ok(client.clone());
        }
        // No ALPN: what is inside is nobody's business.
        let client = Client::new(expected, own, snapshot, &[])?;
        if held.len() >= MAX_CLIENTS {
            held.clear();
        }
        held.insert(expected.clone(), (client.clone(), now));
        Ok(client)
    }

    /// Forgets what is outdated or idle.
    pub fn sweep(&self, now: Instant, snapshot: &Snapshot) {
        self.0.borrow_mut().retain(|_, (client, used)| {
            client.is_current(snapshot) && now.duration_since(*used) < IDLE
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_auth::TrustDomain;

    use super::*;
    use crate::control::fake_api::{Authority, DOMAIN};

    #[tokio::test(start_paused = true)]
    async fn clients_go_when_nobody_calls_and_when_what_they_stand_for_changes() {
        let authority = Authority::new();
        let domain = TrustDomain::new(DOMAIN).expect("a domain");
        let id = |account: &str| {
            let text = format!("spiffe://{DOMAIN}/ns/demo/sa/{account}");
            SpiffeId::parse(&text).expect("an id")
        };
        let identity = |account: &str| Some(Arc::new(authority.identity(id(account).as_str())));
        let build = |before: &Snapshot| {
            let roots = [authority.root()];
            let built = before.build(&Arc::default(), identity("orders"), &roots);
            built.expect("builds")
        };
        let snapshot = build(&Snapshot::empty("demo/orders-1", domain));
        let clients = Clients::default();
        let call = |account: &str, snapshot: &Snapshot| {
            let own = snapshot.tls.as_ref().expect("an identity");
            let client = clients.client(&id(account), own, snapshot);
            client.expect("a client").tls_epoch
        };
        let held = |snapshot: &Snapshot| {
            clients.sweep(Instant::now(), snapshot);
            clients.0.borrow().len()
        };
        for account in ["ledger", "bank", "ledger"] {
            call(account, &snapshot);
        }
        assert_eq!(held(&snapshot), 2);
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        call("ledger", &snapshot);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(held(&snapshot), 1, "nobody called the bank for an hour");
        // Another certificate of the same identity.
        let next = build(&snapshot);
        assert_ne!(call("ledger", &next), snapshot.epoch);
        assert_eq!(held(&next), 1);
        assert_eq!(held(&snapshot), 0, "it was made under the next one");
        for number in 0..=MAX_CLIENTS {
            call(&format!("w{number}"), &next);
        }
        assert!(held(&next) <= MAX_CLIENTS);
    }
}
