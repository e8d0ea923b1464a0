//! Wires the parts of the control thread together and takes turns between them.

use std::path::PathBuf;
use std::sync::Arc;

use mesh_auth::tls::Identity;
use mesh_auth::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certificate::{Certificates, Settings, TICK};
use super::clock::Clock;
use super::connect::Target;
use super::demand::START;
use super::enforcement::Enforcement;
use super::keystore::KeyStore;
use super::outside::Outside;
use super::persist::Persistence;
use super::proof::Proofs;
use super::publisher::Publisher;
use super::refetch;
use super::report::Reporter;
use super::sealed_file;
use super::state_file::StateFile;
use super::status::ControlStatus;
use super::stream::{Discovery, Parts};
use super::xds::Client;
use crate::admin::Readiness;
use crate::key_requests::KeyRequests;
use crate::ledger::Ledger;
use crate::lookups::{Lookup, Lookups, Subscribe};
use crate::snapshot::SharedSnapshot;

/// What the control thread has to be told.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// This workload, `namespace/name`.
    pub workload: String,
    /// The control API, `host:port`.
    pub control_api: String,
    /// The identity that the control API must prove.
    pub control_api_id: SpiffeId,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Roots to verify with until the control API brings them.
    pub initial_bundle: Vec<CertificateDer<'static>>,
    /// What proves this workload without a certificate.
    pub proofs: Proofs,
    /// Directory for the last good state; `None`: not kept.
    pub state_dir: Option<PathBuf>,
    /// Who brings this workload's certificates instead of the control API.
    pub outside: Option<Outside>,
    /// Memory-backed directory for the private key; `None`: not kept over a restart.
    pub key_dir: Option<PathBuf>,
    /// Mark on own sockets; `None` without capture.
    pub mark: Option<u32>,
    /// What workers note; reported.
    pub ledgers: Vec<Arc<Ledger>>,
    /// Key sets that workers want fetched again.
    pub key_requests: Arc<KeyRequests>,
    /// Which services and workloads are subscribed to.
    pub subscribe: Subscribe,
    /// Destinations that are in use from the start.
    pub destinations: Vec<Lookup>,
    /// What workers want to know about others.
    pub lookups: Arc<Lookups>,
}

