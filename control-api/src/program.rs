//! Wiring: from arguments to the store, the authority and the services, and back out in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mesh_auth::TrustDomain;
use mesh_auth::bundle::TrustBundle;
use mesh_proto::admin::admin_service_server::AdminServiceServer;
use mesh_proto::admin::authority_service_server::AuthorityServiceServer;
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use mesh_proto::mesh::certificate_service_server::CertificateServiceServer;
use mesh_proto::mesh::key_set_service_server::KeySetServiceServer;
use mesh_proto::mesh::report_service_server::ReportServiceServer;
use rustix::process::DumpableBehavior;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::admin::{Administration, AuthorityAdministration};
use crate::args::{InitArgs, RunArgs};
use crate::attest::{self, Attestors};
use crate::ca::{Authorities, Authority};
use crate::certificates::{Certificates, JwtSettings};
use crate::clock::Clock;
use crate::federation::{self, Foreign};
use crate::fetch::{self, Fetcher, Guard};
use crate::files;
use crate::issuance::Issuance;
use crate::jwt::{JwtKeys, discovery as oidc};
use crate::keysets::{Intervals, Keeper, KeySetApi};
use crate::listener::{self, Page, ServerIdentity};
use crate::metrics::{self, Metrics};
use crate::operator_files::OperatorFiles;
use crate::registry::Registry;
use crate::reports::{self, Board, Reports};
use crate::rotation::{self, Rotation};
use crate::status::Tracker;
use crate::store::roots::{self, RootsRecord};
use crate::store::{Store, issued, seen};
use crate::trust::Trust;
use crate::xds::server::{Discovery, Parts};

/// How long calls may take to finish at the end.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// Time between two looks for what the store can forget.
const HOUSEKEEPING: Duration = Duration::from_secs(3_600);
/// Between two notes of who is connected.
const SEEN: Duration = Duration::from_secs(60);
/// Time between two looks at what has to be rotated or published.
const TENDING: Duration = Duration::from_secs(5);
/// Accepted connections that wait for the server to take them.
const BACKLOG: usize = 64;
/// Largest message of an operator: a manifest and its envelope.
const MAX_ADMIN_REQUEST: usize = mesh_manifest::MAX_BYTES + (64 << 10);
/// Largest list for an operator.
const MAX_ADMIN_RESPONSE: usize = 256 << 20;
/// Largest certificate request and its envelope.
const MAX_CERTIFICATE_REQUEST: usize = 64 << 10;
/// Largest question about a key set: two names and their envelope.
const MAX_KEY_SET_REQUEST: usize = 16 << 10;
/// Largest discovery request: the versions that a client holds, on reconnecting.
const MAX_DISCOVERY_REQUEST: usize = 16 << 20;
/// Largest report: a batch is far smaller.
const MAX_REPORT: usize = 2 << 20;
/// A response is closed at 3 MiB, and no document makes more than 4 MiB.
const MAX_DISCOVERY_RESPONSE: usize = 16 << 20;

/// `control-api init`.
///
/// # Errors
/// What could not be made, and why.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let clock = Clock::system();
    let (authorities, _store, _) = open(args, &clock)?;
    OperatorFiles::new(args.operator_directory()).make(&authorities, clock.seconds())
}

/// Opens the authorities and the store, which belong together; makes both where there is neither, and then says true.
fn open(args: &InitArgs, clock: &Clock) -> anyhow::Result<(Authorities, Arc<Store>, bool)> {
    let domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    let dir = &args.data_dir;
    files::make_dir(dir)?;
    if has_authority(dir) && !Store::exists(dir) {
        anyhow::bail!(
            "{}: store.redb is missing, though the authority is there: restore it from a backup. To start afresh with this \
             authority, give its ca.pem and ca.key as --root-cert and --root-key with an empty --data-dir",
            dir.display()
        );
    }
    // The store first: its lock keeps a second process away from the authority's files.
    let store = Arc::new(Store::open(dir, domain.as_str())?);
    let own = args.root_cert.as_deref().zip(args.root_key.as_deref());
    let (now, record) = (clock.seconds(), store.read(roots::load)?);
    let signing = match &record {
        None => Authority::open(dir, &domain, own, None, now)?,
        Some(RootsRecord { signing, .. }) => {
            // After a change of roots the flags still name the authority before it.
            let own = own.filter(|_| signing.files == roots::FIRST);
            let root = Some(signing.sha256.as_str());
            Authority::open_named(dir, &signing.files, &domain, own, root, now)?
                .with_bridge(&signing.bridge)?
        }
    };
    let is_new = record.is_none();
    let authorities = Authorities::open(dir.clone(), Arc::clone(&store), signing, record, now)?;
    Ok((authorities, store, is_new))
}

