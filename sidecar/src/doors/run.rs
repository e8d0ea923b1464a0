//! Wires the doors: socket, services, and what they hand out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::secret::secret_discovery_service_server::SecretDiscoveryServiceServer;
use mesh_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

use super::admission::{Admission, Allowed};
use super::app_identity::AppIdentity;
use super::jwt_svids::JwtSvids;
use super::material::{self, Material};
use super::sds::SecretDiscovery;
use super::socket;
use super::workload_api::{WorkloadApi, require_header};
use crate::control::Clock;
use crate::control::connect::Target;
use crate::snapshot::SharedSnapshot;

/// Connections accepted and not yet served.
const BACKLOG: usize = 16;
/// Calls at a time on one connection.
const MAX_STREAMS: u32 = 64;
/// What a client may send ahead of our reading it.
const WINDOW: u32 = 64 * 1024;
/// Largest request: a JWT-SVID or a list of names.
const MAX_MESSAGE: usize = 64 * 1024;
/// Largest set of metadata.
const MAX_HEADERS: u32 = 16 * 1024;
/// Streams that a client may open and reset without our having looked at them.
const MAX_RESET: usize = 32;
/// A client that answers no ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What the doors need.
pub struct Doors {
    /// The bound socket.
    pub listener: UnixListener,
    /// Where it lies; removed at the end.
    pub path: PathBuf,
    /// Who may come in.
    pub allowed: Allowed,
    /// The control API, for the application's certificate.
    pub target: Target,
    /// The snapshot in force.
    pub shared: SharedSnapshot,
    /// Told of every snapshot.
    pub epochs: watch::Receiver<u64>,
    /// For validity.
    pub clock: Arc<dyn Clock>,
}

/// Serves until `stop`.
pub async fn run(doors: Doors, stop: CancellationToken) {
    let domain = doors.shared.load().trust_domain.clone();
    let (material_sender, material) = watch::channel(Arc::new(Material::none(domain)));
    let (svid_sender, svids) = watch::channel(None);
    let jwt_svids = Arc::new(JwtSvids::new(
        doors.target.clone(),
        Arc::clone(&doors.shared),
        Arc::clone(&doors.clock),
    ));
    let app_identity = AppIdentity {
        target: doors.target,
        shared: Arc::clone(&doors.shared),
        clock: doors.clock,
        svids: svid_sender,
    };
    let admission = Admission::new(doors.allowed);
    tokio::select! {
        () = serve(doors.listener, admission, material, Arc::clone(&jwt_svids), stop) => {}
        () = jwt_svids.keep() => {}
        () = app_identity.keep(doors.epochs.clone()) => {}
        () = material::assemble(material_sender, svids, doors.epochs, doors.shared) => {}
    }
    let _ = std::fs::remove_file(&doors.path);
}

/// Hands out `material` and `jwt_svids` on `listener` until `stop`.
pub(super) async fn serve(
    listener: UnixListener,
    admission: Admission,
    material: watch::Receiver<Arc<Material>>,
    jwt_svids: Arc<JwtSvids>,
    stop: CancellationToken,
) {
    let workload_api =
        WorkloadApi::new(admission.clone(), material.clone(), jwt_svids, stop.clone());
    let workload_api =
        SpiffeWorkloadApiServer::new(workload_api).max_decoding_message_size(MAX_MESSAGE);
    let secrets = SecretDiscovery::new(admission.clone(), material, stop.clone());
    let secrets = SecretDiscoveryServiceServer::new(secrets).max_decoding_message_size(MAX_MESSAGE);
    let (accepted, incoming) = mpsc::channel(BACKLOG);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESET))
        .http2_max_local_error_reset_streams(Some(MAX_RESET))
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(InterceptedService::new(workload_api, require_header))
        .add_service(secrets)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    tokio::select! {
        () = stop.cancelled() => {}
        outcome = serving => {
            if let Err(error) = outcome {
                tracing::error!(%error, "the workload API is not served any more");
            }
        }
        () = socket::accept(listener, admission, accepted) => {}
    }
}

/// Says what the metrics of the doors mean.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!(
        "postern_workload_api_connections_total",
        "Connections on the workload API socket, by outcome."
    );
    describe_counter!(
        "postern_workload_api_calls_total",
        "Calls of the Workload API and of SDS, by method and outcome."
    );
    describe_counter!(
        "postern_workload_api_certificate_failures_total",
        "Failed requests for the application's certificate."
    );
    describe_gauge!(
        "postern_workload_api_certificate_expiry_timestamp_seconds",
        "End of validity of the certificate handed to the application."
    );
    describe_counter!(
        "postern_jwt_svid_requests_total",
        "Requests for JWT-SVIDs to the control API, by outcome."
    );
    describe_counter!(
        "postern_sds_rejections_total",
        "Secrets that an SDS client refused (NACK)."
    );
}
