//! Inverses modulo an odd number of 256 bits, by Bernstein and Yang's division steps
//! ("Fast constant-time gcd computation and modular inversion", 2019), in variable time.
//!
//! 62 steps at a time are taken on the lowest words of the two numbers and gathered in a matrix, which is then applied to
//! the whole numbers. Numbers are held as five signed digits of 62 bits, so that products with the matrix fit.

use crate::limbs::{self, Limbs};

/// Steps per matrix, bits per digit.
const BITS: u32 = 62;
const MASK: u64 = (1 << BITS) - 1;

/// A number of digits of 62 bits, least significant first; the highest has the sign.
type Digits = [i64; 5];

/// A number to invert by.
pub(crate) struct Modulus {
    limbs: Limbs,
    digits: Digits,
    /// Its inverse modulo 2^62.
    inverse: u64,
}

impl Modulus {
    /// An odd number.
    pub(crate) const fn new(limbs: &Limbs) -> Self {
        let digits = digits(limbs);
        // Newton: each round doubles the bits that are right; an odd number is its own inverse modulo 8.
        let number = limbs[0];
        let mut inverse = number;
        let mut bits = 3;
        while bits < BITS {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(number.wrapping_mul(inverse)));
            bits *= 2;
        }
        Self {
            limbs: *limbs,
            digits,
            inverse: inverse & MASK,
        }
    }
}

const fn digits(limbs: &Limbs) -> Digits {
    let [a, b, c, d] = *limbs;
    [
        (a & MASK) as i64,
        ((a >> 62 | b << 2) & MASK) as i64,
        ((b >> 60 | c << 4) & MASK) as i64,
        ((c >> 58 | d << 6) & MASK) as i64,
        (d >> 56) as i64,
    ]
}

/// The inverse of `number`, which is less than the modulus and has no factor in common with it; zero for zero.
pub(crate) fn invert(number: &Limbs, modulus: &Modulus) -> Limbs {
    let (mut f, mut g) = (modulus.digits, digits(number));
    // d = f / number and e = g / number modulo the modulus, but for powers of two that the matrices take out.
    let (mut d, mut e): (Digits, Digits) = ([0; 5], [1, 0, 0, 0, 0]);
    let mut eta = -1;
    let mut length = 5;
    while g[..length].iter().any(|digit| *digit != 0) {
        let matrix = steps(&mut eta, f[0] as u64, g[0] as u64);
        matrix.apply_modulo(&mut d, &mut e, modulus);
        matrix.apply(&mut f[..length], &mut g[..length]);
        // A highest digit that is nothing but a sign goes into the one below it.
        let (f_high, g_high) = (f[length - 1], g[length - 1]);
        if length > 1 && f_high == f_high >> 63 && g_high == g_high >> 63 {
            length -= 1;
            f[length - 1] |= f_high << BITS;
            g[length - 1] |= g_high << BITS;
        }
    }
    // f is the greatest common divisor, 1 or -1.
    to_limbs(&d, f[length - 1] < 0, modulus)
}

/// `number`, or its opposite, between 0 and the modulus, from between minus twice the modulus and the modulus.
fn to_limbs(number: &Digits, negate: bool, modulus: &Modulus) -> Limbs {
    let [a, b, c, d, high] = *number;
    // Two's complement of 320 bits: the digits below the highest are not negative.
    let (a, b, c, d) = (a as u64, b as u64, c as u64, d as u64);
    let mut low = [
        a | b << 62,
        b >> 2 | c << 60,
        c >> 4 | d << 58,
        d >> 6 | (high as u64) << 56,
    ];
    let mut sign = high >> 8;
    while sign < 0 {
        let (sum, carry) = limbs::add(&low, &modulus.limbs);
        low = sum;
        sign += i64::from(carry);
    }
    if negate && low != [0; 4] {
        low = limbs::sub(&modulus.limbs, &low).0;
    }
    low
}