/// Whether there is an authority of ours in `dir`, of whatever name.
fn has_authority(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name.starts_with(roots::FIRST) && name.ends_with(".pem"))
}

/// Sends this process's logs to stderr, those of libraries from warn on.
fn init_logging(level: &str) -> anyhow::Result<()> {
    let filter: Targets =
        format!("{level},h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=error,redb=warn")
            .parse()
            .with_context(|| format!("--log '{level}'"))?;
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .context("cannot set up logging")
}

/// `control-api run`.
///
/// # Errors
/// What kept it from starting.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    init_logging(&args.log)?;
    // The signing key is in memory: no core dump, no debugger of the same user.
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot forbid core dumps");
    }
    let clock = Clock::system();
    let (mut authorities, store, is_new) = open(&args.init, &clock)?;
    if let Some(path) = &args.workload_roots {
        ensure!(
            !args.workload_roots_namespaces.is_empty(),
            "--workload-roots: say whom they vouch for: --workload-roots-namespaces NAMESPACE,NAMESPACE, or '*' for every identity of the trust domain"
        );
        let pem = files::read(path).context("--workload-roots")?;
        let roots =
            TrustBundle::from_pem(authorities.trust_domain().clone(), &pem).and_then(|bundle| {
                let namespaces = args.workload_roots_namespaces.clone();
                authorities.with_others(bundle.authorities().to_vec(), namespaces)
            });
        authorities = roots.with_context(|| format!("--workload-roots: {}", path.display()))?;
        store.write(|write| issued::note_others(write, clock.seconds()))?;
    }
    if is_new {
        OperatorFiles::new(args.init.operator_directory()).make(&authorities, clock.seconds())?;
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args, authorities, store, clock))
}

/// Where the trusted roots lie for whoever starts.
fn bundle_path(args: &InitArgs) -> PathBuf {
    args.data_dir.join("trust-bundle.pem")
}

/// What is shared by the services.
struct Shared {
    authorities: Arc<Authorities>,
    store: Arc<Store>,
    trust: Trust,
    registry: Arc<Registry>,
    tracker: Arc<Tracker>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The sockets, before anybody is let in.
struct Sockets {
    grpc: TcpListener,
    metrics: TcpListener,
    admin: UnixListener,
    admin_path: PathBuf,
}

impl Sockets {
    async fn bind(args: &RunArgs) -> anyhow::Result<Self> {
        let tcp = async |address, flag| {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address} ({flag})"))
        };
        let admin_path = args.admin_socket_path();
        Ok(Self {
            grpc: tcp(args.listen, "--listen").await?,
            metrics: tcp(args.metrics, "--metrics").await?,
            admin: listener::bind_unix(&admin_path)?,
            admin_path,
        })
    }
}

async fn serve(
    args: &RunArgs,
    authorities: Authorities,
    store: Arc<Store>,
    clock: Clock,
) -> anyhow::Result<()> {
    // Before anything is said to be ready, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let authorities = Arc::new(authorities);
    let now = clock.seconds();
    let trust = Trust {
        authorities: Arc::clone(&authorities),
        jwt: Arc::new(JwtKeys::open(
            Arc::clone(&store),
            args.jwt_key_lifetime,
            now,
        )?),
        foreign: Arc::new(Foreign::open(&store)?),
    };
    let registry = Registry::open(
        Arc::clone(&store),
        authorities.trust_domain().clone(),
        trust.bundles(),
        now,
    )?;
    let shared = Shared {
        tracker: Arc::new(Tracker::new(
            store.read(issued::last_ends)?,
            store.read(seen::all)?,
        )),
        registry: Arc::new(registry),
        metrics: Arc::new(Metrics::default()),
        authorities,
        store,
        trust,
        clock,
    };
    let bundle_path = bundle_path(&args.init);
    files::write(&bundle_path, shared.authorities.bundle_pem().as_bytes())?;
    let sockets = Sockets::bind(args).await?;
    // Made before anything is served, so that roots that cannot be used are seen at the start.
    let fetcher = fetcher(args, &sockets)?;
    let ready = Ready::new(args, &sockets, &bundle_path)?;
    let admin_path = sockets.admin_path.clone();

    let stop = CancellationToken::new();
    let mut tasks = spawn(args, shared, sockets, fetcher, &stop)?;
    ready.announce()?;
    let ended = tokio::select! {
        () = told(&mut terminate, &mut interrupt) => Ok(()),
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok(Ok(())) => anyhow::anyhow!("a part of the control API ended by itself"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::Error::new(error).context("a part of the control API failed"),
        }),
    };
    stop.cancel();
    let _ = tokio::time::timeout(SHUTDOWN, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    let _ = std::fs::remove_file(&admin_path);
    ready.withdraw();
    tracing::info!("stopped");
    ended
}

