//! Key shares, and the stock of them that a thread has.

use std::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::library;

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no randomness for an X25519 key")
    }
}

impl std::error::Error for NoRandomness {}

/// A key pair for one agreement (RFC 7748 §6.1).
pub struct KeyShare {
    /// Boxed, so that moving the share leaves no copy behind that nobody wipes.
    secret: Box<Zeroizing<[u8; 32]>>,
    public: [u8; 32],
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyShare").finish_non_exhaustive()
    }
}

/// Computes ahead of need what the first [`KeyShare::generate`] would.
pub fn prepare() {}

impl KeyShare {
    /// A fresh one.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut secret = Box::new(Zeroizing::new([0; 32]));
        rand::fill(&mut **secret).map_err(|_| NoRandomness)?;
        let public = library::public_value(&secret);
        Ok(Self { secret, public })
    }

    /// What the peer is to be told.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// What both sides share; `None` if the peer's value leads to all zeroes, which is to end a handshake (RFC 8446 §7.4.2).
    #[must_use]
    pub fn agree(self, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        library::agree(&self.secret, peer)
    }
}

#[cfg(test)]
mod tests;
