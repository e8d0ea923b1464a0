//! The live view: what ends at a workload's sidecar, to an operator, as long as he is one.

use std::pin::Pin;
use std::time::Duration;

use mesh_proto::admin::{TapRequest, TapResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Administration;
use crate::listener::Caller;
use crate::reports::{self, Watching};

/// How often the sidecar is asked to go on; a third of how long it tells unasked.
const AGAIN: Duration = Duration::from_secs(2);
/// Responses between us and the transport.
const BUFFER: usize = 16;

/// What the caller gets.
pub(super) type Responses =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<TapResponse, Status>> + Send>>;

type Sender = mpsc::Sender<Result<TapResponse, Status>>;

/// Begins a live view.
pub(super) fn open(
    administration: Administration,
    caller: Caller,
    request: TapRequest,
) -> Result<Responses, Status> {
    let operator = administration.operator_now(&caller)?;
    let workload = request.workload;
    let world = administration.registry.world();
    if world.workload(&workload).is_none() {
        return Err(Status::not_found(format!(
            "workload: '{}' is not registered",
            workload.escape_default()
        )));
    }
    let filter = request.filter.unwrap_or_default();
    let watching = reports::watch(&administration.board, &workload, filter, request.per_second)
        .ok_or_else(|| {
            Status::resource_exhausted("too many live views are open: end one of them first")
        })?;
    tracing::info!(operator = operator.as_str(), workload, "live view opened");
    let (sender, receiver) = mpsc::channel(BUFFER);
    let (stop, tasks) = (administration.stop.clone(), administration.tasks.clone());
    // Ends when the caller is gone, or no operator any more, or when told to stop.
    tasks.spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = stop.cancelled() => {}
            () = follow(&administration, &caller, watching, &sender) => {}
        }
        tracing::info!(operator = operator.as_str(), workload, "live view ended");
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn follow(
    administration: &Administration,
    caller: &Caller,
    mut watching: Watching,
    sender: &Sender,
) {
    let mut again = tokio::time::interval(AGAIN);
    let mut was_tapped = None;
    loop {
        let response = tokio::select! {
            _ = again.tick() => {
                if let Err(status) = administration.operator_now(caller) {
                    let _ = sender.send(Err(status)).await;
                    return;
                }
                let tapped = watching.ask().await;
                if was_tapped.replace(tapped) == Some(tapped) {
                    continue;
                }
                TapResponse { tapped, ..TapResponse::default() }
            }
            Some(batch) = watching.next() => TapResponse {
                entries: batch.entries,
                dropped: batch.dropped,
                tapped: true,
            },
        };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
}
