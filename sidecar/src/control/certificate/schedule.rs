//! When a certificate is asked for: renewal, and retries.

use std::time::Duration;

use crate::control::backoff::Limits;

/// Retries while there is no valid certificate: nothing works without one.
pub(super) const URGENT: Limits = Limits {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(5),
};
/// Retries while the one in use is good for hours.
const PATIENT: Limits = Limits {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(60),
};
/// Renewal happens at this part of the life of a certificate, plus a random part of [`RENEWAL_SPREAD`].
const RENEWAL_FROM: f64 = 0.5;
const RENEWAL_SPREAD: f64 = 0.2;

/// Retries while the certificate in use is good for `left` more seconds: many of them, however short that is.
pub(super) fn patient(left: i64) -> Limits {
    let tenth = Duration::from_secs(u64::try_from(left).unwrap_or(0)) / 10;
    Limits {
        base: PATIENT.base,
        cap: tenth.clamp(PATIENT.base, PATIENT.cap),
    }
}

/// When to renew: between half and seven tenths of the time from issue to expiry, `random` (0..1) of the way. The start
/// of validity does not count: it is set back to forgive clocks that are slow.
pub(crate) fn renewal_time(issued_at: i64, not_after: i64, random: f64) -> i64 {
    let life = not_after.saturating_sub(issued_at).max(0);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let part = (life as f64 * (RENEWAL_FROM + RENEWAL_SPREAD * random)) as i64;
    issued_at.saturating_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_less_time_is_left_the_more_often_is_tried_again() {
        for (left, cap) in [
            (86_400, 60_000),
            (600, 60_000),
            (60, 6_000),
            (1, 500),
            (-9, 500),
        ] {
            let limits = patient(left);
            assert_eq!(limits.cap, Duration::from_millis(cap), "{left}");
            assert!(limits.base <= limits.cap);
        }
    }

    #[test]
    fn renewal_lies_between_half_and_seven_tenths_of_what_was_left_at_issue() {
        assert_eq!(renewal_time(1_000, 2_000, 0.0), 1_500);
        assert_eq!(renewal_time(1_000, 2_000, 0.5), 1_600);
        // A certificate that is already over when it comes is renewed at once, not in the past's past.
        assert_eq!(renewal_time(1_000, 500, 0.5), 1_000);
    }

    proptest! {
        #[test]
        fn renewal_is_never_after_expiry(issued in 0i64..4_000_000_000, life in 0i64..1_000_000_000, random in 0.0f64..1.0) {
            let at = renewal_time(issued, issued + life, random);
            prop_assert!(at >= issued + life / 2 - 1);
            prop_assert!(at <= issued + life * 7 / 10 + 1);
        }
    }
}
