//! What tokens are remembered by: a digest of every byte, keyed, so that nobody can foresee it and logs can name a token by
//! its start.

use std::hash::Hasher;

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 over this process's secret and the token.
pub type Digest = [u8; 32];

/// Digests tokens.
pub struct Digester(Context);

impl Digester {
    /// Keyed with `seed`, which must not be foreseeable.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&seed);
        Self(context)
    }

    /// The digest of a whole token.
    pub fn digest(&self, token: &[u8]) -> Digest {
        let mut context = self.0.clone();
        context.update(token);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

/// A keyed digest is a hash already: its start is taken as it is.
#[derive(Default)]
pub struct Start(u64);

impl Hasher for Start {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().take(8).enumerate() {
            self.0 ^= u64::from(*byte) << (8 * i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_every_byte_and_on_the_secret() {
        let digester = Digester::new([1; 32]);
        let token = b"eyJ.eyJ.sig";
        assert_eq!(digester.digest(token), digester.digest(token));
        assert_ne!(digester.digest(token), digester.digest(b"eyJ.eyJ.siG"));
        assert_ne!(digester.digest(token), digester.digest(b"eyJ.eyJ.sig "));
        assert_ne!(digester.digest(token), Digester::new([2; 32]).digest(token));
    }
}
