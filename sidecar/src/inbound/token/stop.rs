//! Why a request does not pass the token stage, and what it may wait for.

use std::sync::Arc;
use std::time::Instant;

use mesh_auth::token::Provider;
use mesh_auth::{Reason, Secret};

use super::super::key_misses;
use super::cache::Under;
use super::digest::Digest;

/// Why a request does not pass the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// What is demanded of the subject's authentication, seconds (RFC 9470).
    pub max_age: Option<u32>,
}

/// Why a request does not pass the stage, or not yet.
pub enum Stop {
    /// It never does.
    Denied(Denied),
    /// It has to wait.
    Awaits {
        /// What it is told when that does not come; not counted yet.
        otherwise: Denied,
        /// The provider that judges it.
        provider: Arc<Provider>,
        /// What it waits for.
        pending: Pending,
    },
}

/// What a request waits for.
pub enum Pending {
    /// Its key may be on the way, and its rule has a request wait for keys.
    Keys(key_misses::Pending),
    /// Only the provider's introspection endpoint can tell.
    Answer(Question),
}

/// A token that has to be asked about.
pub struct Question {
    pub(super) under: Under,
    pub(super) place: usize,
    pub(super) digest: Digest,
    pub(super) token: Secret<Vec<u8>>,
}

/// How long and how often one request has waited.
#[derive(Debug, Default)]
pub struct Patience {
    pub(super) keys_until: Option<Instant>,
    pub(super) asked: u32,
}

impl From<Reason> for Denied {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            max_age: None,
        }
    }
}
