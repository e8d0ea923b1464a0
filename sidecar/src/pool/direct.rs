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
