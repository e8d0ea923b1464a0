//! What sidecars report, and what they are asked.
//!
//! [`Board`] holds the latest totals of each workload and the questions under way; [`Reports`] is the service around it.
//! Kept in memory only: a sidecar sends everything again to a control API that was restarted.

mod board;
mod service;
mod taps;
mod view;

pub use board::{Answers, Board};
pub use service::{Parts, Reports};
pub use taps::{Watching, watch};
pub use view::{edges, workloads};
