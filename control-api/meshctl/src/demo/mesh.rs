//! Starts the demo's mesh: control API, documents, applications, sidecars; in that order, each waited for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::documents::{
    self, BANNER_PORT, ECHO_PORT, GRPC_PORT, HTTP_PORT, Registration, SERVICE_PORT,
};
use super::netns::{self, Network};
use super::place::Place;
use super::programs::Programs;
use super::stage::{self, Part, Stage};
use super::{NAMESPACE, TRUST_DOMAIN, WORKLOADS};
use crate::cli::DemoArgs;
use crate::commands;
use crate::connect;
use crate::failure::Failure;
use crate::progress::Progress;

/// Seconds for which a sidecar's join token is good.
const TOKEN_SECONDS: u32 = 300;

/// A running mesh.
pub(super) struct Mesh {
    pub(super) control_api: ControlApi,
    pub(super) workloads: Vec<Workload>,
    /// Where somebody without an identity is.
    pub(super) outsider: Place,
    /// Whether every workload has a network of its own.
    pub(super) captured: bool,
}

/// The running control API.
pub(super) struct ControlApi {
    pub(super) pid: u32,
    pub(super) ready: ControlApiReady,
}

/// What the control API says when it is ready.
#[derive(Debug, Deserialize)]
pub(super) struct ControlApiReady {
    pub(super) grpc: SocketAddr,
    pub(super) admin_socket: PathBuf,
    pub(super) trust_bundle: PathBuf,
}

/// One workload: its application and its sidecar.
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// Host or virtual address that callers name its service by.
    pub(super) service: String,
    /// Where the application really listens.
    pub(super) app: String,
    pub(super) sidecar: Sidecar,
}

/// One running sidecar, its addresses as others reach them.
pub(super) struct Sidecar {
    pub(super) pid: u32,
    pub(super) outbound: SocketAddr,
    pub(super) inbound: SocketAddr,
    pub(super) mesh: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Local listeners of opaque services by `HOST:PORT` (explicit mode).
    pub(super) tcp_services: BTreeMap<String, SocketAddr>,
    /// Socket of the Workload API.
    pub(super) workload_api: PathBuf,
}

#[derive(Debug, Deserialize)]
struct SidecarReady {
    outbound: SocketAddr,
    inbound: SocketAddr,
    mesh: SocketAddr,
    admin: SocketAddr,
    #[serde(default)]
    tcp_services: BTreeMap<String, SocketAddr>,
    workload_api: PathBuf,
}

/// What an application says when it is ready.
#[derive(Debug, Deserialize)]
struct AppReady {
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    echo: Option<SocketAddr>,
    banner: Option<SocketAddr>,
}

/// A workload before its sidecar runs.
struct Plan {
    name: &'static str,
    network: Option<Network>,
    outbound: SocketAddr,
    mesh: SocketAddr,
    service_address: Option<Ipv4Addr>,
}

impl Plan {
    fn place(&self) -> Place {
        self.network
            .as_ref()
            .map_or(Place::Here, |n| n.place.clone())
    }

    fn ip(&self) -> IpAddr {
        self.network
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |n| n.ipv4)
            .into()
    }

    /// An address as others reach it: a listener on every address is reached by the workload's.
    fn reached(&self, address: SocketAddr) -> SocketAddr {
        if address.ip().is_unspecified() {
            SocketAddr::new(self.ip(), address.port())
        } else {
            address
        }
    }

    fn service(&self) -> String {
        self.service_address
            .map_or_else(|| self.name.to_owned(), |a| a.to_string())
    }
}

