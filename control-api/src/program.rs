//! Wiring: from arguments to the store, the authority and the services, and back out in order.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::tls::{self, ClientAuth};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::admin::admin_service_server::AdminServiceServer;
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use mesh_proto::mesh::certificate_service_server::CertificateServiceServer;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::admin::Administration;
use crate::args::{InitArgs, RunArgs};
use crate::ca::{self, Authority};
use crate::certificates::Certificates;
use crate::listener;
use crate::registry::World;
use crate::status::Tracker;
use crate::store::Store;
use crate::xds::server::Discovery;

/// Lifetime of an operator's certificate.
const OPERATOR_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How long calls may take to finish at the end.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// The time, Unix seconds.
pub fn now() -> i64 {
    now_millis() / 1000
}

/// The time, Unix milliseconds.
pub fn now_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// `control-api init`.
///
/// # Errors
/// What could not be made, and why.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let authority = open_authority(args)?;
    let out = args
        .operator_out
        .clone()
        .unwrap_or_else(|| args.data_dir.join("operator"));
    make_dir(&out)?;
    let user = std::env::var("USER").unwrap_or_default();
    let domain = authority.trust_domain();
    let id = SpiffeId::parse(&format!("spiffe://{domain}/operator/{user}"))
        .or_else(|_| SpiffeId::parse(&format!("spiffe://{domain}/operator/admin")))?;
    let (chain, key) =
        authority.own_certificate(&id, OPERATOR_LIFETIME, OffsetDateTime::now_utc())?;
    let chain: String = chain.iter().map(|c| ca::pem("CERTIFICATE", c)).collect();
    ca::write_secret(
        &out.join("operator.key"),
        ca::pem("PRIVATE KEY", key.secret_der()).as_bytes(),
    )?;
    ca::write_file(&out.join("operator.pem"), chain.as_bytes(), 0o644)?;
    ca::write_file(
        &out.join("ca.pem"),
        authority.bundle_pem().as_bytes(),
        0o644,
    )?;
    Ok(())
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make directory {}", dir.display()))
}

fn open_authority(args: &InitArgs) -> anyhow::Result<Authority> {
    let domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    make_dir(&args.data_dir)?;
    let own = args.root_cert.as_deref().zip(args.root_key.as_deref());
    Ok(Authority::open(
        &args.data_dir,
        domain,
        own,
        OffsetDateTime::now_utc(),
    )?)
}

/// `control-api run`.
///
/// # Errors
/// What kept it from starting.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(format!(
            "{},h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=error",
            args.log
        ))
        .try_init()
        .map_err(|e| anyhow::anyhow!("cannot set up logging: {e}"))?;
    let authority = Arc::new(open_authority(&args.init)?);
    let store = Arc::new(Store::open(&args.init.data_dir)?);
    let bundle_file = args.init.data_dir.join("trust-bundle.pem");
    ca::write_file(&bundle_file, authority.bundle_pem().as_bytes(), 0o644)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(args, authority, store, &bundle_file))
}

async fn serve(
    args: &RunArgs,
    authority: Arc<Authority>,
    store: Arc<Store>,
    bundle_file: &Path,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let config = Arc::new(ArcSwap::from(server_config(
        &authority,
        args.certificate_lifetime,
    )?));
    let first = World::build(
        &store.view(),
        authority.trust_domain(),
        authority.root(),
        &World::default(),
    );
    let (worlds, watched) = watch::channel(Arc::new(first));
    let tracker = Arc::new(Tracker::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(rebuild(
        Arc::clone(&store),
        Arc::clone(&authority),
        worlds,
        stop.clone(),
    ));
    tasks.spawn(rotate(
        Arc::clone(&authority),
        Arc::clone(&config),
        args.certificate_lifetime,
        stop.clone(),
    ));

    let tcp = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen): is it in use?", args.listen))?;
    let grpc = tcp.local_addr()?;
    let metrics = TcpListener::bind(args.metrics).await.with_context(|| {
        format!(
            "cannot listen on {} (--metrics): is it in use?",
            args.metrics
        )
    })?;
    tasks.spawn(serve_metrics(
        metrics,
        Arc::clone(&store),
        Arc::clone(&tracker),
        stop.clone(),
    ));
    let socket = args
        .admin_socket
        .clone()
        .unwrap_or_else(|| args.init.data_dir.join("admin.sock"));
    let unix = bind_unix(&socket)?;

    let administration = || {
        AdminServiceServer::new(Administration {
            store: Arc::clone(&store),
            authority: Arc::clone(&authority),
            worlds: watched.clone(),
            tracker: Arc::clone(&tracker),
            own_uid: rustix::process::getuid().as_raw(),
        })
        .max_decoding_message_size(8 << 20)
        .max_encoding_message_size(256 << 20)
    };
    let certificates = CertificateServiceServer::new(Certificates {
        authority: Arc::clone(&authority),
        store: Arc::clone(&store),
        worlds: watched.clone(),
        lifetime: args.certificate_lifetime,
    })
    .max_decoding_message_size(64 << 10);
    let discovery = AggregatedDiscoveryServiceServer::new(Discovery::new(
        watched.clone(),
        Arc::clone(&tracker),
    ));
    let server = || {
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .max_concurrent_streams(Some(64))
    };
    let over_tls = server()
        .add_service(certificates)
        .add_service(discovery)
        .add_service(administration())
        .serve_with_incoming_shutdown(
            ReceiverStream::new(listener::tls(tcp, config, stop.clone())),
            stop.clone().cancelled_owned(),
        );
    let over_unix = server()
        .add_service(administration())
        .serve_with_incoming_shutdown(
            ReceiverStream::new(listener::unix(unix, stop.clone())),
            stop.clone().cancelled_owned(),
        );
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(over_tls);
    servers.spawn(over_unix);
    if let Some(file) = &args.ready_file {
        let object = serde_json::json!({
            "grpc": grpc.to_string(),
            "admin_socket": socket,
            "trust_bundle": bundle_file,
            "trust_domain": authority.trust_domain().as_str(),
        });
        ca::write_file(file, format!("{object}\n").as_bytes(), 0o644)?;
    }
    tracing::info!(%grpc, admin_socket = %socket.display(), "control API ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        Some(ended) = servers.join_next() => {
            ended?.context("a listener failed")?;
        }
    }
    stop.cancel();
    let _ = tokio::time::timeout(SHUTDOWN, async {
        while servers.join_next().await.is_some() {}
        while tasks.join_next().await.is_some() {}
    })
    .await;
    let _ = fs::remove_file(&socket);
    if let Some(file) = &args.ready_file {
        let _ = fs::remove_file(file);
    }
    tracing::info!("stopped");
    Ok(())
}

