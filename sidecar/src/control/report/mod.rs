//! Reports to the control API: what workers noted goes out, questions are answered.
//!
//! [`Totals`] adds up what the ledgers bring; [`Reporter`] owns the stream. Nothing here waits for a worker's work, and
//! no worker waits for anything here. Without a control API the totals go on, bounded, and are sent in full to the next.

mod budgets;
mod edges;
mod stream;
mod totals;

pub use budgets::describe_metrics;
pub use stream::Reporter;
pub use totals::Totals;
