//! HMAC (RFC 2104) with keys that are prepared, over the block functions of SHA-2 (FIPS 180-4).
//!
//! The messages of TLS 1.3's key schedule are so short that a library's contexts, made to be fed in pieces of any size, cost
//! as much as the hashing. A key here is two states of the hash function, a message is written into one buffer beside its
//! padding, and what computes is the library's block function.
//!
//! What a key or a message leaves in a buffer or a state is wiped (as slices, for the library wipes arrays byte by byte). What is
//! moved, as a key is into the box that rustls wants, may leave a copy on the stack, as rustls' own does.

use std::marker::PhantomData;

use sha2::block_api::{compress256, compress512};
use zeroize::{Zeroize as _, zeroize_bytes};

/// Longest hash of a [`Function`], bytes.
pub(super) const MAX_HASH: usize = 48;

/// A hash function by its blocks.
pub(super) trait Function: Send + Sync + 'static {
    type State: Copy + Send + Sync;
    /// Two blocks: few messages are longer.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// Where it begins.
    const BEGIN: Self::State;
    const EMPTY: Self::Buffer;
    /// Bytes of a block.
    const BLOCK: usize;
    /// Bytes of a hash.
    const HASH: usize;
    /// Bytes of the count of bits behind a message.
    const COUNT: usize;

    /// Takes whole blocks.
    fn compress(state: &mut Self::State, blocks: &[u8]);

    /// Writes the hash that a state stands for.
    fn write(state: &Self::State, hash: &mut [u8]);

    fn wipe(state: &mut Self::State);
}

/// FIPS 180-4 §6.2.
pub(super) struct Sha256;

impl Function for Sha256 {
    type State = [u32; 8];
    type Buffer = [u8; 128];

    const BEGIN: Self::State = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    const EMPTY: Self::Buffer = [0; 128];
    const BLOCK: usize = 64;
    const HASH: usize = 32;
    const COUNT: usize = 8;

    fn compress(state: &mut Self::State, blocks: &[u8]) {
        compress256(state, blocks.as_chunks().0);
    }

    fn write(state: &Self::State, hash: &mut [u8]) {
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
    }

    fn wipe(state: &mut Self::State) {
        state.as_mut_slice().zeroize();
    }
}

/// FIPS 180-4 §6.5.
pub(super) struct Sha384;

impl Function for Sha384 {
    type State = [u64; 8];
    type Buffer = [u8; 256];

    const BEGIN: Self::State = [
        0xcbbb_9d5d_c105_9ed8,
        0x629a_292a_367c_d507,
        0x9159_015a_3070_dd17,
        0x152f_ecd8_f70e_5939,
        0x6733_2667_ffc0_0b31,
        0x8eb4_4a87_6858_1511,
        0xdb0c_2e0d_64f9_8fa7,
        0x47b5_481d_befa_4fa4,
    ];
    const EMPTY: Self::Buffer = [0; 256];
    const BLOCK: usize = 128;
    const HASH: usize = 48;
    const COUNT: usize = 16;

    fn compress(state: &mut Self::State, blocks: &[u8]) {
        compress512(state, blocks.as_chunks().0);
    }

    fn write(state: &Self::State, hash: &mut [u8]) {
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
    }

    fn wipe(state: &mut Self::State) {
        state.as_mut_slice().zeroize();
    }
}

/// A hash that is being computed.
struct Hashing<F: Function> {
    state: F::State,
    buffer: F::Buffer,
    /// Bytes in the buffer that are not hashed yet: less than it has. Behind them are zeroes, unless it was full before.
    filled: usize,
    /// Bytes that were hashed before those.
    hashed: u64,
    was_full: bool,
}

impl<F: Function> Hashing<F> {
    /// Goes on from a state that `blocks` led to.
    fn after(state: F::State, blocks: usize) -> Self {
        Self {
            state,
            buffer: F::EMPTY,
            filled: 0,
            hashed: (blocks * F::BLOCK) as u64,
            was_full: false,
        }
    }

    #[inline]
    fn update(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        match self.buffer.as_mut().get_mut(self.filled..end) {
            Some(room) if end < 2 * F::BLOCK => {
                room.copy_from_slice(bytes);
                self.filled = end;
            }
            _ => self.update_long(bytes),
        }
    }

    /// The same for what fills the buffer.
    #[cold]
    fn update_long(&mut self, mut bytes: &[u8]) {
        loop {
            let room = &mut self.buffer.as_mut()[self.filled..];
            if bytes.len() < room.len() {
                room[..bytes.len()].copy_from_slice(bytes);
                self.filled += bytes.len();
                return;
            }
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            self.flush();
            bytes = later;
        }
    }

    /// Hashes the buffer, which is full.
    fn flush(&mut self) {
        F::compress(&mut self.state, self.buffer.as_ref());
        self.hashed += (2 * F::BLOCK) as u64;
        self.filled = 0;
        self.was_full = true;
    }

