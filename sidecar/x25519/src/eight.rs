//! Public values of eight secrets at once, one in each lane of a processor's 512 bits (AVX-512 with IFMA), and by
//! the same lanes what one secret and one public value have in common ([`ladder`]).
//!
//! On the Edwards form of the curve (RFC 7748 §4.1) the base point times a secret is the sum of multiples out of a table, one
//! for each digit of the secret. All lanes do the same at the same time. Nothing secret decides a branch or an address:
//! - digits are found by one addition and shifts by constants ([`recode`], [`lanes::digits`]),
//! - the whole of a digit's window is read, and each lane has its multiple by a permutation of words in a register
//!   ([`table::Window::look_up`]),
//! - one formula adds all points, equal, opposite and neutral ones ([`curve`]),
//! - the exponent of the inversion is a constant ([`lanes::Lanes::invert`]).
//!
//! Digits are wiped; what registers spill to the stack meanwhile, multiples and sums, is not, but written over by the next call.

mod curve;
mod field;
mod four;
mod inverse;
mod ladder;
mod lanes;
#[cfg(test)]
mod oracle;
mod table;

use std::sync::LazyLock;

use zeroize::Zeroizing;

use curve::Extended;
use table::Table;

/// Secrets that are multiplied at once.
pub(crate) const COUNT: usize = 8;

/// Of the base point: 30 KB, made when the first secrets are multiplied, in 0.15 ms.
static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// A processor that can: only there does one exist.
#[derive(Clone, Copy)]
pub(crate) struct Processor(());

impl Processor {
    pub(crate) fn detect() -> Option<Self> {
        let can = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512ifma");
        can.then_some(Self(()))
    }

    /// The public value of each secret (RFC 7748 §6.1).
    #[allow(unsafe_code, reason = "not every processor can")]
    pub(crate) fn public_values(self, secrets: &[[u8; 32]; COUNT]) -> [[u8; 32]; COUNT] {
        let mut words = Zeroizing::new([[0; COUNT]; 4]);
        recode(secrets, &mut words);
        // SAFETY: it is safe but for the instructions that it is compiled to, those of AVX-512F, DQ and IFMA, and `self` is only
        // to be had where the processor has been found to have all of them.
        unsafe { multiply(&words, &TABLE) }
    }

    /// What a secret and a public value have in common; `None` if that is all zeroes, which nothing branches on before the end
    /// (RFC 7748 §6.1).
    #[allow(unsafe_code, reason = "not every processor can")]
    pub(crate) fn agree(self, secret: &[u8; 32], peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let secret = Zeroizing::new(number(secret));
        let mut u = words(peer);
        // Not a part of the value (RFC 7748 §5).
        u[3] &= !(1 << 63);
        // SAFETY: as above.
        let shared = Zeroizing::new(unsafe { ladder::multiply(&secret, &u) });
        let any = shared.iter().fold(0, |any, byte| any | byte);
        (any != 0).then_some(shared)
    }
}

/// Words, lowest first.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The number that a secret stands for (RFC 7748 §5).
fn number(secret: &[u8; 32]) -> [u64; 4] {
    let [a, b, c, d] = words(secret);
    [a & !7, b, c, d & !(1 << 63) | 1 << 62]
}

/// Words of numbers, lowest first, one number in each lane: `words[0][5]` is the lowest of the sixth.
type Words = [[u64; COUNT]; 4];

/// Writes the numbers that secrets stand for (RFC 7748 §5), each with eight added to all of its hexadecimal digits but the
/// highest.
///
/// So a digit of the sum less eight, from -8 to 7, is a digit of the number, in another way to write it with digits of these
/// values ([`lanes::digits`]). The highest is from 4 to 8: the number is at least 2^254, and the sum less than 2^255 + 2^252.
fn recode(secrets: &[[u8; 32]; COUNT], words: &mut Words) {
    const EIGHTS: [u64; 4] = [
        0x8888_8888_8888_8888,
        0x8888_8888_8888_8888,
        0x8888_8888_8888_8888,
        0x0888_8888_8888_8888,
    ];
    for (lane, secret) in secrets.iter().enumerate() {
        let mut carry = false;
        let number = Zeroizing::new(number(secret));
        for (index, (word, eights)) in number.iter().zip(EIGHTS).enumerate() {
            let (sum, first) = word.overflowing_add(eights);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first | second;
            words[index][lane] = sum;
        }
    }
}

/// The u of the base point times the number in each lane.
///
/// The table has a window for two digits. The multiples for all digits that are odd in number are summed up first, the sum is
/// taken sixteen times, and the multiples for the others are added to that. Two sums at a time are no faster: there is enough to
/// do within one.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn multiply(words: &Words, table: &Table) -> [[u8; 32]; COUNT] {
    let mut sum = Extended::neutral();
    for (place, window) in table.windows().enumerate() {
        let multiple = window.look_up(lanes::digits(words, 2 * place + 1));
        sum = sum.add(&multiple).extended();
    }
    for _ in 0..4 {
        sum = sum.double().extended();
    }
    for (place, window) in table.windows().enumerate() {
        let multiple = window.look_up(lanes::digits(words, 2 * place));
        sum = sum.add(&multiple).extended();
    }
    // z - y is zero for the neutral element alone, which no secret leads to: its number is a multiple of 8, less than 2^255, and
    // would have to be one of the base point's order too, a prime larger than 2^252.
    let (numerator, denominator) = (sum.z.add(&sum.y), sum.z.sub(&sum.y));
    let u = numerator.mul(&denominator.invert());
    u.elements().map(|u| u.bytes())
}

#[cfg(test)]
mod tests;
