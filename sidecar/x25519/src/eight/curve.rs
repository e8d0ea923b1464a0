//! Points of the Edwards curve -x^2 + y^2 = 1 + d x^2 y^2 (RFC 7748 §4.1), one in each lane.
//!
//! As -1 is a square modulo p and d is none, sums are right for all points, equal ones, opposite ones and the neutral element
//! too (Hisil, Wong, Carter and Dawson, "Twisted Edwards Curves Revisited", §3.1): nothing has to be looked at.

use super::lanes::Lanes;

/// A point (x / z, y / z), and t = x y / z.
pub(super) struct Extended {
    pub(super) x: Lanes,
    pub(super) y: Lanes,
    pub(super) z: Lanes,
    pub(super) t: Lanes,
}

/// A point (x, y) as a sum needs it.
pub(super) struct Summand {
    /// y + x.
    pub(super) plus: Lanes,
    /// y - x.
    pub(super) minus: Lanes,
    /// 2 d x y, with limbs less than 2^52.
    pub(super) product: Lanes,
}

/// A point (e / g, h / f).
pub(super) struct Quotients {
    e: Lanes,
    f: Lanes,
    g: Lanes,
    h: Lanes,
}

impl Extended {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn neutral() -> Self {
        Self {
            x: Lanes::small(0),
            y: Lanes::small(1),
            z: Lanes::small(1),
            t: Lanes::small(0),
        }
    }

    /// The sum of two points.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn add(&self, other: &Summand) -> Quotients {
        let a = self.y.sub(&self.x).mul(&other.minus);
        let b = self.y.add(&self.x).mul(&other.plus);
        let c = self.t.mul(&other.product);
        Quotients {
            e: b.sub(&a),
            f: self.z.twice_and(&c.negated()),
            g: self.z.twice_and(&c.0),
            h: b.add(&a),
        }
    }

    /// Twice the point.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn double(&self) -> Quotients {
        let (a, b) = (self.x.square(), self.y.square());
        let (g, h) = (a.sub(&b), a.add(&b));
        Quotients {
            e: h.sub(&self.x.add(&self.y).square()),
            f: self.z.square().twice_and(&g.0),
            g,
            h,
        }
    }
}

impl Quotients {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    #[inline]
    pub(super) fn extended(&self) -> Extended {
        Extended {
            x: self.e.mul(&self.f),
            y: self.g.mul(&self.h),
            z: self.f.mul(&self.g),
            t: self.e.mul(&self.h),
        }
    }
}

#[cfg(test)]
mod tests;
