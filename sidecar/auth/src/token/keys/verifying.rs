//! A key ready to verify with: the library's, and multiples of it once it has been of use several times (`mesh_p256`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use aws_lc_rs::signature::ParsedPublicKey;
use mesh_p256::PreparedKey;

use crate::prepared::{self, GOOD_BEFORE};

/// Keys of one set that are prepared, of 22 KB each.
const MAX_PREPARED: usize = 8;

/// A public key.
pub(super) struct VerifyingKey {
    parsed: ParsedPublicKey,
    /// Of a key for ES256.
    repeated: Option<Box<Repeated>>,
}

struct Repeated {
    point: Box<[u8]>,
    /// Good signatures that the library verified; not counted beyond [`GOOD_BEFORE`].
    good: AtomicU8,
    prepared: OnceLock<PreparedKey>,
}

impl From<ParsedPublicKey> for VerifyingKey {
    fn from(parsed: ParsedPublicKey) -> Self {
        Self {
            parsed,
            repeated: None,
        }
    }
}

impl VerifyingKey {
    /// A key for ES256, and the point that it is, uncompressed.
    pub(super) fn es256(parsed: ParsedPublicKey, point: &[u8]) -> Self {
        Self {
            parsed,
            repeated: Some(Box::new(Repeated {
                point: point.into(),
                good: AtomicU8::new(0),
                prepared: OnceLock::new(),
            })),
        }
    }

    /// True if `signature` is one of `message` by this key. `prepared` counts the keys of the set that were prepared.
    pub(super) fn verifies(
        &self,
        message: &[u8],
        signature: &[u8],
        prepared: &AtomicUsize,
    ) -> bool {
        let repeated = self.repeated.as_deref();
        if let Some(key) = repeated.and_then(|repeated| repeated.prepared.get()) {
            return match signature.try_into() {
                Ok(signature) => prepared::verifies(key, message, signature),
                Err(_) => false,
            };
        }
        let good = self.parsed.verify_sig(message, signature).is_ok();
        if let Some(repeated) = repeated.filter(|_| good) {
            repeated.found_good(prepared);
        }
        good
    }
}

impl Repeated {
    fn found_good(&self, prepared: &AtomicUsize) {
        if self.good.load(Ordering::Relaxed) >= GOOD_BEFORE {
            return;
        }
        // One of those that count at once is the one to prepare the key; nobody waits for it.
        if self.good.fetch_add(1, Ordering::Relaxed) + 1 != GOOD_BEFORE
            || prepared.fetch_add(1, Ordering::Relaxed) >= MAX_PREPARED
        {
            return;
        }
        if let Ok(key) = PreparedKey::new(&self.point) {
            // Nobody else sets it.
            let _ = self.prepared.set(key);
        }
    }
}

#[cfg(test)]
mod tests;
