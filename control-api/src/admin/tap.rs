//! The live view: what ends at a workload's sidecar, to an operator, as long as he is one.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_proto::admin::{TapRequest, TapResponse};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use super::Administration;
use crate::listener::Caller;
use crate::reports::{self, Watching};

/// How often the sidecar is asked to go on, a third of how long it tells unasked, and whether the caller is still an
/// operator.
const AGAIN: Duration = Duration::from_secs(2);
/// Responses between us and the transport.
const BUFFER: usize = 16;

/// What the caller gets.
pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<TapResponse, Status>> + Send>>;

type Sender = mpsc::Sender<TapResponse>;

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
    let (sender, responses) = mpsc::channel(BUFFER);
    let (end, ended) = oneshot::channel();
    let (stop, tasks) = (administration.stop.clone(), administration.tasks.clone());
    tasks.spawn(async move {
        let still = || administration.operator_now(&caller).map(drop);
        tokio::select! {
            () = stop.cancelled() => {}
            () = view(still, watching, sender, end) => {}
        }
        tracing::info!(operator = operator.as_str(), workload, "live view ended");
    });
    Ok(Box::pin(View {
        responses,
        ended: Some(ended),
    }))
}

/// Tells until the caller is gone, or no operator any more: `still` says why not. However slowly he reads, he is asked
/// about.
async fn view(
    still: impl Fn() -> Result<(), Status>,
    watching: Watching,
    sender: Sender,
    end: oneshot::Sender<Status>,
) {
    let lapsed = async {
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Err(status) = still() {
                return status;
            }
        }
    };
    tokio::select! {
        biased;
        status = lapsed => {
            let _ = end.send(status);
        }
        () = sender.closed() => {}
        () = follow(watching, &sender) => {}
    }
}

async fn follow(mut watching: Watching, sender: &Sender) {
    let mut again = tokio::time::interval(AGAIN);
    let mut was_tapped = None;
    loop {
        let response = tokio::select! {
            biased;
            _ = again.tick() => {
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
        if sender.send(response).await.is_err() {
            return;
        }
    }
}

/// What the transport takes: once the caller is no operator any more, that, and nothing that still waited for him.
struct View {
    responses: mpsc::Receiver<TapResponse>,
    ended: Option<oneshot::Receiver<Status>>,
}

impl Stream for View {
    type Item = Result<TapResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(ended) = &mut self.ended
            && let Poll::Ready(end) = Pin::new(ended).poll(cx)
        {
            self.ended = None;
            if let Ok(status) = end {
                self.responses.close();
                while self.responses.try_recv().is_ok() {}
                return Poll::Ready(Some(Err(status)));
            }
        }
        self.responses.poll_recv(cx).map(|next| next.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use mesh_proto::mesh::TapFilter;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::reports::Board;

    /// A view, and the switch that takes the operator's rights; `waiting` responses were not read yet.
    fn begin(waiting: usize) -> (View, Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
        let board = Arc::new(Board::default());
        let watching = reports::watch(&board, "shop/a", TapFilter::default(), 0).expect("one");
        let (sender, responses) = mpsc::channel(BUFFER);
        for _ in 0..waiting {
            sender.try_send(TapResponse::default()).expect("room");
        }
        let (end, ended) = oneshot::channel();
        let operator = Arc::new(AtomicBool::new(true));
        let is_operator = Arc::clone(&operator);
        let still = move || match is_operator.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Status::permission_denied("no operator any more")),
        };
        let task = tokio::spawn(view(still, watching, sender, end));
        let view = View {
            responses,
            ended: Some(ended),
        };
        (view, operator, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_ends_with_its_operator_however_slowly_he_reads() {
        for waiting in [0, BUFFER] {
            let (mut view, operator, task) = begin(waiting);
            tokio::time::sleep(3 * AGAIN).await;
            assert!(!task.is_finished());
            operator.store(false, Ordering::Relaxed);
            tokio::time::sleep(AGAIN + AGAIN / 2).await;
            assert!(task.is_finished(), "{waiting} wait");
            let first = view.next().await.expect("a response");
            let status = first.expect_err("what waited for him is not his any more");
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            assert!(view.next().await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_goes_on_for_an_operator_and_ends_when_he_is_gone() {
        let (mut view, _operator, task) = begin(2);
        for _ in 0..3 {
            let response = view.next().await.expect("a response").expect("an operator");
            assert!(!response.tapped, "no sidecar is there");
        }
        drop(view);
        task.await.expect("it ends");
    }
}
