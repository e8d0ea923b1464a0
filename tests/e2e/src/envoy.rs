//! Envoy, configured from a file, with whatever ports it is given.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{PATIENCE, http, venv};

/// The type URL of one of Envoy's messages.
#[must_use]
pub fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{name}"));
    fields
}

/// What every secret is asked for by: SDS from the cluster `sds`.
#[must_use]
pub fn secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
            },
        },
    })
}

/// TLS with our certificate towards somebody who has to prove `peer`.
#[must_use]
pub fn common_tls(roots: &str, peer: &str, alpn: &[&str]) -> Value {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": alpn,
        "tls_certificate_sds_secret_configs": [secret("default")],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
            },
            "validation_context_sds_secret_config": secret(roots),
        },
    })
}

/// A cluster with one endpoint at an address, or at a Unix socket.
#[must_use]
pub fn cluster(name: &str, address: &Value, http2: bool, tls: Option<Value>) -> Value {
    let protocol = if http2 {
        "http2_protocol_options"
    } else {
        "http_protocol_options"
    };
    let mut explicit = json!({});
    explicit[protocol] = json!({});
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                json!({"explicit_http_config": explicit}),
            ),
        },
    });
    if let Some(tls) = tls {
        let config = typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            json!({"common_tls_context": tls}),
        );
        cluster["transport_socket"] =
            json!({"name": "envoy.transport_sockets.tls", "typed_config": config});
    }
    cluster
}

/// A TCP address as Envoy writes it.
#[must_use]
pub fn tcp(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A Unix socket's address as Envoy writes it.
#[must_use]
pub fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path}})
}

/// An HTTP listener with routes; plaintext unless `tls` says how clients prove themselves.
#[must_use]
pub fn listener(name: &str, routes: &Value, tls: Option<Value>) -> Value {
    let manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": name,
            "codec_type": "AUTO",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": true},
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({})),
            }],
        }),
    );
    chain(
        name,
        "envoy.filters.network.http_connection_manager",
        &manager,
        tls,
    )
}

/// A listener that passes the bytes inside TLS to a cluster.
#[must_use]
pub fn tcp_listener(name: &str, cluster: &str, tls: Value) -> Value {
    let proxy = typed(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": name, "cluster": cluster}),
    );
    chain(name, "envoy.filters.network.tcp_proxy", &proxy, Some(tls))
}

fn chain(name: &str, filter: &str, config: &Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [{"name": filter, "typed_config": config}]});
    if let Some(tls) = tls {
        let config = typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            json!({"common_tls_context": tls, "require_client_certificate": true}),
        );
        chain["transport_socket"] =
            json!({"name": "envoy.transport_sockets.tls", "typed_config": config});
    }
    json!({
        "name": name,
        "stat_prefix": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [chain],
    })
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    admin: SocketAddr,
    directory: PathBuf,
}

impl Envoy {
    /// Starts it in `directory` with listeners and clusters, and returns once all of them work.
    #[must_use]
    pub fn start(directory: &Path, listeners: &[Value], clusters: &[Value]) -> Self {
        let config = json!({
            "node": {"id": "test", "cluster": "test"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        });
        let file = directory.join("envoy.json");
        fs::write(&file, config.to_string()).expect("written");
        let admin_file = directory.join("envoy-admin");
        let log = fs::File::create(directory.join("envoy.log")).expect("a log");
        let child = Command::new(venv::programs().join("envoy"))
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let mut envoy = Self {
            child,
            admin: ([127, 0, 0, 1], 0).into(),
            directory: directory.to_owned(),
        };
        envoy.until("it writes where its admin interface is", |envoy| {
            let text = fs::read_to_string(&admin_file).unwrap_or_default();
            text.trim().parse().map(|admin| envoy.admin = admin).is_ok()
        });
        envoy.until("it is ready", |envoy| {
            http::get(envoy.admin, "localhost", "/ready", "").status == 200
        });
        envoy
    }

    /// Where a listener really listens.
    #[must_use]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let answer = http::get(self.admin, "localhost", "/listeners?format=json", "");
        let listeners: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let found = listeners["listener_statuses"]
            .as_array()
            .and_then(|all| all.iter().find(|l| l["name"] == listener))
            .unwrap_or_else(|| panic!("no {listener} in {listeners}"));
        let socket = &found["local_address"]["socket_address"];
        let port = socket["port_value"].as_u64().expect("a port");
        ([127, 0, 0, 1], u16::try_from(port).expect("a port")).into()
    }

    /// A counter or gauge by its name.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        let path = format!("/stats?filter=^{name}$");
        let text = http::get(self.admin, "localhost", &path, "").text();
        let value = text
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        value.parse().unwrap_or(0)
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !condition(self) {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("Envoy ended ({status}): {}", self.log());
            }
            assert!(
                std::time::Instant::now() < end,
                "Envoy: never happened: {what}: {}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("envoy.log")).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
