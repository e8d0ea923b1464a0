//! Points of the curve y^2 = x^3 - 3 x + b, and their sums (SEC 1 §2.2.1; formulas of the Explicit-Formulas Database).
//!
//! Sums are right for any two points: equal, opposite and infinite ones included. Who makes a signature may choose them.

use crate::field::Field;

const B: Field = Field::from_montgomery([
    0xd89c_df62_29c4_bddf,
    0xacf0_05cd_7884_3090,
    0xe5a2_20ab_f721_2ed6,
    0xdc30_061d_0487_4834,
]);

/// The generator.
pub(crate) const GENERATOR: Affine = Affine {
    x: Field::from_montgomery([
        0x79e7_30d4_18a9_143c,
        0x75ba_95fc_5fed_b601,
        0x79fb_732b_7762_2510,
        0x1890_5f76_a537_55c6,
    ]),
    y: Field::from_montgomery([
        0xddf2_5357_ce95_560a,
        0x8b4a_b8e4_ba19_e45c,
        0xd2e8_8688_dd21_f325,
        0x8571_ff18_2588_5d85,
    ]),
};

/// A point that is not infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affine {
    pub(crate) x: Field,
    pub(crate) y: Field,
}

impl Affine {
    /// The point with these coordinates; `None` if there is none on the curve.
    pub(crate) fn new(x: Field, y: Field) -> Option<Self> {
        let triple = x.double().add(&x);
        let right = x.square().mul(&x).sub(&triple).add(&B);
        (y.square() == right).then_some(Self { x, y })
    }

    pub(crate) fn negate(&self) -> Self {
        Self {
            x: self.x,
            y: self.y.negate(),
        }
    }
}

/// A point `(x / z^2, y / z^3)`; infinite if `z` is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jacobian {
    pub(crate) x: Field,
    pub(crate) y: Field,
    pub(crate) z: Field,
}

impl From<Affine> for Jacobian {
    fn from(Affine { x, y }: Affine) -> Self {
        Self {
            x,
            y,
            z: Field::ONE,
        }
    }
}

impl Jacobian {
    pub(crate) const INFINITY: Self = Self {
        x: Field::ONE,
        y: Field::ONE,
        z: Field::ZERO,
    };

    /// Twice the point. No point of the curve has y = 0, for n is odd.
    pub(crate) fn double(&self) -> Self {
        let delta = self.z.square();
        let gamma = self.y.square();
        let beta = self.x.mul(&gamma);
        let product = self.x.sub(&delta).mul(&self.x.add(&delta));
        let alpha = product.double().add(&product);
        let beta4 = beta.double().double();
        let x = alpha.square().sub(&beta4.double());
        let z = self.y.mul(&self.z).double();
        let gamma2 = gamma.double();
        let y = alpha.mul(&beta4.sub(&x)).sub(&gamma2.square().double());
        Self { x, y, z }
    }

    /// The sum.
    pub(crate) fn add(&self, other: &Affine) -> Self {
        if self.z.is_zero() {
            return (*other).into();
        }
        let z_square = self.z.square();
        let z_cube = self.z.mul(&z_square);
        let h = other.x.mul(&z_square).sub(&self.x);
        let r = other.y.mul(&z_cube).sub(&self.y);
        if h.is_zero() {
            return if r.is_zero() {
                self.double()
            } else {
                Self::INFINITY
            };
        }
        let h_square = h.square();
        let h_cube = h.mul(&h_square);
        let v = self.x.mul(&h_square);
        let x = r.square().sub(&h_cube).sub(&v.double());
        let y = r.mul(&v.sub(&x)).sub(&self.y.mul(&h_cube));
        let z = self.z.mul(&h);
        Self { x, y, z }
    }
}

/// Replaces each element by its inverse; none may be zero. One inversion for all.
pub(crate) fn invert_all(elements: &mut [Field]) {
    let mut product = Field::ONE;
    let before: Vec<Field> = elements
        .iter()
        .map(|element| {
            let before = product;
            product = product.mul(element);
            before
        })
        .collect();
    let mut inverse = product.invert();
    for (element, before) in elements.iter_mut().zip(before).rev() {
        let own = inverse.mul(&before);
        inverse = inverse.mul(element);
        *element = own;
    }
}

/// The same points with z = 1; none may be infinite.
pub(crate) fn to_affine(points: &[Jacobian]) -> Vec<Affine> {
    let mut inverses: Vec<Field> = points.iter().map(|point| point.z).collect();
    invert_all(&mut inverses);
    let pairs = points.iter().zip(inverses);
    pairs
        .map(|(point, inverse)| {
            let square = inverse.square();
            Affine {
                x: point.x.mul(&square),
                y: point.y.mul(&square).mul(&inverse),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
