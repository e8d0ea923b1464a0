//! Sessions of a client with one server, to be resumed.
//!
//! They belong to one configuration: one own SVID, one set of bundles and revocations, one identity that the server had to
//! prove. A change of any is another configuration, which knows no session. A day after the server proved its certificate
//! it has to do so again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::time_provider::TimeProvider;
use rustls::{HandshakeKind, NamedGroup};
use rustls_pki_types::ServerName;

use super::tickets::MAX_LINEAGE;
use crate::svid::seconds;

/// Sessions that are kept; each is good for one connection.
const MAX_SESSIONS: usize = 4;

/// Sessions that outlive neither the own certificate nor the server's.
pub struct Sessions {
    held: Mutex<Held>,
    own_not_after: i64,
    clock: Arc<dyn TimeProvider>,
}

#[derive(Default)]
struct Held {
    sessions: VecDeque<Tls13ClientSessionValue>,
    /// The first end of a certificate of the server that was seen; 0: none was.
    server_not_after: i64,
    /// When the server proved its certificate last, Unix seconds; 0: never.
    proven_at: i64,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(own_not_after: i64, clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            held: Mutex::default(),
            own_not_after,
            clock,
        }
    }

    /// Tells of a handshake: what the server's certificate says of its end (Unix seconds), and whether the server had to
    /// prove it. Before that no session is kept, and none a day after the last proof.
    pub fn shook_hands(&self, kind: HandshakeKind, server_not_after: i64) {
        let now = self.now();
        let mut held = self.lock();
        if kind != HandshakeKind::Resumed {
            held.proven_at = now;
        }
        let earlier = held.server_not_after;
        if earlier <= now {
            // Of a certificate that has ended, nothing is of use.
            held.sessions.clear();
            held.server_not_after = server_not_after;
        } else {
            held.server_not_after = earlier.min(server_not_after);
        }
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.lock().sessions.clear();
    }

    /// True if there is one to resume.
    pub fn is_useful(&self) -> bool {
        let held = self.lock();
        !held.sessions.is_empty() && self.is_valid(&held)
    }

    fn is_valid(&self, held: &Held) -> bool {
        let lineage = held.proven_at.saturating_add(MAX_LINEAGE);
        self.now() < self.own_not_after.min(held.server_not_after).min(lineage)
    }

    fn now(&self) -> i64 {
        self.clock.current_time().map_or(i64::MAX, seconds)
    }

    /// Of one worker and for a moment at a time: never waited for.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    /// The hybrid group is always offered first, whatever was agreed on before.
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        let mut held = self.lock();
        if !self.is_valid(&held) {
            return;
        }
        if held.sessions.len() == MAX_SESSIONS {
            held.sessions.pop_front();
        }
        held.sessions.push_back(session);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut held = self.lock();
        if !self.is_valid(&held) {
            held.sessions.clear();
        }
        held.sessions.pop_back()
    }
}
