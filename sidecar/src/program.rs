//! Wiring: from arguments to listeners, workers, and the control thread, and back out in order.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mesh_auth::{SpiffeId, TrustDomain, bundle::TrustBundle};
use mesh_http1::Limits;
use mesh_trace::Tracer;
use mesh_trace::export::Exporter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState, Readiness, Surface};
use crate::args::RunArgs;
use crate::control::connect::Target;
use crate::control::{self, ControlConfig, ControlStatus, Proofs, SystemClock};
use crate::doors::{self, Doors, admission::Allowed};
use crate::inbound::introspect::Questions;
use crate::key_requests::KeyRequests;
use crate::ledger::Ledger;
use crate::lookups::{Lookup, Lookups};
use crate::snapshot::{SharedSnapshot, Snapshot};
use crate::telemetry::access_log::Writer;
use crate::telemetry::{self, Metrics};
use crate::worker::crew::{self, Crew};
use crate::worker::probe::Probe;
use crate::worker::{self, Epochs, Listeners, Mode, Settings, dial};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Period of the capture self-check.
const CAPTURE_CHECK: Duration = Duration::from_secs(5);

struct Bound {
    outbound: SocketAddr,
    inbound: SocketAddr,
    mesh: SocketAddr,
    tcp_services: BTreeMap<String, SocketAddr>,
}

