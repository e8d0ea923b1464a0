//! Random bytes for handshakes, which ask for few at a time, fetched from the library many at a time.
//!
//! The library takes entropy and makes a new state for each answer, however short, so that who reads its memory learns nothing
//! of what was given. Here a thread has the bytes of its next handshakes in its memory, and wipes what it gives away. They are
//! nonces of messages and what hides a ticket's age, never a key: of a process that became two (a forked one, a copy of a virtual
//! machine) both give the same ones, which anybody may see. What must not come twice is fetched where it is needed.

use std::cell::RefCell;

use aws_lc_rs::rand;
use rustls::crypto::{GetRandomFailed, SecureRandom};
use zeroize::zeroize_bytes;

/// Bytes that are fetched at a time.
const STOCK: usize = 512;
/// Most bytes that are given of them; more are fetched for whoever asks.
const MOST: usize = 64;

thread_local! {
    static HELD: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK], left: 0 }) };
}

struct Stock {
    bytes: [u8; STOCK],
    /// The first of them are not given away yet.
    left: usize,
}

impl Stock {
    fn give(&mut self, to: &mut [u8]) -> Result<(), GetRandomFailed> {
        if self.left < to.len() {
            self.left = 0;
            fetch(&mut self.bytes)?;
            self.left = STOCK;
        }
        let from = self.left - to.len();
        let given = &mut self.bytes[from..self.left];
        to.copy_from_slice(given);
        zeroize_bytes(given);
        self.left = from;
        Ok(())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        zeroize_bytes(&mut self.bytes);
    }
}

fn fetch(to: &mut [u8]) -> Result<(), GetRandomFailed> {
    rand::fill(to).map_err(|_| GetRandomFailed)
}

/// The randomness of every connection.
#[derive(Debug)]
pub(super) struct Stocked;

impl SecureRandom for Stocked {
    fn fill(&self, to: &mut [u8]) -> Result<(), GetRandomFailed> {
        if to.len() > MOST {
            return fetch(to);
        }
        HELD.try_with(|held| held.borrow_mut().give(to))
            // A thread that ends has no stock any more.
            .unwrap_or_else(|_| fetch(to))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn given(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Stocked.fill(&mut bytes).unwrap();
        bytes
    }

    /// Of 16 bytes no two that are random are alike, and none is what a stock was wiped to.
    #[test]
    fn nothing_is_given_twice_whatever_is_asked_for() {
        let asked = [16, 32, 17, 64, 65, 16, 31, 1000, 64, 63];
        let on_a_thread = || -> Vec<Vec<u8>> {
            let asked = asked.iter().cycle().take(400);
            asked.map(|length| given(*length)).collect()
        };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(on_a_thread)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let parts: Vec<_> = answers
            .iter()
            .flat_map(|answer| answer.chunks_exact(16))
            .collect();
        let distinct: HashSet<_> = parts.iter().collect();
        assert_eq!(distinct.len(), parts.len());
        assert!(!distinct.contains(&&[0; 16][..]));
    }

    #[test]
    fn what_was_given_away_is_not_kept() {
        let mut stock = Stock {
            bytes: [1; STOCK],
            left: 40,
        };
        let mut to = [0; 32];
        stock.give(&mut to).unwrap();
        assert_eq!((to, stock.left), ([1; 32], 8));
        assert_eq!(
            (&stock.bytes[..8], &stock.bytes[8..40]),
            (&[1; 8][..], &[0; 32][..])
        );
        stock.give(&mut to).unwrap();
        assert_eq!(stock.left, STOCK - 32);
        assert_ne!(to, [1; 32]);
    }
}
