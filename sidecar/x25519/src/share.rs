//! Key shares, and the stock of them that a thread has.

use std::cell::RefCell;
use std::fmt;
use std::sync::LazyLock;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::eight::{COUNT, Processor};
use crate::library;

thread_local! {
    /// Shares that nobody has been given yet, fewer than [`COUNT`]. Wiped at the end of the thread.
    static STOCK: RefCell<Vec<KeyShare>> = const { RefCell::new(Vec::new()) };
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no randomness for an X25519 key")
    }
}

impl std::error::Error for NoRandomness {}

/// A key pair for one agreement (RFC 7748 §6.1), which is wiped afterwards.
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

/// A processor that can and, in this process, does: before the first share it computes what the library computes too. One that
/// does not, or a compiler that was wrong about it, leaves everything to the library.
static TRUSTED: LazyLock<Option<Processor>> =
    LazyLock::new(|| Processor::detect().filter(|processor| computes_like_the_library(*processor)));

fn computes_like_the_library(processor: Processor) -> bool {
    let mut secrets = [[0; 32]; COUNT];
    let bytes = secrets.as_flattened_mut().iter_mut();
    bytes
        .zip((0..=u8::MAX).map(|n| n.wrapping_mul(167)))
        .for_each(|(byte, value)| *byte = value);
    let publics = secrets.map(|secret| library::public_value(&secret));
    let mut pairs = secrets.iter().zip(publics.iter().rev());
    processor.public_values(&secrets) == publics
        && pairs.all(|(secret, peer)| processor.agree(secret, peer) == library::agree(secret, peer))
        && processor.agree(&secrets[0], &[0; 32]).is_none()
}

/// Computes, where shares are made eight at a time, what the first eight would have to wait for: a table of 30 KB, and a few
/// multiplications to see that they are right; 0.5 ms.
pub fn prepare() {
    LazyLock::force(&TRUSTED);
}

impl KeyShare {
    /// A fresh one, of those that were made with it before; if there is none, eight are made, or one if the processor cannot.
    ///
    /// Whatever is left of the eight is this thread's, in its memory until it is given to somebody or the thread ends.
    /// A process that is forked off must not go on and use its parent's; of a virtual machine that is copied while it runs, both
    /// give the same few shares, as they do with whatever else is in their memory.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        let Some(processor) = *TRUSTED else {
            return Self::one();
        };
        STOCK
            .try_with(|stock| {
                let mut stock = stock.borrow_mut();
                if let Some(share) = stock.pop() {
                    return Ok(share);
                }
                let [share, rest @ ..] = Self::eight(processor)?;
                stock.extend(rest);
                Ok(share)
            })
            // In a thread that ends there is no stock any more.
            .unwrap_or_else(|_| Self::one())
    }

    fn one() -> Result<Self, NoRandomness> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(&mut *secret).map_err(|_| NoRandomness)?;
        Ok(Self::new(&secret, library::public_value(&secret)))
    }

    fn eight(processor: Processor) -> Result<[Self; COUNT], NoRandomness> {
        let mut secrets = Zeroizing::new([[0; 32]; COUNT]);
        rand::fill(secrets.as_flattened_mut()).map_err(|_| NoRandomness)?;
        let publics = processor.public_values(&secrets);
        Ok(std::array::from_fn(|lane| {
            Self::new(&secrets[lane], publics[lane])
        }))
    }

    fn new(secret: &[u8; 32], public: [u8; 32]) -> Self {
        let mut boxed = Box::new(Zeroizing::new([0; 32]));
        boxed.copy_from_slice(secret);
        Self {
            secret: boxed,
            public,
        }
    }

    /// What the peer is to be told.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// What both sides share; `None` if the peer's value leads to all zeroes, which is to end a handshake (RFC 8446 §7.4.2).
    #[must_use]
    pub fn agree(self, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        match *TRUSTED {
            Some(processor) => processor.agree(&self.secret, peer),
            None => library::agree(&self.secret, peer),
        }
    }
}

#[cfg(test)]
mod tests;