impl Mesh {
    /// Starts everything.
    pub(super) async fn start(
        stage: &mut Stage,
        arguments: &DemoArgs,
        policies: &[(String, String)],
        programs: &Programs,
    ) -> Result<Self, Failure> {
        let _progress =
            Progress::start("starting the control API, three applications and their sidecars");
        let (plans, outsider) = if arguments.netns {
            networks()?
        } else {
            (ports()?, Place::Here)
        };
        let control_api = start_control_api(stage, programs, arguments).await?;
        let tokens = register(&control_api, &plans, policies).await?;
        let mut apps = BTreeMap::new();
        for plan in &plans {
            let outside = arguments.apps.iter().rfind(|a| a.workload == plan.name);
            let app = match outside {
                Some(app) => App::outside(app.address.clone()),
                None => start_app(stage, plan, &plans).await?,
            };
            apps.insert(plan.name, app);
        }
        for plan in &plans {
            if plan.network.is_some() {
                capture(stage, programs, plan).await?;
            }
            let token = tokens.get(plan.name).map_or("", String::as_str);
            start_sidecar(
                stage,
                programs,
                arguments,
                plan,
                &control_api,
                token,
                &apps[plan.name],
            )?;
        }
        let mut workloads = Vec::new();
        for plan in &plans {
            let app = apps.remove(plan.name).unwrap_or_default();
            workloads.push(wait_for_sidecar(stage, plan, app).await?);
        }
        Ok(Self {
            control_api,
            workloads,
            outsider,
            captured: arguments.netns,
        })
    }

    /// A workload by name.
    pub(super) fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|w| w.name == name)
    }
}

/// Network namespaces for everybody.
fn networks() -> Result<(Vec<Plan>, Place), Failure> {
    netns::lay_hub()?;
    let mut plans = Vec::new();
    for (name, host) in WORKLOADS.into_iter().zip(2..) {
        let network = netns::lay(name, host)?;
        let any = |port| SocketAddr::new(network.ipv4.into(), port);
        plans.push(Plan {
            name,
            outbound: any(15001),
            mesh: any(15008),
            service_address: Some(Ipv4Addr::new(10, 96, 0, host)),
            network: Some(network),
        });
    }
    Ok((plans, netns::lay("outsider", 99)?.place))
}

/// Where the search for free ports begins: each process has a stretch of its own, below the ports that Linux hands out for
/// port 0 (32768 and up), so that nobody takes a port between its choice and its use.
fn first_port(pid: u32) -> u16 {
    const STRETCH: u32 = 10;
    const STRETCHES: u32 = 2200;
    u16::try_from(10_000 + pid % STRETCHES * STRETCH).unwrap_or(10_000)
}

/// Free ports on loopback. They are chosen before anything runs because peers must be told of them first.
fn ports() -> Result<Vec<Plan>, Failure> {
    let mut candidates = (first_port(std::process::id())..u16::MAX).chain([0]);
    let mut pick = || {
        candidates
            .find_map(|port| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
                let address = listener.local_addr().ok()?;
                Some((listener, address))
            })
            .ok_or_else(|| {
                Failure::problem("there is no free port on 127.0.0.1")
                    .next("see what holds them: `ss -ltn`")
            })
    };
    let mut held = Vec::new();
    let mut plans = Vec::new();
    for name in WORKLOADS {
        let (outbound, mesh) = (pick()?, pick()?);
        plans.push(Plan {
            name,
            network: None,
            outbound: outbound.1,
            mesh: mesh.1,
            service_address: None,
        });
        held.extend([outbound.0, mesh.0]);
    }
    Ok(plans)
}

async fn start_control_api(
    stage: &mut Stage,
    programs: &Programs,
    options: &DemoArgs,
) -> Result<ControlApi, Failure> {
    let name = "control-api";
    let listen = if options.netns {
        format!("{}:15012", netns::HUB)
    } else {
        "127.0.0.1:0".to_owned()
    };
    let data = stage.scratch.make(name)?;
    let mut arguments = Arguments::new("run")
        .with("--data-dir", data)
        .with("--trust-domain", TRUST_DOMAIN)
        .with("--listen", listen)
        .with("--metrics", "127.0.0.1:0")
        .with("--ready-file", stage.ready_file(name));
    if let Some(level) = &options.log {
        arguments = arguments.with("--log", level);
    }
    arguments
        .0
        .extend(options.control_api_flags.iter().map(Into::into));
    let pid = stage.start(Part {
        name: name.to_owned(),
        program: &programs.control_api,
        arguments: arguments.0,
        place: &Place::Here,
    })?;
    let ready = stage.ready(name).await?;
    Ok(ControlApi { pid, ready })
}

