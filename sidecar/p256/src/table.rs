//! Multiples of a point that are computed once, so that any other multiple is the sum of a few.
//!
//! A multiplier is written with odd digits, signed and few (a non-adjacent form of `WIDTH` bits, on average one digit
//! other than zero in `WIDTH + 1` bits). The table has `d * 2^(SPACING * i)` times the point for every digit `d` that is
//! positive and every `i`, so that a digit at bit `SPACING * i + l` is one sum before the last `l` of `SPACING - 1`
//! doublings, which all digits, and all tables of one spacing, share.

use crate::field::Field;
use crate::limbs::Limbs;
use crate::point::{Affine, Jacobian, invert_all, to_affine};

/// Doublings that a product shares, and one. With 16 a verification takes 7 % fewer instructions and a key half as much
/// memory again; with 32 it takes 7 % more.
pub(crate) const SPACING: usize = 24;
/// Points at distances of [`SPACING`] bits: a non-adjacent form is one bit longer than the number.
const COLUMNS: usize = 257usize.div_ceil(SPACING);

/// Odd multiples of a point and of its multiples by powers of two: `WIDTH` bits per digit.
pub(crate) struct Table<const WIDTH: u32> {
    /// [`Table::DIGITS`] for each column.
    points: Box<[Affine]>,
}

impl<const WIDTH: u32> Table<WIDTH> {
    /// Digits that are odd, positive and less than 2^(WIDTH - 1).
    const DIGITS: usize = 1 << (WIDTH - 2);

    /// Computes the multiples.
    pub(crate) fn new(point: Affine) -> Self {
        let doubled = Self::doubled(point);
        let mut points = vec![point; COLUMNS * Self::DIGITS];
        let per_column = WIDTH as usize - 1;
        for (column, powers) in points
            .chunks_exact_mut(Self::DIGITS)
            .zip(doubled.chunks_exact(per_column))
        {
            column[0] = powers[0];
        }
        // From the odd multiples below 2^k, those below 2^(k+1): 2^k more. Neither of the two is the other or its opposite,
        // for n is a prime, larger than any of these multipliers.
        for k in 1..per_column {
            let known = 1 << (k - 1);
            let mut inverses: Vec<Field> = Vec::with_capacity(COLUMNS * known);
            let columns = points.chunks_exact(Self::DIGITS);
            for (column, powers) in columns.zip(doubled.chunks_exact(per_column)) {
                inverses.extend(column[..known].iter().map(|p| powers[k].x.sub(&p.x)));
            }
            invert_all(&mut inverses);
            let columns = points.chunks_exact_mut(Self::DIGITS);
            for ((column, powers), inverses) in columns
                .zip(doubled.chunks_exact(per_column))
                .zip(inverses.chunks_exact(known))
            {
                let (known, new) = column.split_at_mut(known);
                for ((new, known), inverse) in new.iter_mut().zip(known).zip(inverses) {
                    *new = sum(known, &powers[k], inverse);
                }
            }
        }
        Self {
            points: points.into_boxed_slice(),
        }
    }

    /// For each column, its point times 2^0 to 2^(WIDTH - 2).
    fn doubled(point: Affine) -> Vec<Affine> {
        let mut doubled = Vec::with_capacity(COLUMNS * (WIDTH as usize - 1));
        let mut power = Jacobian::from(point);
        for bit in 0..COLUMNS * SPACING {
            if bit % SPACING < WIDTH as usize - 1 {
                doubled.push(power);
            }
            power = power.double();
        }
        to_affine(&doubled)
    }

    /// Bytes that it occupies.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&*self.points)
    }
}

/// The sum of two points whose x differ, by the inverse of the second's less the first's.
fn sum(a: &Affine, b: &Affine, inverse: &Field) -> Affine {
    let slope = b.y.sub(&a.y).mul(inverse);
    let x = slope.square().sub(&a.x).sub(&b.x);
    let y = slope.mul(&a.x.sub(&x)).sub(&a.y);
    Affine { x, y }
}

/// Digits of a multiplier, by the number of doublings after them.
struct Digits {
    /// The place in the table, and the sign.
    levels: [[(u16, bool); COLUMNS]; SPACING],
    counts: [usize; SPACING],
}

impl Digits {
    /// The non-adjacent form of `WIDTH` bits.
    fn new<const WIDTH: u32>(number: &Limbs) -> Self {
        let mut digits = Self {
            levels: [[(0, false); COLUMNS]; SPACING],
            counts: [0; SPACING],
        };
        // The bits from `position` on; a carry makes them one more.
        let mut position = 0;
        let mut carry = 0;
        while position <= 256 {
            let bits = bits_at(number, position);
            // Where the bits equal the carry, all of them and it are zero or a carry again.
            let skip = (bits ^ 0u64.wrapping_sub(carry)).trailing_zeros();
            if skip > 0 {
                position += skip as usize;
                continue;
            }
            let digit = (bits & ((1 << WIDTH) - 1)) + carry;
            carry = digit >> (WIDTH - 1);
            let negative = carry != 0;
            let magnitude = if negative {
                (1 << WIDTH) - digit
            } else {
                digit
            };
            let (column, level) = (position / SPACING, position % SPACING);
            let place = (column << (WIDTH - 2)) + (magnitude / 2) as usize;
            let count = &mut digits.counts[level];
            digits.levels[level][*count] = (place as u16, negative);
            *count += 1;
            position += WIDTH as usize;
        }
        digits
    }

    fn at(&self, level: usize) -> &[(u16, bool)] {
        &self.levels[level][..self.counts[level]]
    }
}

/// 64 bits of a number from a bit on; above its highest there are zeros.
fn bits_at(number: &Limbs, position: usize) -> u64 {
    let (word, shift) = (position / 64, position % 64);
    let at = |index| number.get(index).copied().unwrap_or(0);
    let low = at(word) >> shift;
    if shift == 0 {
        low
    } else {
        low | at(word + 1) << (64 - shift)
    }
}

/// The sum of two products.
pub(crate) fn sum_of_products<const A: u32, const B: u32>(
    (a, a_table): (&Limbs, &Table<A>),
    (b, b_table): (&Limbs, &Table<B>),
) -> Jacobian {
    let a = Digits::new::<A>(a);
    let b = Digits::new::<B>(b);
    let mut sum = Jacobian::INFINITY;
    for level in (0..SPACING).rev() {
        if level + 1 < SPACING {
            sum = sum.double();
        }
        sum = add_digits(sum, a.at(level), &a_table.points);
        sum = add_digits(sum, b.at(level), &b_table.points);
    }
    sum
}

#[inline(always)]
fn add_digits(mut sum: Jacobian, digits: &[(u16, bool)], points: &[Affine]) -> Jacobian {
    for &(place, negative) in digits {
        let point = &points[usize::from(place)];
        let point = if negative { point.negate() } else { *point };
        sum = sum.add(&point);
    }
    sum
}

#[cfg(test)]
mod tests;