async fn told(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The attestors of `--attestation`. What that file names is the operator's choice and may be on a private address.
fn attestors(args: &RunArgs, shared: &Shared) -> anyhow::Result<Attestors> {
    let guard = Guard {
        allow_local: true,
        own_ports: Vec::new(),
    };
    let fetcher = Fetcher::new(fetch::Settings { guard, roots: None })?;
    let parts = attest::config::Parts {
        store: Arc::clone(&shared.store),
        fetcher: Arc::new(fetcher),
        domain: shared.authorities.trust_domain().clone(),
    };
    let Some(path) = &args.attestation else {
        return Ok(attest::config::default(&parts));
    };
    let text = String::from_utf8(files::read(path).context("--attestation")?)
        .with_context(|| format!("--attestation: {} is not UTF-8", path.display()))?;
    attest::config::read(&text, &parts)
        .map_err(|error| anyhow::anyhow!("--attestation: {}: {error}", path.display()))
}

/// What fetches from others, told which ports are its own.
fn fetcher(args: &RunArgs, sockets: &Sockets) -> anyhow::Result<Arc<Fetcher>> {
    let roots = match &args.fetch_ca_file {
        Some(path) => Some(files::read(path).context("--fetch-ca-file")?),
        None => None,
    };
    let guard = Guard {
        allow_local: args.allow_local_fetch,
        own_ports: vec![
            sockets.grpc.local_addr()?.port(),
            sockets.metrics.local_addr()?.port(),
        ],
    };
    let fetcher = Fetcher::new(fetch::Settings { guard, roots }).context("--fetch-ca-file")?;
    Ok(Arc::new(fetcher))
}

/// Starts everything. None of the tasks ends before `stop`.
fn spawn(
    args: &RunArgs,
    shared: Shared,
    sockets: Sockets,
    fetcher: Arc<Fetcher>,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    let identity = Arc::new(ServerIdentity::new(
        Arc::clone(&shared.authorities),
        args.certificate_lifetime,
        shared.clock.clone(),
    )?);
    let renewing = Arc::clone(&identity);
    tasks.spawn(until(stop.clone(), async move { renewing.renew().await }));

    let issuance = Arc::new(Issuance {
        authorities: Arc::clone(&shared.authorities),
        store: Arc::clone(&shared.store),
        registry: Arc::clone(&shared.registry),
        tracker: Arc::clone(&shared.tracker),
        lifetime: args.certificate_lifetime,
    });
    let housekeeping = housekeeping(Arc::clone(&issuance), shared.clock.clone());
    tasks.spawn(until(stop.clone(), housekeeping));
    tasks.spawn(done(remember_seen(
        Arc::clone(&shared.tracker),
        Arc::clone(&shared.store),
        shared.clock.clone(),
        stop.clone(),
    )));
    let tending = tend_keys(
        shared.trust.clone(),
        Arc::clone(&shared.registry),
        shared.clock.clone(),
    );
    tasks.spawn(until(stop.clone(), tending));

    let foreign = federation::Keeper {
        fetcher: Arc::clone(&fetcher),
        registry: Arc::clone(&shared.registry),
        store: Arc::clone(&shared.store),
        trust: shared.trust.clone(),
        clock: shared.clock.clone(),
    };
    tasks.spawn(until(stop.clone(), async move { foreign.keep().await }));

    let keeper = Arc::new(Keeper::new(
        fetcher,
        Arc::clone(&shared.registry),
        Arc::clone(&shared.store),
        shared.clock.clone(),
        Intervals {
            shortest: args.key_refresh_min,
            longest: args.key_refresh_max.max(args.key_refresh_min),
            refetch: args.key_refetch,
        },
    ));
    tasks.spawn(until(stop.clone(), Arc::clone(&keeper).keep()));
    let key_sets = KeySetServiceServer::new(KeySetApi {
        keeper: Arc::clone(&keeper),
        registry: Arc::clone(&shared.registry),
        clock: shared.clock.clone(),
    })
    .max_decoding_message_size(MAX_KEY_SET_REQUEST);

    let streams = TaskTracker::new();
    let board = Arc::new(Board::default());
    let told = Arc::clone(&board);
    let administration = Administration {
        keeper: Arc::clone(&keeper),
        registry: Arc::clone(&shared.registry),
        store: Arc::clone(&shared.store),
        authorities: Arc::clone(&shared.authorities),
        tracker: Arc::clone(&shared.tracker),
        metrics: Arc::clone(&shared.metrics),
        board: Arc::clone(&board),
        clock: shared.clock.clone(),
        own_uid: rustix::process::getuid().as_raw(),
        stop: stop.clone(),
        tasks: streams.clone(),
    };
    let rotation = Rotation {
        authorities: Arc::clone(&shared.authorities),
        trust: shared.trust.clone(),
        registry: Arc::clone(&shared.registry),
        tracker: Arc::clone(&shared.tracker),
        store: Arc::clone(&shared.store),
        clock: shared.clock.clone(),
        files: Arc::new(rotation::Files {
            bundle: bundle_path(&args.init),
            operator: OperatorFiles::new(args.init.operator_directory()),
        }),
    };
    // A crash in the middle of a change of roots may have left the files of before it.
    rotation.refresh_files();
    let authority = AuthorityServiceServer::new(AuthorityAdministration {
        administration: administration.clone(),
        rotation,
    });
    let administration = AdminServiceServer::new(administration)
        .max_decoding_message_size(MAX_ADMIN_REQUEST)
        .max_encoding_message_size(MAX_ADMIN_RESPONSE);
    let jwt = JwtSettings {
        keys: Arc::clone(&shared.trust.jwt),
        issuer: args.jwt_issuer.clone(),
        lifetime: args.jwt_lifetime,
    };
    let certificates = Certificates::new(
        issuance,
        attestors(args, &shared)?,
        jwt,
        Arc::clone(&shared.metrics),
        shared.clock.clone(),
    );
    let certificates = CertificateServiceServer::new(certificates)
        .max_decoding_message_size(MAX_CERTIFICATE_REQUEST);
    let discovery = Discovery::new(Parts {
        worlds: shared.registry.watch(),
        tracker: Arc::clone(&shared.tracker),
        metrics: Arc::clone(&shared.metrics),
        clock: shared.clock.clone(),
        stop: stop.clone(),
        tasks: streams.clone(),
    });
    let discovery = AggregatedDiscoveryServiceServer::new(discovery)
        .max_decoding_message_size(MAX_DISCOVERY_REQUEST)
        .max_encoding_message_size(MAX_DISCOVERY_RESPONSE);

    let reports = Reports::new(reports::Parts {
        worlds: shared.registry.watch(),
        board,
        clock: shared.clock.clone(),
        stop: stop.clone(),
        tasks: streams.clone(),
    });
    let reports = ReportServiceServer::new(reports).max_decoding_message_size(MAX_REPORT);

    let (sender, incoming) = mpsc::channel(BACKLOG);
    tasks.spawn(done(listener::accept_tls(
        sockets.grpc,
        identity,
        Arc::clone(&shared.metrics),
        sender,
        stop.clone(),
    )));
    let over_tls = server()
        .add_service(certificates)
        .add_service(discovery)
        .add_service(key_sets)
        .add_service(reports)
        .add_service(administration.clone())
        .add_service(authority.clone())
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    tasks.spawn(async move {
        over_tls.await.context("the gRPC server failed")?;
        streams.close();
        streams.wait().await;
        Ok(())
    });

    let (sender, incoming) = mpsc::channel(BACKLOG);
    tasks.spawn(done(listener::accept_unix(
        sockets.admin,
        sender,
        stop.clone(),
    )));
    let over_unix = server()
        .add_service(administration)
        .add_service(authority)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    tasks.spawn(async move { over_unix.await.context("the administration server failed") });

    let Shared {
        authorities,
        registry,
        tracker,
        metrics,
        trust,
        ..
    } = shared;
    let issuer = args.jwt_issuer.clone();
    let page = move |path: &str| {
        if path == "/metrics" {
            let world = registry.world();
            let mut body = metrics::text(
                &metrics,
                &tracker,
                &world,
                authorities.signing().not_after(),
            );
            metrics::latency_budgets(&mut body, told.breached());
            metrics::key_sets(&mut body, &keeper.states());
            metrics::foreign_bundles(&mut body, &trust.foreign.states());
            return Some(Page {
                media_type: "text/plain; version=0.0.4; charset=utf-8",
                body,
            });
        }
        public_page(path, issuer.as_deref(), &trust, &registry)
    };
    tasks.spawn(done(listener::serve_pages(
        sockets.metrics,
        page,
        stop.clone(),
    )));
    Ok(tasks)
}

/// What anybody may know.
fn public_page(
    path: &str,
    issuer: Option<&str>,
    trust: &Trust,
    registry: &Registry,
) -> Option<Page> {
    let body = match (path, issuer) {
        (oidc::CONFIGURATION_PATH, Some(issuer)) => oidc::configuration(issuer),
        (oidc::KEYS_PATH, _) => trust.jwt.public_set(),
        (federation::BUNDLE_PATH, _) => {
            let domain = trust.authorities.trust_domain();
            federation::document::write(
                &registry.bundle(domain.as_str())?,
                federation::REFRESH_HINT,
            )
        }
        _ => return None,
    };
    Some(Page {
        media_type: "application/json",
        body,
    })
}

fn server() -> Server {
    Server::builder()
        // A peer that vanished without a word is noticed.
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_local_error_reset_streams(Some(128))
        .max_concurrent_streams(Some(64))
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    Ok(())
}

async fn done(work: impl Future<Output = ()>) -> anyhow::Result<()> {
    work.await;
    Ok(())
}

/// Forgets what ended long ago, now and then.
async fn housekeeping(issuance: Arc<Issuance>, clock: Clock) {
    loop {
        let (issuance, now) = (Arc::clone(&issuance), clock.seconds());
        let result = tokio::task::spawn_blocking(move || issuance.forget_old(now)).await;
        if let Ok(Err(error)) = result {
            tracing::warn!(%error, "cannot forget what ended long ago");
        }
        tokio::time::sleep(HOUSEKEEPING).await;
    }
}

/// Writes down who was connected when, now and then and at the end.
async fn remember_seen(
    tracker: Arc<Tracker>,
    store: Arc<Store>,
    clock: Clock,
    stop: CancellationToken,
) {
    loop {
        let stopped = tokio::time::timeout(SEEN, stop.cancelled()).await.is_ok();
        let (seen, store) = (tracker.seen(clock.seconds()), Arc::clone(&store));
        let written =
            tokio::task::spawn_blocking(move || store.write(|write| seen::replace(write, &seen)));
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "cannot write down who was connected");
        }
        if stopped {
            return;
        }
    }
}

