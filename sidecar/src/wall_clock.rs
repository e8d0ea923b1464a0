//! The wall clock, for what is compared with times in certificates and tokens, or shown to people.
//!
//! Decisions take the time as an argument; this is where those who call them read it. A clock before 1970 counts as 1970:
//! every certificate is then not yet valid, which fails closed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

/// Time since 1970.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The moment, as certificates are verified at it.
pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch())
}

/// Unix seconds.
pub(crate) fn unix_seconds() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

/// Unix milliseconds.
pub(crate) fn unix_millis() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}