    /// Pads (FIPS 180-4 §5.1) and writes the hash.
    fn finish(mut self, hash: &mut [u8]) {
        let length = self.hashed + self.filled as u64;
        self.buffer.as_mut()[self.filled] = 0x80;
        self.filled += 1;
        if self.was_full {
            self.buffer.as_mut()[self.filled..].fill(0);
        }
        if self.filled + F::COUNT > 2 * F::BLOCK {
            self.flush();
            self.buffer.as_mut().fill(0);
        }
        let end = match self.filled + F::COUNT <= F::BLOCK {
            true => F::BLOCK,
            false => 2 * F::BLOCK,
        };
        let blocks = &mut self.buffer.as_mut()[..end];
        pad(blocks, length);
        F::compress(&mut self.state, blocks);
        F::write(&self.state, hash);
    }
}

/// Writes the count of bits of a message of `length` bytes to the end of its last block.
fn pad(blocks: &mut [u8], length: u64) {
    if let Some(count) = blocks.last_chunk_mut() {
        *count = (length * 8).to_be_bytes();
    }
}

impl<F: Function> Drop for Hashing<F> {
    fn drop(&mut self) {
        F::wipe(&mut self.state);
        zeroize_bytes(self.buffer.as_mut());
    }
}

/// A key, ready to be used any number of times.
pub(super) struct Key<F: Function> {
    inner: F::State,
    outer: F::State,
}

impl<F: Function> Key<F> {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut buffer = F::EMPTY;
        let block = &mut buffer.as_mut()[..F::BLOCK];
        match block.get_mut(..key.len()) {
            Some(room) => room.copy_from_slice(key),
            // Longer than a block: its hash counts.
            None => {
                let mut hashing = Hashing::<F>::after(F::BEGIN, 0);
                hashing.update(key);
                hashing.finish(&mut block[..F::HASH]);
            }
        }
        let mut key = Self {
            inner: F::BEGIN,
            outer: F::BEGIN,
        };
        block.iter_mut().for_each(|byte| *byte ^= 0x36);
        F::compress(&mut key.inner, block);
        // Undoes that too.
        block.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5c);
        F::compress(&mut key.outer, block);
        zeroize_bytes(block);
        key
    }

    /// The tag of the message that `parts` are together.
    pub(super) fn sign<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Tag<F> {
        let mut inner = Hashing::<F>::after(self.inner, 1);
        for part in parts {
            inner.update(part);
        }
        // The same again for the hash of that, of which it is known that it fits in one block.
        let (mut state, mut buffer) = (self.outer, F::EMPTY);
        let block = &mut buffer.as_mut()[..F::BLOCK];
        inner.finish(&mut block[..F::HASH]);
        block[F::HASH] = 0x80;
        pad(block, (F::BLOCK + F::HASH) as u64);
        F::compress(&mut state, block);
        zeroize_bytes(block);
        let mut tag = Tag([0; MAX_HASH], PhantomData);
        F::write(&state, &mut tag.0[..F::HASH]);
        F::wipe(&mut state);
        tag
    }
}

/// What signs a message.
pub(super) struct Tag<F: Function>([u8; MAX_HASH], PhantomData<F>);

impl<F: Function> AsRef<[u8]> for Tag<F> {
    fn as_ref(&self) -> &[u8] {
        &self.0[..F::HASH]
    }
}

impl<F: Function> Drop for Tag<F> {
    fn drop(&mut self) {
        zeroize_bytes(&mut self.0);
    }
}

impl<F: Function> Clone for Key<F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner,
            outer: self.outer,
        }
    }
}

impl<F: Function> Drop for Key<F> {
    fn drop(&mut self) {
        F::wipe(&mut self.inner);
        F::wipe(&mut self.outer);
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

    use super::*;

    fn tag<F: Function>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let tag = Key::<F>::new(key).sign(parts.iter().copied());
        tag.as_ref().to_vec()
    }

    fn expected(algorithm: hmac::Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(algorithm, key), message)
            .as_ref()
            .to_vec()
    }

    /// Every length around the ends of blocks and of their padding, of key and message.
    #[test]
    fn every_length_gives_what_the_library_gives() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(300).collect();
        for length in 0..bytes.len() {
            for key in [0, 1, 32, 48, 63, 64, 65, 127, 128, 129, 300] {
                let (key, message) = (&bytes[..key], &bytes[..length]);
                assert_eq!(
                    tag::<Sha256>(key, &[message]),
                    expected(hmac::HMAC_SHA256, key, message)
                );
                assert_eq!(
                    tag::<Sha384>(key, &[message]),
                    expected(hmac::HMAC_SHA384, key, message)
                );
            }
        }
    }

    proptest! {
        #[test]
        fn parts_are_one_message(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..150), 0..6),
        ) {
            let message = parts.concat();
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(tag::<Sha256>(&key, &parts), expected(hmac::HMAC_SHA256, &key, &message));
            prop_assert_eq!(tag::<Sha384>(&key, &parts), expected(hmac::HMAC_SHA384, &key, &message));
        }
    }
}