/// Rotates the keys of JWT-SVIDs, and publishes what is not published yet.
async fn tend_keys(trust: Trust, registry: Arc<Registry>, clock: Clock) {
    loop {
        tokio::time::sleep(TENDING).await;
        let (trust, registry, now) = (trust.clone(), Arc::clone(&registry), clock.seconds());
        let result = tokio::task::spawn_blocking(move || {
            trust.jwt.tend(now)?;
            trust.publish(&registry, now)
        });
        if let Ok(Err(error)) = result.await {
            tracing::warn!(%error, "cannot rotate or publish the keys of JWT-SVIDs; the ones before stay in use");
        }
    }
}

/// What others are told once everything listens.
struct Ready {
    file: Option<PathBuf>,
    object: serde_json::Value,
}

impl Ready {
    fn new(args: &RunArgs, sockets: &Sockets, bundle: &Path) -> anyhow::Result<Self> {
        let grpc = args.advertised(sockets.grpc.local_addr()?);
        let object = serde_json::json!({
            "grpc": grpc,
            "metrics": sockets.metrics.local_addr()?.to_string(),
            "admin_socket": sockets.admin_path,
            "trust_bundle": bundle,
            "trust_domain": args.init.trust_domain,
            "pid": std::process::id(),
        });
        Ok(Self {
            file: args.ready_file.clone(),
            object,
        })
    }

    fn announce(&self) -> anyhow::Result<()> {
        tracing::info!(ready = %self.object, "control API ready");
        if let Some(file) = &self.file {
            files::write(file, format!("{}\n", self.object).as_bytes())?;
        }
        Ok(())
    }

    fn withdraw(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}