/// Stores the documents; returns a join token per workload.
async fn register(
    control_api: &ControlApi,
    plans: &[Plan],
    policies: &[(String, String)],
) -> Result<BTreeMap<&'static str, String>, Failure> {
    let registrations: Vec<Registration> = plans
        .iter()
        .map(|plan| Registration {
            name: plan.name,
            addresses: match &plan.network {
                Some(network) => network.addresses(),
                None => vec![plan.ip()],
            },
            mesh_port: plan.mesh.port(),
            service_address: plan.service_address,
        })
        .collect();
    let mut admin = connect::connect_socket(&control_api.ready.admin_socket).await?;
    let own = (
        "the demo's documents".to_owned(),
        documents::manifest(&registrations),
    );
    for (source, text) in std::iter::once(&own).chain(policies) {
        commands::apply::send(&mut admin, source, text, false).await?;
    }
    let mut tokens = BTreeMap::new();
    for plan in plans {
        let workload = format!("{NAMESPACE}/{}", plan.name);
        let made = commands::token::create(&mut admin, &workload, TOKEN_SECONDS).await?;
        tokens.insert(plan.name, made.token);
    }
    Ok(tokens)
}

/// An application's listeners by the port that the mesh knows them by.
#[derive(Default)]
struct App {
    http: String,
    ports: Vec<(u16, String)>,
}

impl App {
    /// A server of the user's own.
    fn outside(address: String) -> Self {
        Self {
            ports: vec![(HTTP_PORT, address.clone())],
            http: address,
        }
    }
}

async fn start_app(stage: &mut Stage, plan: &Plan, plans: &[Plan]) -> Result<App, Failure> {
    let name = format!("app-{}", plan.name);
    let listen = |port: u16| match &plan.network {
        // Every address of the namespace: applications in pods do the same.
        Some(Network { ipv6: Some(_), .. }) => format!("[::]:{port}"),
        Some(_) => format!("0.0.0.0:{port}"),
        None => "127.0.0.1:0".to_owned(),
    };
    let mut arguments = Arguments::new("demo-app")
        .with("--role", plan.name)
        .with("--http", listen(HTTP_PORT))
        .with("--ready-file", stage.ready_file(&name));
    if plan.name == "orders" {
        arguments = arguments
            .with("--grpc", listen(GRPC_PORT))
            .with("--echo", listen(ECHO_PORT))
            .with("--banner", listen(BANNER_PORT));
        if let Some(payments) = plans.iter().find(|p| p.name == "payments") {
            let address = match payments.service_address {
                Some(ip) => SocketAddr::new(ip.into(), SERVICE_PORT),
                None => plan.outbound,
            };
            arguments = arguments
                .with("--payments", address.to_string())
                .with("--payments-host", payments.service());
        }
    }
    stage.start(Part {
        name: name.clone(),
        program: &stage::ourselves(),
        arguments: arguments.0,
        place: &plan.place(),
    })?;
    let ready: AppReady = stage.ready(&name).await?;
    let reached = |a: SocketAddr| plan.reached(a).to_string();
    let ports = [
        (HTTP_PORT, Some(ready.http)),
        (GRPC_PORT, ready.grpc),
        (ECHO_PORT, ready.echo),
        (BANNER_PORT, ready.banner),
    ];
    Ok(App {
        http: reached(ready.http),
        ports: ports
            .into_iter()
            .filter_map(|(port, a)| a.map(|a| (port, reached(a))))
            .collect(),
    })
}

/// Redirects a namespace's traffic to the sidecar that is about to start there.
async fn capture(stage: &mut Stage, programs: &Programs, plan: &Plan) -> Result<(), Failure> {
    let mut arguments = Arguments::new("capture");
    arguments
        .0
        .extend(["apply".into(), "--proxy-mark".into(), "0x539".into()]);
    stage
        .finish(Part {
            name: format!("capture-{}", plan.name),
            program: &programs.sidecar,
            arguments: arguments.0,
            place: &plan.place(),
        })
        .await
}

