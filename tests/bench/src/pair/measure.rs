//! Measures one arm once: time per request under load, then latency with one request in flight.

use std::path::Path;

use super::Arm;
use crate::cpu::Sample;
use crate::wrk;

/// Length of the run whose numbers are thrown away.
const WARM_UP_SECONDS: u32 = 1;

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) wrk: &'a Path,
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
}

/// One round of one arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// Of all counted processes, under load; none where nothing is counted.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Under load.
    pub(crate) rps: f64,
    /// Under load.
    pub(crate) loaded_p50_us: f64,
    /// Under load.
    pub(crate) loaded_p99_us: f64,
    /// One request in flight.
    pub(crate) p50_us: f64,
    /// One request in flight.
    pub(crate) p99_us: f64,
    /// Threads that ended under load; their last work is not in the time.
    pub(crate) threads_ended: usize,
}

pub(crate) async fn measure(arm: &mut Arm, load: Load<'_>) -> anyhow::Result<Figures> {
    if let Some(pair) = &mut arm.pair {
        pair.check()?;
    }
    let counted = arm.counted();
    let Load {
        wrk,
        connections,
        seconds,
    } = load;
    wrk::run(wrk, &arm.target, connections, WARM_UP_SECONDS).await?;
    let before = Sample::take(&counted)?;
    let loaded = wrk::run(wrk, &arm.target, connections, seconds).await?;
    let spent = Sample::take(&counted)?.since(&before);
    let single = wrk::run(wrk, &arm.target, 1, seconds).await?;
    let per_request = spent.nanoseconds as f64 / 1e3 / loaded.requests as f64;
    Ok(Figures {
        cpu_us_per_request: (!counted.is_empty()).then_some(per_request),
        rps: loaded.rps,
        loaded_p50_us: loaded.p50_us,
        loaded_p99_us: loaded.p99_us,
        p50_us: single.p50_us,
        p99_us: single.p99_us,
        threads_ended: spent.threads_ended,
    })
}
