//! What the demo tries, one after the other, and what it makes of each answer.

mod judge;
mod tokens;
mod try_out;

use std::net::SocketAddr;

use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::{SpiffeId, TrustDomain};

use self::judge::Outcome;
use super::client::Route;
use super::documents::{self, BANNER_PORT, ECHO_PORT, GRPC_PORT, SERVICE_PORT};
use super::issuer::Issuer;
use super::mesh::{Mesh, Workload};
use super::place::Place;
use super::wire::Sniffer;
use crate::progress::Progress;

/// One thing tried.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) tried: &'static str,
    pub(super) expected: &'static str,
    pub(super) got: String,
    pub(super) why: String,
    pub(super) ok: bool,
}

impl Check {
    fn of(
        name: &'static str,
        tried: &'static str,
        expected: &'static str,
        outcome: Outcome,
    ) -> Self {
        let Outcome { ok, got, why } = outcome;
        Self {
            name,
            tried,
            expected,
            got,
            why,
            ok,
        }
    }
}

/// Who tries what from where.
struct Attempt<'a> {
    mesh: &'a Mesh,
    web: &'a Workload,
    orders: &'a Workload,
    payments: &'a Workload,
    /// A text that no packet between sidecars may show.
    marker: String,
    /// A text that an outsider sends in plaintext.
    outsider_marker: String,
}

/// Tries everything.
pub(super) async fn run(mesh: &Mesh, issuer: &Issuer) -> Vec<Check> {
    let _progress = Progress::start("sending traffic");
    let (Some(web), Some(orders), Some(payments)) = (
        mesh.workload("web"),
        mesh.workload("orders"),
        mesh.workload("payments"),
    ) else {
        return Vec::new();
    };
    let attempt = Attempt {
        mesh,
        web,
        orders,
        payments,
        marker: marker("inside"),
        outsider_marker: marker("outside"),
    };
    let sniffer = mesh
        .captured
        .then(|| Sniffer::start(&[attempt.marker.clone(), attempt.outsider_marker.clone()]));
    let mut checks = attempt.all().await;
    checks.extend(attempt.tokens(issuer).await);
    if let Some(sniffer) = sniffer {
        let seen = sniffer.and_then(Sniffer::stop);
        checks.push(Check::of(
            "no-plaintext-on-the-wire",
            "every packet between the workloads, looked into",
            "no byte of the applications' plaintext",
            judge::wire(seen),
        ));
    }
    checks.push(Check::of(
        "latency",
        "400 requests on one connection, through the mesh and straight to the app",
        "all answered",
        attempt.latency().await,
    ));
    checks
}

impl Attempt<'_> {
    async fn all(&self) -> Vec<Check> {
        vec![
            Check::of(
                "web-to-orders",
                "web calls orders over HTTP",
                "200 over mTLS, orders told that web calls",
                self.web_to_orders().await,
            ),
            Check::of(
                "forged-identity-header",
                "web claims in a header to be payments",
                "the claim is removed, orders told that web calls",
                self.forged_header().await,
            ),
            Check::of(
                "web-to-payments",
                "web calls payments over HTTP",
                "403, payments never hears of it",
                self.web_to_payments().await,
            ),
            Check::of(
                "orders-to-payments",
                "orders calls payments over HTTP",
                "200 over mTLS, payments told that orders calls",
                self.orders_to_payments().await,
            ),
            Check::of(
                "outsider-plaintext",
                "an outsider calls orders in plaintext",
                "refused",
                self.outsider_plaintext().await,
            ),
            Check::of(
                "outsider-without-certificate",
                "an outsider speaks TLS to orders' mesh port, without a certificate",
                "refused",
                self.outsider_without_certificate().await,
            ),
            Check::of(
                "tcp-echo",
                "web sends 256 KiB over plain TCP to orders' echo, then ends its side",
                "the same bytes back, then the end",
                self.tcp_echo().await,
            ),
            Check::of(
                "grpc",
                "web calls the gRPC health service of orders",
                "SERVING",
                self.grpc().await,
            ),
            Check::of(
                "server-speaks-first",
                "web connects to a service that sends the first bytes, and says nothing",
                "its greeting",
                self.server_speaks_first().await,
            ),
            Check::of(
                "upgrade",
                "web upgrades a connection to orders to a WebSocket",
                "101, then the same bytes back",
                self.upgrade().await,
            ),
        ]
    }

    /// How an application at `from` reaches a service's HTTP port.
    fn route(&self, from: &Workload, to: &Workload, port: u16) -> Route {
        let authority = if port == SERVICE_PORT {
            to.service.clone()
        } else {
            format!("{}:{port}", to.service)
        };
        match virtual_address(to, port) {
            Some(address) if self.mesh.captured => Route {
                place: from.place.clone(),
                address,
                authority,
            },
            _ => Route {
                place: Place::Here,
                address: from.sidecar.outbound,
                authority,
            },
        }
    }

    /// How an application at web reaches an opaque service of orders.
    fn opaque(&self, port: u16) -> Result<(Place, SocketAddr), String> {
        if self.mesh.captured {
            return virtual_address(self.orders, port)
                .map(|address| (self.web.place.clone(), address))
                .ok_or_else(|| "orders has no virtual address".to_owned());
        }
        let name = format!("{}:{port}", self.orders.service);
        self.web
            .sidecar
            .tcp_services
            .get(&name)
            .map(|address| (Place::Here, *address))
            .ok_or_else(|| format!("web's sidecar says nothing of a listener for {name}"))
    }

    /// Where the application of orders is when nothing is in between.
    fn direct(&self) -> Option<Route> {
        let app: SocketAddr = self.orders.app.parse().ok()?;
        let address = if self.mesh.captured {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), app.port())
        } else {
            app
        };
        Some(Route {
            place: self.orders.place.clone(),
            address,
            authority: self.orders.service.clone(),
        })
    }

    /// The roots of the demo's mesh, which are no secret.
    fn bundles(&self) -> Result<TrustBundles, String> {
        let pem =
            std::fs::read(&self.mesh.control_api.ready.trust_bundle).map_err(|e| e.to_string())?;
        let domain = TrustDomain::new(super::TRUST_DOMAIN).map_err(|e| e.to_string())?;
        let bundle = TrustBundle::from_pem(domain, &pem).map_err(|e| e.to_string())?;
        let mut bundles = TrustBundles::default();
        bundles.insert(bundle).map_err(|e| e.to_string())?;
        Ok(bundles)
    }

    fn identity_of_orders() -> Result<SpiffeId, String> {
        SpiffeId::parse(&documents::spiffe_id("orders")).map_err(|e| e.to_string())
    }
}

fn virtual_address(workload: &Workload, port: u16) -> Option<SocketAddr> {
    workload
        .service
        .parse()
        .ok()
        .map(|ip| SocketAddr::new(ip, port))
}

/// A text that occurs nowhere else.
fn marker(what: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!(
        "{what}-{:016x}{:016x}",
        RandomState::new().hash_one(1),
        RandomState::new().hash_one(2)
    )
}

/// Ports used by what is tried.
const GRPC: u16 = GRPC_PORT;
const ECHO: u16 = ECHO_PORT;
const BANNER: u16 = BANNER_PORT;
