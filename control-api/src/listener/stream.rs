//! What bounds every long-lived stream of a sidecar: its certificate, its transport, our own end.

use std::time::Duration;

use mesh_auth::svid::VerifiedPeer;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock::Clock;

/// Runs `work` of a stream that `peer` opened until it ends, the certificate ends, the transport drops the receiver of
/// `sender`, or `stop` says so.
///
/// # Errors
/// What the client is to be told.
pub async fn within_bounds<T>(
    peer: &VerifiedPeer,
    clock: &Clock,
    stop: &CancellationToken,
    sender: &mpsc::Sender<T>,
    work: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Err(Status::unavailable("the control API is stopping; connect again")),
        () = certificate_end(peer, clock) => Err(Status::unauthenticated(
            "the connection's certificate has ended; connect with the current one",
        )),
        () = sender.closed() => Ok(()),
    }
}

async fn certificate_end(peer: &VerifiedPeer, clock: &Clock) {
    let left = peer.not_after().saturating_sub(clock.seconds());
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
    match Instant::now().checked_add(left) {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