fn server_config(
    authority: &Authority,
    lifetime: Duration,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let id = SpiffeId::workload(authority.trust_domain(), "postern-system", "control-api")?;
    let identity = authority.identity(&id, lifetime, OffsetDateTime::now_utc())?;
    let mut bundles = TrustBundles::default();
    bundles.insert(TrustBundle::new(
        authority.trust_domain().clone(),
        vec![authority.root().clone()],
        0,
    )?)?;
    Ok(tls::server_config(
        &identity,
        Arc::new(bundles),
        ClientAuth::Optional,
        &[b"h2"],
    )?)
}

/// Turns each published view into resources; bursts of views become one world.
async fn rebuild(
    store: Arc<Store>,
    authority: Arc<Authority>,
    worlds: watch::Sender<Arc<World>>,
    stop: CancellationToken,
) {
    let mut views = store.watch();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
        let view = Arc::clone(&views.borrow_and_update());
        let previous = Arc::clone(&worlds.borrow());
        let world = World::build(&view, authority.trust_domain(), authority.root(), &previous);
        worlds.send_replace(Arc::new(world));
    }
}

/// Replaces the server's own certificate at half of its life.
async fn rotate(
    authority: Arc<Authority>,
    config: Arc<ArcSwap<rustls::ServerConfig>>,
    lifetime: Duration,
    stop: CancellationToken,
) {
    let mut wait = lifetime / 2;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match server_config(&authority, lifetime) {
            Ok(fresh) => {
                config.store(fresh);
                lifetime / 2
            }
            Err(error) => {
                tracing::error!(
                    error = format_args!("{error:#}"),
                    "cannot renew the server certificate; the old one stays"
                );
                (lifetime / 20).max(Duration::from_secs(1))
            }
        };
    }
}

fn bind_unix(socket: &PathBuf) -> anyhow::Result<UnixListener> {
    if socket.exists() {
        // The store's lock has shown that no other control API is alive here: a leftover of a crash.
        fs::remove_file(socket).with_context(|| format!("cannot replace {}", socket.display()))?;
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {} (--admin-socket)", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_metrics(
    listener: TcpListener,
    store: Arc<Store>,
    tracker: Arc<Tracker>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let body = metrics_text(&store, &tracker);
        let answer = async move {
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await?;
            let response = if request[..n].starts_with(b"GET /metrics ") {
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
            } else {
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    .to_owned()
            };
            stream.write_all(response.as_bytes()).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), answer).await;
    }
}

fn metrics_text(store: &Store, tracker: &Tracker) -> String {
    let sidecars = tracker.all();
    let connected = sidecars.iter().filter(|s| s.connected).count();
    let nacks: usize = sidecars.iter().map(|s| s.nacks.len()).sum();
    format!(
        "# HELP postern_control_streams Discovery streams that are open.\n# TYPE postern_control_streams gauge\npostern_control_streams {connected}\n\
         # HELP postern_control_revision Revision of the store.\n# TYPE postern_control_revision gauge\npostern_control_revision {}\n\
         # HELP postern_control_rejected_resources Resources that sidecars rejected and do not hold.\n# TYPE postern_control_rejected_resources gauge\npostern_control_rejected_resources {nacks}\n",
        store.view().revision
    )
}