/// Runs until `shutdown`, then writes what is not written yet and returns. Snapshots go to the one and their epochs to the
/// other of the pair.
pub async fn run(
    config: ControlConfig,
    (shared, epochs): (SharedSnapshot, watch::Sender<u64>),
    enforcement: Enforcement,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
    status: Arc<ControlStatus>,
    readiness: Arc<Readiness>,
) {
    let target = Target {
        address: config.control_api,
        id: config.control_api_id,
        mark: config.mark,
    };
    let asked = Arc::clone(&shared);
    let publisher = Arc::new(Publisher::new(
        shared,
        epochs,
        config.trust_domain.clone(),
        config.initial_bundle,
    ));
    let state_file = config
        .state_dir
        .as_deref()
        .inspect(|dir| {
            if let Err(error) = sealed_file::make_directory(dir) {
                tracing::error!(%error, "the last good state will not be kept");
            }
        })
        .map(|dir| StateFile::new(dir, &config.workload, config.trust_domain.as_str()));
    let domain = config.trust_domain.clone();
    let mut client = Client::new(&config.workload, domain, config.subscribe);
    let loaded = state_file.as_ref().and_then(StateFile::load);
    let restored = loaded.as_ref().map(|loaded| loaded.written_at);
    let refused = loaded.map(|l| client.restore(l.export, START));
    for refused in refused.unwrap_or_default() {
        tracing::warn!(
            kind = refused.kind,
            name = refused.name,
            reason = refused.reason,
            "left out of the last good state"
        );
    }
    for destination in &config.destinations {
        client.pin(destination, START);
    }
    let workload = config.workload.clone();
    let reporter = Reporter::new(
        &config.workload,
        config.ledgers,
        Arc::clone(&asked),
        Arc::clone(&clock),
    );
    let (channels, reported) = watch::channel(None);
    let discovery = Discovery::new(Parts {
        target: target.clone(),
        client,
        restored,
        publisher: Arc::clone(&publisher),
        status: Arc::clone(&status),
        readiness: Arc::clone(&readiness),
        clock: Arc::clone(&clock),
        channels,
    });
    let key_store = config.key_dir.as_deref().and_then(|dir| {
        KeyStore::open(dir, &config.workload)
            .inspect_err(|error| tracing::error!(%error, "the key will not be kept over a restart"))
            .ok()
    });
    let (sender, identities) = watch::channel::<Option<Arc<Identity>>>(None);
    let certificates = Certificates::new(
        Settings {
            target,
            workload: config.workload,
            trust_domain: config.trust_domain,
            proofs: config.proofs,
            key_store,
            outside: config.outside,
        },
        publisher,
        Arc::clone(&status),
        Arc::clone(&readiness),
        Arc::clone(&clock),
        sender,
    );
    let persistence =
        state_file.map(|file| Persistence::new(file, Arc::clone(&status), Arc::clone(&clock)));
    discovery.report_snapshot();

    let persist = async {
        match &persistence {
            Some(persistence) => persistence.keep(&discovery).await,
            None => std::future::pending().await,
        }
    };
    let monitor = async {
        loop {
            certificates.check();
            readiness.remark("control", status.degraded(clock.now()));
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = certificates.keep() => {}
        () = discovery.follow(identities, enforcement, &config.lookups) => {}
        () = persist => {}
        () = reporter.follow(reported.clone()) => {}
        () = refetch::serve(&workload, config.key_requests, reported, asked) => {}
        () = monitor => {}
    }
    certificates.saved().await;
    if let Some(persistence) = &persistence {
        persistence.write(&discovery).await;
    }
}

/// Says what the metrics of the control thread mean.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge};
    super::report::describe_metrics();
    describe_gauge!("postern_ready", "1 while every readiness condition holds.");
    describe_gauge!(
        "postern_snapshot_epoch",
        "Number of snapshots put in force since the start."
    );
    describe_gauge!(
        "postern_snapshot_revision",
        "Store revision of the resources in force."
    );
    describe_gauge!(
        "postern_control_connected",
        "1 while the discovery stream is open."
    );
    describe_counter!(
        "postern_control_stream_failures_total",
        "Discovery streams lost or refused."
    );
    describe_gauge!(
        "postern_control_last_contact_timestamp_seconds",
        "When the control API was heard last."
    );
    describe_counter!(
        "postern_resource_rejections_total",
        "Resources refused (NACK), by kind."
    );
    describe_gauge!(
        "postern_resources_rejected",
        "Resources refused and not held in that version."
    );
    describe_counter!(
        "postern_key_set_refetches_total",
        "Key sets fetched again because a token named an unknown key."
    );
    describe_gauge!(
        "postern_destinations",
        "Destinations subscribed to by name: known, with nobody there, or asked for without an answer."
    );
    describe_counter!(
        "postern_rollback_refused_total",
        "Trust bundles refused because their sequence went back."
    );
    describe_counter!(
        "postern_certificate_requests_total",
        "Certificate requests, by outcome."
    );
    describe_gauge!(
        "postern_certificate_expiry_timestamp_seconds",
        "End of validity of the certificate in use."
    );
    describe_gauge!(
        "postern_certificate_expiry_seconds",
        "Time until the certificate in use ends; negative once it has."
    );
    describe_gauge!(
        "postern_attestation_token_age_seconds",
        "Age of the service-account token that proves this workload."
    );
    describe_counter!(
        "postern_certificate_stale_total",
        "Times the listeners served another certificate than the one held."
    );
    describe_gauge!(
        "postern_clock_skew_seconds",
        "How far this clock is ahead of the control API's."
    );
    describe_counter!(
        "postern_state_writes_total",
        "Writes of the last good state, by outcome."
    );
    describe_counter!(
        "postern_log_lines_suppressed_total",
        "Log lines left out to bound their volume."
    );
}
