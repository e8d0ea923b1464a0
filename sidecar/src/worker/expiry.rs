//! When a connection has to leave and when it is cut, so that it never outlives a certificate of either side.

use std::time::Duration;

use mesh_auth::svid::VerifiedPeer;

use crate::wall_clock::unix_seconds;

/// How long before a certificate expires its connections are drained.
const MARGIN: i64 = 30;

/// Times left to a connection, from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Until no new stream is begun on it.
    pub drain: Duration,
    /// Until the first of both certificates expires.
    pub cut: Duration,
}

impl Expiry {
    /// Of a connection with `peer`, where the own certificate ends at `own_not_after` (Unix seconds).
    pub fn of(peer: &VerifiedPeer, own_not_after: i64) -> Self {
        Self::between(unix_seconds(), peer.not_after().min(own_not_after))
    }

    /// Plaintext has no certificate to expire; a day is as long as a certificate lives.
    pub fn of_plaintext() -> Self {
        Self {
            drain: Duration::from_secs(86_400),
            cut: Duration::MAX,
        }
    }

    /// A third of what is left, at most, is given away as margin: a short-lived certificate is of use, too.
    fn between(now: i64, not_after: i64) -> Self {
        let left = not_after.saturating_sub(now).max(0);
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        Self {
            drain: seconds(left - MARGIN.min(left / 3)),
            cut: seconds(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leaves_before_the_first_certificate_expires_and_is_cut_when_it_does() {
        let seconds = |drain, cut| Expiry {
            drain: Duration::from_secs(drain),
            cut: Duration::from_secs(cut),
        };
        for (now, not_after, expected) in [
            (1_000, 4_600, seconds(3_570, 3_600)),
            (1_000, 1_030, seconds(20, 30)),
            (1_000, 1_001, seconds(1, 1)),
            (1_000, 1_000, seconds(0, 0)),
            (1_000, 900, seconds(0, 0)),
        ] {
            assert_eq!(
                Expiry::between(now, not_after),
                expected,
                "{now} {not_after}"
            );
        }
    }
}
