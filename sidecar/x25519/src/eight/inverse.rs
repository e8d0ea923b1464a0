//! Inverses modulo p = 2^255 - 19 by division steps (Bernstein and Yang, "Fast constant-time gcd computation and modular
//! inversion"), in the way of libsecp256k1: a greatest common divisor that takes as many steps for one number as for any other.
//!
//! Numbers may be secret. No step decides a branch or an address: what it does is up to two masks, of all ones or all zeroes.
//! The compiler is not told that they are, so that it has no reason to make a branch of one.
//!
//! f and g start as p and the number, and end as 1 or -1 and zero. A step divides g by two, after it has made it even by adding
//! or subtracting f, or has made it the next f if it was time for that. d and e are what f and g are of the number, modulo p.
//! The steps look at the lowest bits alone, so 59 are done on one word, and then their product, a matrix, on all four numbers.

use std::hint::black_box;

/// Bits of a limb but the highest, which has the sign.
const BITS: u32 = 62;
/// Bits of a limb that is not the highest.
const MASK: i64 = (1 << BITS) - 1;
/// Steps that are done on one word. Each doubles the matrix, which starts as 2^3 times the unit, so that it is of 2^62.
const STEPS: u32 = 59;
/// With 590 steps any two numbers of 256 bits are done, when zeta starts at -1 (Pieter Wuille, "Bounds on divsteps iterations in
/// safegcd").
const ROUNDS: u32 = 10;

/// A number of either sign.
type Limbs = [i64; 5];

const P: Limbs = [-19, 0, 0, 0, 1 << 7];

