//! What the sidecar tells about itself: metrics, logs, and of every request what it did ([`observe`]).
//!
//! Metrics go through the `metrics` facade into a [`Recorder`] whose memory is bounded whatever labels it is given, and
//! come out as Prometheus text or OpenMetrics. A worker has a recorder of its own, so that whatever it counts through the facade's macros
//! goes into cells that no other thread writes. Resolve a handle once per key on the hot path and keep it: the macros look
//! it up, and a handle that was resolved on another thread is not the worker's own.

pub mod observe;

pub mod ended;
mod wall;
pub mod watch;

pub mod access_log;
mod line;

pub mod cell;
pub mod exemplar;
pub mod histogram;
pub mod recorder;
pub mod registry;

pub mod exposition;
pub mod process;

pub mod logging;

pub use logging::{LogFormat, LogLevel, init_logging};
pub use recorder::{InstallError, Metrics, Recorder, WorkerRecorder};