/// Runs the sidecar until SIGTERM, SIGINT or `POST /drain`.
///
/// # Errors
/// What kept it from starting; after the start nothing does.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    telemetry::init_logging(args.log, args.log_format).context("cannot set up logging")?;
    let metrics = Metrics::install().context("cannot set up metrics")?;
    control::describe_metrics();
    doors::describe_metrics();
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "cannot keep the private key out of core dumps");
    }
    let mode = Mode::from(args.mode);
    let trust_domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    let control_api_id = match &args.control_api_id {
        Some(id) => SpiffeId::parse(id).context("--control-api-id")?,
        None => SpiffeId::workload(&trust_domain, "postern-system", "control-api")?,
    };
    let pem = std::fs::read(&args.trust_bundle)
        .with_context(|| format!("cannot read --trust-bundle {}", args.trust_bundle.display()))?;
    let bundle = TrustBundle::from_pem(trust_domain.clone(), &pem)
        .with_context(|| format!("--trust-bundle {}", args.trust_bundle.display()))?;
    anyhow::ensure!(
        args.workload.split('/').count() == 2,
        "--workload '{}' must be NAMESPACE/NAME",
        args.workload
    );
    let workers = args.workers.map_or_else(cpu_quota, usize::from);
    let mark =
        (mode == Mode::Capture && dial::may_mark(args.proxy_mark)).then_some(args.proxy_mark);
    if mode == Mode::Capture && mark.is_none() {
        tracing::warn!(
            "sockets cannot be marked (CAP_NET_ADMIN): capture must tell the sidecar by its user (--proxy-uid)"
        );
    }

    let tracing = mesh_trace::Settings::read(|name| std::env::var(name).ok(), &args.workload)?;
    let access_log = args.access_log();
    let writer =
        match &access_log {
            Some(settings) => Some(Writer::start(&settings.target).with_context(|| {
                format!("cannot write --access-log {}", settings.target.display())
            })?),
            None => None,
        };

    let (bound, crew, mut listeners) = bind(args, mode, workers)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Listeners register with the runtime that will serve them.
    let entered = runtime.enter();
    let admin = admin::bind(Surface::Admin, args.admin)?;
    let metrics_listener = admin::bind(Surface::Metrics, args.metrics)?;
    let readiness_listener = admin::bind(Surface::Readiness, args.readiness)?;
    let allowed = Allowed::new(&args.workload_api_uid);
    let workload_api = match &args.workload_api_socket {
        Some(path) => Some((path, doors::socket::bind(path, allowed.socket_mode())?)),
        None => None,
    };
    if let Some((path, _)) = &workload_api {
        tracing::info!(socket = %path.display(), mode = format_args!("{:04o}", allowed.socket_mode()), uids = ?allowed.uids(), "workload API");
    }
    let addresses = [
        admin.local_addr()?,
        metrics_listener.local_addr()?,
        readiness_listener.local_addr()?,
    ];
    crate::telemetry::process::started();
    let seed = seed()?;
    let key_requests = KeyRequests::new();
    let lookups = Lookups::new();
    let probe = Arc::new(Probe::new(mesh_capture::probe::DESTINATIONS, nonce()?));
    let settings = Arc::new(Settings {
        mode,
        egress: args.egress.into(),
        apps: args.app.iter().copied().collect::<HashMap<_, _>>(),
        inbound_port: args.inbound_port,
        internal_ports: [bound.outbound, bound.inbound, bound.mesh]
            .iter()
            .chain(&addresses)
            .map(SocketAddr::port)
            .collect(),
        dialer: dial::Dialer {
            mark,
            timeout: CONNECT_TIMEOUT,
        },
        drain_timeout: args.drain_timeout,
        limits: Limits::default(),
        probe: Arc::clone(&probe),
        key_requests: Arc::clone(&key_requests),
        lookups: Arc::clone(&lookups),
        recent: Arc::default(),
        questions: Arc::new(Questions::new(worker::secret()?)),
    });
    let shared: SharedSnapshot = Arc::new(ArcSwap::from_pointee(Snapshot {
        resumption: args.session_resumption.into(),
        ..Snapshot::empty(&args.workload, trust_domain.clone())
    }));
    let mut conditions = admin::readiness::CONDITIONS.to_vec();
    conditions.push(admin::readiness::WARM);
    if mode == Mode::Capture {
        conditions.push(admin::readiness::CAPTURE);
    }
    let readiness = Arc::new(Readiness::new(&conditions));
    let status = Arc::new(ControlStatus::new());
    let clock: Arc<dyn control::Clock> = Arc::new(SystemClock);
    let drain = CancellationToken::new();

    let (epochs, published) = watch::channel(0);
    let ledgers: Vec<_> = (0..workers).map(|_| Ledger::new()).collect();
    let mut threads = Vec::with_capacity(workers);
    let mut queues = Vec::with_capacity(workers);
    let mut enforced = Vec::with_capacity(workers);
    let mut warm = Vec::with_capacity(workers);
    for (index, (listeners, ledger)) in listeners.drain(..).zip(&ledgers).enumerate() {
        let (settings, shared, drain) = (Arc::clone(&settings), Arc::clone(&shared), drain.clone());
        let (tell, told) = watch::channel(0);
        enforced.push(told);
        let (warmed, is_warm) = watch::channel(false);
        warm.push(is_warm);
        let epochs = Epochs {
            published: published.clone(),
            enforced: tell,
            warm: warmed,
        };
        let seed = seed
            .wrapping_add(index as u64)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let tracer = match &tracing {
            Some(settings) => {
                let (tracer, queue) = settings.tracer(seed);
                queues.push(queue);
                tracer
            }
            None => Tracer::off(),
        };
        let log = writer
            .as_ref()
            .zip(access_log.as_ref())
            .map(|(writer, settings)| writer.log(settings, seed));
        let telling = worker::Telling {
            metrics: args.request_metrics.then(|| metrics.clone()),
            tracer,
            access_log: log,
            ledger: Arc::clone(ledger),
        };
        threads.push(
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    worker::run(settings, shared, epochs, listeners, telling, &drain, seed)
                })?,
        );
    }
    #[allow(clippy::cast_precision_loss)]
    metrics_of_workers(workers as f64);
    readiness.set("listeners", Ok(()));
    tracing::info!(workload = args.workload, workers, outbound = %bound.outbound, inbound = %bound.inbound, mesh = %bound.mesh, "sidecar started");

    let mut exporter = match tracing {
        Some(settings) => {
            Some(Exporter::new(settings, queues, mark, !seed).context("spans cannot be exported")?)
        }
        None => None,
    };
    let target = Target {
        address: args.control_api.clone(),
        id: control_api_id.clone(),
        mark,
    };
    let control = ControlConfig {
        workload: args.workload.clone(),
        control_api: args.control_api.clone(),
        control_api_id,
        trust_domain,
        initial_bundle: bundle.authorities().to_vec(),
        outside: args.identity_socket.clone(),
        proofs: Proofs {
            join_token_file: args.join_token_file.clone(),
            service_account_token_file: args.service_account_token_file.clone(),
        },
        state_dir: args.state_dir.clone(),
        key_dir: args.key_dir.clone(),
        mark,
        ledgers,
        key_requests,
        subscribe: args.subscribe.into(),
        destinations: args
            .tcp_service
            .iter()
            .filter_map(|(_, service)| Lookup::host(&service.host))
            .collect(),
        lookups,
    };
    let ready_object = |spiffe_id: Option<String>| {
        serde_json::json!({
            "pid": std::process::id(),
            "spiffe_id": spiffe_id,
            "outbound": bound.outbound.to_string(),
            "inbound": bound.inbound.to_string(),
            "mesh": bound.mesh.to_string(),
            "admin": addresses[0].to_string(),
            "metrics": addresses[1].to_string(),
            "readiness": addresses[2].to_string(),
            "tcp_services": bound.tcp_services,
            "workload_api": args.workload_api_socket,
        })
    };
    drop(entered);
    let serve = async {
        let stop = CancellationToken::new();
        let state = Arc::new(AdminState {
            readiness: Arc::clone(&readiness),
            status: Arc::clone(&status),
            snapshot: Arc::clone(&shared),
            metrics,
            crew,
            clock: Arc::clone(&clock),
            drain: drain.clone(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        for (listener, surface) in [
            (admin, Surface::Admin),
            (metrics_listener, Surface::Metrics),
            (readiness_listener, Surface::Readiness),
        ] {
            tasks.spawn(admin::serve(
                listener,
                surface,
                Arc::clone(&state),
                stop.clone(),
            ));
        }
        if let Some((path, listener)) = workload_api {
            let doors = Doors {
                listener,
                path: path.clone(),
                allowed,
                target,
                shared: Arc::clone(&shared),
                epochs: epochs.subscribe(),
                clock: Arc::clone(&clock),
            };
            tasks.spawn(doors::run(doors, stop.clone()));
        }
        tasks.spawn(control::run(
            control,
            (Arc::clone(&shared), epochs),
            control::Enforcement::new(enforced),
            clock,
            stop.clone(),
            Arc::clone(&status),
            Arc::clone(&readiness),
        ));
        tasks.spawn(watch_warmth(warm, Arc::clone(&readiness)));
        if mode == Mode::Capture {
            tasks.spawn(watch_capture(
                Arc::clone(&probe),
                Arc::clone(&readiness),
                stop.clone(),
            ));
        }
        let announced = async {
            let mut ready = readiness.subscribe();
            if ready.wait_for(|r| *r).await.is_ok() {
                let id = shared.load().identity().map(ToString::to_string);
                tracing::info!(spiffe_id = id, "ready");
                if let Some(file) = &args.ready_file
                    && let Err(error) = write_atomically(file, &ready_object(id))
                {
                    tracing::error!(file = %file.display(), %error, "cannot write the ready file");
                }
            }
            std::future::pending::<()>().await;
        };
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            () = announced => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = drain.cancelled() => {}
        }
        tracing::info!(deadline = ?args.drain_timeout, "draining");
        readiness.set(
            admin::readiness::DRAINING,
            Err("the sidecar is shutting down".into()),
        );
        drain.cancel();
        // Workers end within the drain deadline; the control side goes on until they have.
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "worker failed"),
                    Err(_) => tracing::error!("worker panicked"),
                }
            }
        });
        joined.await?;
        stop.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
        anyhow::Ok(())
    };
    let result = runtime.block_on(async {
        let export = async {
            match &mut exporter {
                Some(exporter) => exporter.run().await,
                None => std::future::pending().await,
            }
        };
        // The exporter's queues belong to one thread at a time: it is no task of its own.
        let result = tokio::select! {
            result = serve => result,
            () = export => Ok(()),
        };
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
        result
    });
    if let Some(writer) = writer {
        writer.finish();
    }
    if let Some(file) = &args.ready_file {
        let _ = std::fs::remove_file(file);
    }
    tracing::info!("stopped");
    result
}