/// The inverse of p modulo 2^64, by Newton's method: each time twice as many bits are right.
const INVERSE: u64 = {
    let p = P[0].cast_unsigned();
    let mut inverse: u64 = 1;
    let mut bits = 1;
    while bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(p.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
};

/// What 59 steps do, times 2^62: (u f + v g) / 2^62 and (q f + r g) / 2^62 are the next f and g. The magnitudes of u and v add
/// up to no more than 2^62, as do those of q and r.
#[derive(Clone, Copy)]
struct Matrix {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

/// The inverse of a number less than p, which is less than p too; zero for zero. Both lowest word first.
pub(super) fn inverse(number: &[u64; 4]) -> [u64; 4] {
    let (mut f, mut g) = (P, limbs(number));
    let (mut d, mut e) = ([0; 5], [1, 0, 0, 0, 0]);
    let mut zeta = -1;
    for _ in 0..ROUNDS {
        let matrix = steps(&mut zeta, f[0], g[0]);
        matrix.apply_modulo_p(&mut d, &mut e);
        matrix.apply(&mut f, &mut g);
    }
    debug_assert_eq!(g, [0; 5]);
    words(&reduced(d, f[4]))
}

fn limbs(words: &[u64; 4]) -> Limbs {
    let [a, b, c, d] = words;
    let limbs = [*a, a >> 62 | b << 2, b >> 60 | c << 4, c >> 58 | d << 6];
    let [a, b, c, highest] = limbs.map(|limb| limb.cast_signed() & MASK);
    [a, b, c, highest, (d >> 56).cast_signed()]
}

/// Of a number that is not negative, with limbs that are not.
fn words(limbs: &Limbs) -> [u64; 4] {
    let [a, b, c, d, e] = limbs.map(i64::cast_unsigned);
    [
        a | b << 62,
        b >> 2 | c << 60,
        c >> 4 | d << 58,
        d >> 6 | e << 56,
    ]
}

/// The steps that the lowest bits of f and g ask for. `zeta` is -(delta + 1/2) of the paper's.
#[inline(never)]
fn steps(zeta: &mut i64, f: i64, g: i64) -> Matrix {
    let (mut f, mut g) = (f.cast_unsigned(), g.cast_unsigned());
    let (mut u, mut v, mut q, mut r) = (8u64, 0u64, 0u64, 8u64);
    let mut z = zeta.cast_unsigned();
    let zero = black_box(0u64);
    for _ in 0..STEPS {
        let is_negative = zero.wrapping_sub(z >> 63);
        let is_odd = zero.wrapping_sub(g & 1);
        let signed = |word: u64| (word ^ is_negative).wrapping_sub(is_negative) & is_odd;
        g = g.wrapping_add(signed(f));
        q = q.wrapping_add(signed(u));
        r = r.wrapping_add(signed(v));
        let both = is_negative & is_odd;
        z = (z ^ both).wrapping_sub(1);
        f = f.wrapping_add(g & both);
        u = u.wrapping_add(q & both);
        v = v.wrapping_add(r & both);
        g >>= 1;
        u <<= 1;
        v <<= 1;
    }
    *zeta = z.cast_signed();
    let [u, v, q, r] = [u, v, q, r].map(u64::cast_signed);
    Matrix { u, v, q, r }
}

impl Matrix {
    /// The next f and g: the sums are multiples of 2^62.
    fn apply(self, f: &mut Limbs, g: &mut Limbs) {
        let (mut next_f, mut next_g) = self.of(f[0], g[0]);
        debug_assert!(next_f as i64 & MASK == 0 && next_g as i64 & MASK == 0);
        for i in 1..5 {
            let (more_f, more_g) = self.of(f[i], g[i]);
            next_f = (next_f >> BITS) + more_f;
            next_g = (next_g >> BITS) + more_g;
            f[i - 1] = next_f as i64 & MASK;
            g[i - 1] = next_g as i64 & MASK;
        }
        f[4] = (next_f >> BITS) as i64;
        g[4] = (next_g >> BITS) as i64;
    }

    /// The next d and e, more than -2p and less than p as they were before: with such multiples of p added that the sums are
    /// multiples of 2^62.
    fn apply_modulo_p(self, d: &mut Limbs, e: &mut Limbs) {
        let (mut next_d, mut next_e) = self.of(d[0], e[0]);
        // What is negative as if p was added to it.
        let (sign_d, sign_e) = (d[4] >> 63, e[4] >> 63);
        let times = |added: i64, next: i128| {
            let missing = INVERSE
                .wrapping_mul(next as u64)
                .wrapping_add(added.cast_unsigned());
            added - (missing.cast_signed() & MASK)
        };
        let times_d = times((self.u & sign_d) + (self.v & sign_e), next_d);
        let times_e = times((self.q & sign_d) + (self.r & sign_e), next_e);
        next_d += product(P[0], times_d);
        next_e += product(P[0], times_e);
        debug_assert!(next_d as i64 & MASK == 0 && next_e as i64 & MASK == 0);
        for i in 1..5 {
            let (more_d, more_e) = self.of(d[i], e[i]);
            next_d = (next_d >> BITS) + more_d + product(P[i], times_d);
            next_e = (next_e >> BITS) + more_e + product(P[i], times_e);
            d[i - 1] = next_d as i64 & MASK;
            e[i - 1] = next_e as i64 & MASK;
        }
        d[4] = (next_d >> BITS) as i64;
        e[4] = (next_e >> BITS) as i64;
        debug_assert!(
            [d[4], e[4]]
                .iter()
                .all(|highest| (-2 * P[4]..P[4]).contains(highest))
        );
    }

    fn of(self, a: i64, b: i64) -> (i128, i128) {
        (
            product(self.u, a) + product(self.v, b),
            product(self.q, a) + product(self.r, b),
        )
    }
}

fn product(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// A number more than -2p and less than p, the other way round if `sign` is negative, modulo p and from 0 on.
fn reduced(mut number: Limbs, sign: i64) -> Limbs {
    let is_negative = black_box(sign >> 63);
    add_to_negative(&mut number);
    number = number.map(|limb| (limb ^ is_negative) - is_negative);
    carry(&mut number);
    add_to_negative(&mut number);
    carry(&mut number);
    number
}

/// Adds p to a negative number, of which the limbs are not carried then.
fn add_to_negative(number: &mut Limbs) {
    let is_negative = black_box(number[4] >> 63);
    for (limb, p) in number.iter_mut().zip(P) {
        *limb += p & is_negative;
    }
}

fn carry(number: &mut Limbs) {
    for i in 0..4 {
        number[i + 1] += number[i] >> BITS;
        number[i] &= MASK;
    }
}

#[cfg(test)]
mod tests;
