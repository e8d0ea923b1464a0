//! Buckets of durations, eight to each doubling: whoever counts in them can say any percentile to within an eighth.

/// Octave of the first bucket that is no rest: 2^8 = 256 ns.
const FIRST_OCTAVE: u32 = 8;
/// Octave that nothing is told apart in any more: 2^36 ns, 69 s.
const LAST_OCTAVE: u32 = 36;
/// Bits of a duration that tell apart within its octave.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;

/// Number of buckets.
pub const BUCKETS: usize = 2 + (LAST_OCTAVE - FIRST_OCTAVE) as usize * SUB;

/// The bucket of a duration in nanoseconds.
pub const fn bucket(nanos: u64) -> usize {
    if nanos < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = u64::BITS - 1 - nanos.leading_zeros();
    if octave >= LAST_OCTAVE {
        return BUCKETS - 1;
    }
    let within = (nanos >> (octave - SUB_BITS)) as usize & (SUB - 1);
    1 + (octave - FIRST_OCTAVE) as usize * SUB + within
}

/// The first duration that is too long for a bucket, nanoseconds; `u64::MAX` for the last bucket.
pub const fn upper_bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST_OCTAVE;
    }
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let octave = (bucket - 1) / SUB + FIRST_OCTAVE as usize;
    let within = (bucket - 1) % SUB;
    ((SUB + within + 1) as u64) << (octave - SUB_BITS as usize)
}

/// The bound of the bucket that a percentile lies in, nanoseconds: so many millionths of what was counted are below it.
/// 0 when nothing was counted. What is in the last bucket is told by its lower bound.
pub fn percentile(counts: &[u64], millionths: u32) -> u64 {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return 0;
    }
    let wanted = (u128::from(total) * u128::from(millionths)).div_ceil(1_000_000);
    let mut below = 0_u128;
    let found = counts.iter().position(|count| {
        below += u128::from(*count);
        below >= wanted
    });
    match found {
        Some(bucket) if bucket < BUCKETS - 1 => upper_bound(bucket),
        _ => upper_bound(BUCKETS - 2),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for b in 0..BUCKETS - 1 {
            let bound = upper_bound(b);
            assert_eq!(bucket(bound - 1), b, "{bound}");
            assert_eq!(bucket(bound), b + 1, "{bound}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(upper_bound(BUCKETS - 1), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_percentile_is_within_an_eighth_of_the_sorted_ones(
            mut values in proptest::collection::vec(300_u64..10_000_000_000, 1..200),
            millionths in 1_u32..1_000_000,
        ) {
            let mut counts = vec![0; BUCKETS];
            for value in &values {
                counts[bucket(*value)] += 1;
            }
            values.sort_unstable();
            let rank = (values.len() as u64 * u64::from(millionths)).div_ceil(1_000_000);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let told = percentile(&counts, millionths);
            prop_assert!(told > exact && told - exact <= exact / 8 + 1, "{told} {exact}");
        }
    }
}
