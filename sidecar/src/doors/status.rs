//! Answers that both services give, and their count.

use tonic::Status;

/// Counts a call by what became of it.
pub(super) fn counted<T>(rpc: &'static str, outcome: Result<T, Status>) -> Result<T, Status> {
    let label = match &outcome {
        Ok(_) => "accepted",
        Err(_) => "refused",
    };
    metrics::counter!("postern_workload_api_calls_total", "rpc" => rpc, "outcome" => label)
        .increment(1);
    outcome
}

/// Nobody is entitled to anything: clients stop using what they hold, and ask again later.
pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued: this workload has no valid certificate now")
}