fn start_sidecar(
    stage: &mut Stage,
    programs: &Programs,
    options: &DemoArgs,
    plan: &Plan,
    control_api: &ControlApi,
    token: &str,
    app: &App,
) -> Result<(), Failure> {
    let name = sidecar_name(plan.name);
    let token_file = stage.scratch.write(&format!("{name}.token"), token)?;
    let mut arguments = Arguments::new("run")
        .with("--workload", format!("{NAMESPACE}/{}", plan.name))
        .with("--control-api", control_api.ready.grpc.to_string())
        .with("--trust-domain", TRUST_DOMAIN)
        .with("--trust-bundle", &control_api.ready.trust_bundle)
        .with("--join-token-file", token_file)
        .with("--state-dir", stage.scratch.make(&name)?)
        .with(
            "--workload-api-socket",
            stage.scratch.dir().join(format!("{}.sock", plan.name)),
        )
        .with("--workers", options.workers.to_string())
        .with("--drain-timeout", "1s")
        .with("--ready-file", stage.ready_file(&name));
    if let Some(keys) = stage.scratch.key_dir(plan.name)? {
        arguments = arguments.with("--key-dir", keys);
    }
    if let Some(level) = &options.log {
        arguments = arguments.with("--log", level);
    }
    if options.access_log {
        let name = format!("{}.access.jsonl", plan.name);
        let log = stage.scratch.dir().join("logs").join(name);
        arguments = arguments.with("--access-log", log);
    }
    if plan.network.is_some() {
        arguments = arguments
            .with("--mode", "capture")
            .with("--proxy-mark", "0x539");
        // Without a place of its own, an application is dialled at the workload's address.
        if options.apps.iter().any(|a| a.workload == plan.name) {
            arguments = arguments.with("--app", format!("{HTTP_PORT}={}", app.http));
        }
    } else {
        arguments = arguments
            .with("--mode", "explicit")
            .with("--outbound", plan.outbound.to_string())
            .with("--mesh", plan.mesh.to_string())
            .with("--inbound", "127.0.0.1:0")
            .with("--inbound-port", HTTP_PORT.to_string())
            .with("--admin", "127.0.0.1:0")
            .with("--metrics", "127.0.0.1:0")
            .with("--readiness", "127.0.0.1:0");
        for (port, address) in &app.ports {
            arguments = arguments.with("--app", format!("{port}={address}"));
        }
        if plan.name == "web" {
            for port in [ECHO_PORT, BANNER_PORT] {
                arguments = arguments.with("--tcp-service", format!("127.0.0.1:0=orders:{port}"));
            }
        }
    }
    arguments
        .0
        .extend(options.sidecar_flags.iter().map(OsString::from));
    stage.start(Part {
        name,
        program: &programs.sidecar,
        arguments: arguments.0,
        place: &plan.place(),
    })?;
    Ok(())
}

async fn wait_for_sidecar(stage: &mut Stage, plan: &Plan, app: App) -> Result<Workload, Failure> {
    let name = sidecar_name(plan.name);
    let ready: SidecarReady = stage.ready(&name).await?;
    Ok(Workload {
        name: plan.name,
        place: plan.place(),
        service: plan.service(),
        app: app.http,
        sidecar: Sidecar {
            pid: stage.pid(&name),
            outbound: plan.reached(ready.outbound),
            inbound: plan.reached(ready.inbound),
            mesh: plan.reached(ready.mesh),
            admin: ready.admin,
            tcp_services: ready.tcp_services,
            workload_api: ready.workload_api,
        },
    })
}

fn sidecar_name(workload: &str) -> String {
    format!("sidecar-{workload}")
}

/// A command line in the making.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn with(mut self, flag: &str, value: impl AsRef<Path>) -> Self {
        self.0.push(flag.into());
        self.0.push(value.as_ref().into());
        self
    }
}
