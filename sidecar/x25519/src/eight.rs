//! Public values of eight secrets at once, one in each lane of a processor's 512 bits (AVX-512 with IFMA).
//!
//! On the Edwards form of the curve (RFC 7748 §4.1) the base point times a secret is a sum of entries of a table, one for each
//! digit. All lanes do the same at the same time, whatever their secrets are. Nothing secret decides a branch or an address:
//! - digits are bits of a sum that carries take their way through as in any addition ([`multiply`]),
//! - of an entry's window the whole is read, and a lane takes its entry by a permutation inside of the processor, which takes
//!   as long whichever it is ([`table::Window::look_up`]),
//! - a sum is right for all points, so that none is looked at ([`curve`]),
//! - the exponent that inverts is a constant ([`lanes::Lanes::invert`]).
//!
//! What is public at the end leaves for arithmetic with branches ([`field`]), which the table is made by too.

mod curve;
mod field;
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

/// Of the base point: 30 KB, made when the first secrets are multiplied, in 0.1 ms.
static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// A processor that can: only there does one exist.
#[derive(Clone, Copy)]
pub(crate) struct Processor(());

impl Processor {
    pub(crate) fn detect() -> Option<Self> {
        let can = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        can.then_some(Self(()))
    }

    /// Computes what the first multiplication would.
    pub(crate) fn prepare(self) {
        LazyLock::force(&TABLE);
    }

    /// The public value of each secret (RFC 7748 §6.1).
    #[allow(unsafe_code, reason = "not every processor can")]
    pub(crate) fn public_values(self, secrets: &[[u8; 32]; COUNT]) -> [[u8; 32]; COUNT] {
        let words = Zeroizing::new(recoded(secrets));
        // SAFETY: it is safe but for the instructions that it is compiled to, AVX-512F's and AVX-512IFMA's, and `self` is
        // only to be had where the processor has been found to have both.
        unsafe { multiply(&words, &TABLE) }
    }
}

/// Words of numbers, lowest first, one number in each lane: `words[0][5]` is the lowest of the sixth.
type Words = [[u64; COUNT]; 4];

/// The numbers that secrets stand for (RFC 7748 §5), each with eight added to all of its hexadecimal digits but the highest.
///
/// So a digit of the sum less eight, from -8 to 7, is a digit of the number, in another way to write it with digits of these
/// values. The highest is from 4 to 8: the number is at least 2^254, and the sum less than 2^255 + 2^252.
fn recoded(secrets: &[[u8; 32]; COUNT]) -> Words {
    const EIGHTS: [u64; 4] = [
        0x8888_8888_8888_8888,
        0x8888_8888_8888_8888,
        0x8888_8888_8888_8888,
        0x0888_8888_8888_8888,
    ];
    let mut words = [[0; COUNT]; 4];
    for (lane, secret) in secrets.iter().enumerate() {
        let mut carry = false;
        for (index, (bytes, eights)) in secret.as_chunks().0.iter().zip(EIGHTS).enumerate() {
            let mut word = u64::from_le_bytes(*bytes);
            if index == 0 {
                word &= !7;
            }
            if index == 3 {
                word = word & !(1 << 63) | 1 << 62;
            }
            let (sum, first) = word.overflowing_add(eights);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first | second;
            words[index][lane] = sum;
        }
    }
    words
}

/// The u of the base point times the number in each lane.
///
/// With the table's windows of two digits each, the entries of all odd digits are summed up first, then multiplied by
/// sixteen, and then those of all even ones added.
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply(words: &Words, table: &Table) -> [[u8; 32]; COUNT] {
    let digits = lanes::Digits::new(words);
    let mut sum = Extended::neutral();
    for (place, window) in table.windows().enumerate() {
        sum = sum
            .add(&window.look_up(digits.at(2 * place + 1)))
            .extended();
    }
    for _ in 0..4 {
        sum = sum.double().extended();
    }
    for (place, window) in table.windows().enumerate() {
        sum = sum.add(&window.look_up(digits.at(2 * place))).extended();
    }
    // Of the neutral element alone is z - y zero, and its order, 8 times a prime larger than 2^252, divides no number of a
    // secret: that is a multiple of 8 less than 2^255.
    let (numerator, denominator) = (sum.z.add(&sum.y), sum.z.sub(&sum.y));
    let u = numerator.mul(&denominator.invert());
    u.elements().map(|u| u.bytes())
}

#[cfg(test)]
mod tests;