fn bind(
    args: &RunArgs,
    mode: Mode,
    workers: usize,
) -> anyhow::Result<(Bound, Crew, Vec<Listeners>)> {
    let outbound = args.outbound.unwrap_or_else(|| match mode {
        Mode::Capture => SocketAddr::from(([0; 16], 15001)),
        Mode::Explicit => SocketAddr::from(([127, 0, 0, 1], 15001)),
    });
    let listen = |name: &str, address: SocketAddr| {
        dial::listen(address, workers)
            .with_context(|| format!("cannot listen on {address} ({name}): is it in use?"))
    };
    let (outbound, outbounds) = listen("--outbound", outbound)?;
    let (inbound, inbounds) = listen("--inbound", args.inbound)?;
    let (mesh, meshes) = listen("--mesh", args.mesh)?;
    let services = args.tcp_service.len();
    let (crew, desks) = crew::form(workers, 3 + services, args.hand_over.into());
    let mut listeners: Vec<_> = outbounds
        .into_iter()
        .zip(inbounds)
        .zip(meshes)
        .zip(desks)
        .map(|(((outbound, inbound), mesh), desks)| Listeners {
            outbound,
            inbound,
            mesh,
            tcp_services: Vec::new(),
            desks,
        })
        .collect();
    let mut tcp_services = BTreeMap::new();
    for (address, service) in &args.tcp_service {
        let (bound, sockets) = listen("--tcp-service", *address)?;
        tcp_services.insert(format!("{}:{}", service.host, service.port), bound);
        for (worker, socket) in listeners.iter_mut().zip(sockets) {
            worker.tcp_services.push((service.clone(), socket));
        }
    }
    Ok((
        Bound {
            outbound,
            inbound,
            mesh,
            tcp_services,
        },
        crew,
        listeners,
    ))
}

