//! What the sidecar tells about itself: metrics, logs, and of every request what it did ([`observe`]).
//!
//! Metrics go through the `metrics` facade into a [`Recorder`] whose memory is bounded whatever labels it is given, and
//! come out as Prometheus text. Resolve a handle once per key on the hot path and keep it: the macros look it up.

pub mod access_log;
pub mod histogram;
pub mod observe;
pub mod recorder;

pub mod exposition;
pub mod logging;

pub use logging::{LogFormat, LogLevel, init_logging};
pub use recorder::{InstallError, Metrics, Recorder};