/// What 62 steps make of two numbers, times 2^62: `f' = (u f + v g) / 2^62`, `g' = (q f + r g) / 2^62`.
/// Of each row the absolute values add up to 2^62 at most.
struct Matrix {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

/// 62 division steps of numbers with these lowest digits, `f` odd. `eta` is the paper's -delta.
fn steps(eta: &mut i32, mut f: u64, mut g: u64) -> Matrix {
    let (mut u, mut v, mut q, mut r) = (1u64, 0u64, 0u64, 1u64);
    let mut left = BITS;
    loop {
        // Steps with an even g only halve it.
        let zeros = (g | u64::MAX << left).trailing_zeros();
        g >>= zeros;
        u <<= zeros;
        v <<= zeros;
        *eta -= zeros.cast_signed();
        left -= zeros;
        if left == 0 {
            break;
        }
        if *eta < 0 {
            *eta = -*eta;
            (f, g) = (g, f.wrapping_neg());
            (u, q) = (q, u.wrapping_neg());
            (v, r) = (r, v.wrapping_neg());
        }
        // The steps until the numbers would change places, or the end, add f to g or do not: the multiple of f that makes
        // as many of g's bits zero, six at most, takes them all at once. f (f f - 2) is -1/f modulo 2^6.
        let bits = (eta.cast_unsigned() + 1).min(left).min(6);
        let multiple = g.wrapping_mul(f.wrapping_mul(f.wrapping_mul(f).wrapping_sub(2)));
        let multiple = multiple & ((1 << bits) - 1);
        g = g.wrapping_add(f.wrapping_mul(multiple));
        q = q.wrapping_add(u.wrapping_mul(multiple));
        r = r.wrapping_add(v.wrapping_mul(multiple));
    }
    Matrix {
        u: u.cast_signed(),
        v: v.cast_signed(),
        q: q.cast_signed(),
        r: r.cast_signed(),
    }
}

#[inline(always)]
fn wide(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// The lowest digit of a sum, taken off it.
#[inline(always)]
fn take_digit(sum: &mut i128) -> i64 {
    let digit = (*sum as u64 & MASK).cast_signed();
    *sum >>= BITS;
    digit
}

impl Matrix {
    /// Replaces the numbers by what the steps make of them; the division has no remainder.
    fn apply(&self, f: &mut [i64], g: &mut [i64]) {
        let (mut f_sum, mut g_sum) = (0, 0);
        let length = f.len().min(g.len());
        for index in 0..length {
            f_sum += wide(self.u, f[index]) + wide(self.v, g[index]);
            g_sum += wide(self.q, f[index]) + wide(self.r, g[index]);
            let (f_digit, g_digit) = (take_digit(&mut f_sum), take_digit(&mut g_sum));
            if index > 0 {
                (f[index - 1], g[index - 1]) = (f_digit, g_digit);
            }
        }
        (f[length - 1], g[length - 1]) = (f_sum as i64, g_sum as i64);
    }

    /// As [`Matrix::apply`] modulo the modulus, of which as much is added as makes the division one without remainder. The
    /// numbers are and stay between minus twice the modulus and the modulus.
    fn apply_modulo(&self, d: &mut Digits, e: &mut Digits, modulus: &Modulus) {
        let (d_sign, e_sign) = (d[4] >> 63, e[4] >> 63);
        // Once the modulus for each that is negative keeps the result in bounds.
        let d_more = (self.u & d_sign) + (self.v & e_sign);
        let e_more = (self.q & d_sign) + (self.r & e_sign);
        let mut d_sum = wide(self.u, d[0]) + wide(self.v, e[0]);
        let mut e_sum = wide(self.q, d[0]) + wide(self.r, e[0]);
        let multiple = |sum: i128, more: i64| {
            let remainder = modulus.inverse.wrapping_mul(sum as u64);
            more - (remainder.wrapping_add(more.cast_unsigned()) & MASK).cast_signed()
        };
        let (d_more, e_more) = (multiple(d_sum, d_more), multiple(e_sum, e_more));
        d_sum += wide(modulus.digits[0], d_more);
        e_sum += wide(modulus.digits[0], e_more);
        (d_sum, e_sum) = (d_sum >> BITS, e_sum >> BITS);
        for index in 1..5 {
            let factor = modulus.digits[index];
            d_sum += wide(self.u, d[index]) + wide(self.v, e[index]) + wide(factor, d_more);
            e_sum += wide(self.q, d[index]) + wide(self.r, e[index]) + wide(factor, e_more);
            (d[index - 1], e[index - 1]) = (take_digit(&mut d_sum), take_digit(&mut e_sum));
        }
        (d[4], e[4]) = (d_sum as i64, e_sum as i64);
    }
}

#[cfg(test)]
mod tests;