/// Waits for every worker's connections to what was in use before the start.
async fn watch_warmth(workers: Vec<watch::Receiver<bool>>, readiness: Arc<Readiness>) {
    for mut worker in workers {
        // One that ended needs none.
        let _ = worker.wait_for(|warm| *warm).await;
    }
    readiness.set(admin::readiness::WARM, Ok(()));
}

async fn watch_capture(probe: Arc<Probe>, readiness: Arc<Readiness>, stop: CancellationToken) {
    let mut period = tokio::time::interval(CAPTURE_CHECK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = period.tick() => {}
        }
        let proven = probe.prove().await;
        if let Err(reason) = &proven {
            tracing::warn!(reason, "capture not proven");
        }
        readiness.set(admin::readiness::CAPTURE, proven);
    }
}

fn metrics_of_workers(workers: f64) {
    ::metrics::describe_gauge!("postern_workers", "Worker threads.");
    ::metrics::gauge!("postern_workers").set(workers);
}

/// Whole CPUs of the cgroup's quota, or of the machine; at least 1.
fn cpu_quota() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn nonce() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(bytes)
}

fn write_atomically(file: &Path, object: &serde_json::Value) -> std::io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut out = std::fs::File::create(&temporary)?;
    writeln!(out, "{object}")?;
    out.sync_all()?;
    std::fs::rename(temporary, file)
}
