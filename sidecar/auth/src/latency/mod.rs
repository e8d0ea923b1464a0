//! Latency budgets: what a `LatencyBudget` says, and the buckets that durations are counted in.
//!
//! The control API validates with what the sidecar measures with. Counting a duration is one comparison and two indices.

mod buckets;
mod budget;

pub use buckets::{BUCKETS, bucket, percentile, upper_bound};
pub use budget::{Budget, BudgetError, Direction, Phase};
